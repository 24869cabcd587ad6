# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import InitialLaw, InputError, Policy, g_learn, load_game, rollout
from kofn.controller.core.binning import Binned, bin_simulator
from kofn.controller.core.bins import BoxBins, FunctionBins
from kofn.controller.core.continuous import TableDispatcher, play_continuous

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray, Game, IntArray


class Chain:
    """A finite game in disguise: state j is any number in [j, j + 1)."""

    def __init__(self, game: Game, alpha: float = 0.0) -> None:
        self.game, self.alpha = game, alpha

    def _hide(self, rng: np.random.Generator, index: npt.ArrayLike) -> FloatArray:
        whole = np.asarray(index)
        hidden: FloatArray = whole + rng.random(whole.shape)
        return hidden

    def reset(
        self, rng: np.random.Generator, episodes: int, n: int
    ) -> tuple[FloatArray, FloatArray]:
        s_g = rng.integers(self.game.n_global, size=episodes)
        law = np.full((episodes, self.game.n_local), 1 / self.game.n_local)
        if self.alpha:
            law = rng.dirichlet(np.full(self.game.n_local, self.alpha), episodes)
        s_l = (law.cumsum(axis=1)[:, None] < rng.random((episodes, n, 1))).sum(axis=2)
        s_l = np.minimum(s_l, self.game.n_local - 1)
        return self._hide(rng, s_g), self._hide(rng, s_l)

    def step(
        self,
        rng: np.random.Generator,
        s_g: FloatArray,
        s_l: FloatArray,
        a_g: FloatArray,
        a_l: IntArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        g, j, a = s_g.astype(int), s_l.astype(int), a_g.astype(int)
        next_g = (self.game.P_g[g, a].cumsum(axis=1) < rng.random((len(g), 1))).sum(axis=1)
        rows = self.game.P_l[g[:, None], j, a_l].cumsum(axis=2)
        next_l = (rows < rng.random((*j.shape, 1))).sum(axis=2)
        next_g = np.minimum(next_g, self.game.n_global - 1)
        next_l = np.minimum(next_l, self.game.n_local - 1)
        return (
            self._hide(rng, next_g),
            self._hide(rng, next_l),
            self.game.r_g[g, a],
            self.game.r_l[g[:, None], j, a_l],
        )


def bin_chain(chain: Any, game: Game, **given_: Any) -> Binned:
    settings_: dict[str, Any] = {
        "n": 30,
        "gamma": game.gamma,
        "horizon": 12,
        "samples": 500,
        **given_,
    }
    return bin_simulator(
        chain,
        BoxBins(np.arange(game.n_global + 1.0)),
        BoxBins(np.arange(game.n_local + 1.0)),
        np.arange(float(game.n_global_actions)),
        game.n_local_actions,
        **settings_,
    )


def test_a_finite_chain_is_recovered_with_its_counts(random_game: Callable[..., Game]) -> None:
    game = random_game(seed=3, S_g=3, A_g=2, S_l=4, A_l=3)
    found = bin_chain(Chain(game), game, samples=4000)
    assert np.all(found.counts_g.sum(axis=-1) == 4000)
    assert np.all(found.counts_l.sum(axis=-1) >= 4000)
    for P, counts, truth in (
        (found.game.P_g, found.counts_g, game.P_g),
        (found.game.P_l, found.counts_l, game.P_l),
    ):
        total = counts.sum(axis=-1, keepdims=True)
        assert np.allclose(P, counts / total)
        # Five standard errors: more than one false alarm in 10^4 runs of all entries is unlikely.
        assert np.all(np.abs(P - truth) <= 5 * np.sqrt(truth * (1 - truth) / total) + 1e-9)
    assert np.allclose(found.game.r_g, game.r_g)
    assert np.allclose(found.game.r_l, game.r_l)
    assert (found.game.gamma, found.game.horizon) == (game.gamma, 12)


def test_more_draws_than_pairs_still_give_each_pair_its_turn(
    random_game: Callable[..., Game],
) -> None:
    game = random_game(S_g=2, A_g=5, S_l=2, A_l=1)
    found = bin_chain(Chain(game), game, samples=7)
    assert found.counts_g.sum(axis=-1).tolist() == [[7] * 5] * 2
    assert found.counts_l.sum(axis=-1).min() >= 7


def test_the_seed_decides_the_game(random_game: Callable[..., Game]) -> None:
    game = random_game()
    first, again, other = (bin_chain(Chain(game), game, seed=seed).game for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256


def test_starts_that_look_alike_give_independent_agents(random_game: Callable[..., Game]) -> None:
    game = random_game()
    law = bin_chain(Chain(game), game, starts=400).game.initial
    assert law.alpha is None
    assert law.s_l is not None
    assert np.allclose(law.s_l, 1 / 3, atol=0.03)


def test_starts_that_differ_give_the_dirichlet_law_of_their_concentration(
    random_game: Callable[..., Game],
) -> None:
    game = random_game()
    found = bin_chain(Chain(game, alpha=0.3), game, starts=4000)
    assert found.game.initial.alpha == pytest.approx(0.3, rel=0.1)
    assert found.fields.shape == (4000, 3)
    assert np.allclose(found.fields.sum(axis=1), 1)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_a_drawn_state_lies_in_its_bin(sides: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = [np.cumsum(0.1 + rng.random(side + 1)) for side in sides]
    for bins in (BoxBins(edges), BoxBins(edges[0])):
        wanted = rng.integers(bins.size, size=(4, 5))
        states = bins.draw(rng, wanted)
        assert states.shape == ((4, 5, len(sides)) if bins.is_vector else (4, 5))
        assert np.array_equal(bins.index(states), wanted)


def test_states_outside_the_edges_belong_to_the_outermost_bins() -> None:
    bins = BoxBins.equal(-2.0, 2.0, 5)
    assert bins.index(np.array([-9.0, -2.0, -1.2, 0.0, 2.0, 9.0])).tolist() == [0, 0, 1, 2, 4, 4]
    square = BoxBins.equal([0.0, 0.0], [1.0, 3.0], [2, 3])
    assert square.size == 6
    assert square.index(np.array([[0.9, 1.5], [-1.0, 7.0]])).tolist() == [4, 2]


def test_vector_states_and_actions_are_binned() -> None:
    class Plane:
        def reset(self, rng: np.random.Generator, episodes: int, n: int) -> Any:
            return rng.random((episodes, 1)), rng.random((episodes, n, 2))

        def step(
            self, rng: np.random.Generator, s_g: Any, s_l: Any, a_g: Any, a_l: IntArray
        ) -> Any:
            # The target goes where a_g says, action 1 takes an agent to the top right corner.
            corner = np.where(a_l[..., None] == 1, 0.9, s_l)
            return a_g[:, :1], corner, a_g.sum(axis=1), s_l.sum(axis=2)

    found = bin_simulator(
        Plane(),
        BoxBins([[0.0, 0.5, 1.0]]),
        BoxBins.equal([0.0, 0.0], [1.0, 1.0], 2),
        [[0.1, 1.0], [0.8, 2.0]],
        2,
        n=10,
        gamma=0.9,
        samples=50,
    )
    assert found.game.P_g[:, 0].tolist() == [[1, 0]] * 2
    assert found.game.P_g[:, 1].tolist() == [[0, 1]] * 2
    assert np.allclose(found.game.r_g, [[1.1, 2.8]] * 2)
    assert np.array_equal(found.game.P_l[0, :, 0], np.eye(4))
    assert np.all(found.game.P_l[:, :, 1, 3] == 1)
    assert np.allclose(found.game.r_l[0, [0, 3], 0], [0.5, 1.5], atol=0.15)


def test_bins_of_a_function_draw_from_the_states_that_random_play_met(
    random_game: Callable[..., Game],
) -> None:
    game = random_game(seed=5)
    parity = FunctionBins(lambda x: (x.astype(int) == 0).astype(int), 2)
    found = bin_simulator(
        Chain(game),
        BoxBins(np.arange(4.0)),
        parity,
        [0.0, 1.0, 2.0],
        2,
        n=5,
        gamma=0.5,
        samples=300,
    )
    drawn = parity.draw(np.random.default_rng(0), np.repeat([0, 1], 200))
    assert np.all(drawn[:200] >= 1)
    assert np.all(drawn[200:] < 1)
    # Bin 1 is state 0 of the chain exactly; bin 0 lumps the others, so it is a mixture of them.
    assert np.allclose(found.game.P_l[:, 1, :, 1], game.P_l[:, 0, :, 0], atol=0.15)


def test_a_policy_plays_in_the_simulator_as_in_the_finite_game_that_it_is(
    random_game: Callable[..., Game],
) -> None:
    """One policy by two routes: counts in `rollout`, continuous agents in `play`."""
    game = random_game(seed=8, initial=InitialLaw(alpha=0.3))
    model = bin_chain(Chain(game, alpha=0.3), game)
    pi_l = game.local_policy(np.random.default_rng(1).dirichlet(np.ones(2), (3, 3)))
    policy = Policy(game, 4, g_learn(game, pi_l, 4).action, pi_l, memory=20.0)
    for memory in ("none", "auto"):
        counts = rollout(game, policy, n=40, k=4, horizon=12, rollouts=40_000, memory=memory)
        played = play_continuous(
            model, TableDispatcher(policy, 4, memory), k=4, n=40, episodes=1000, seed=3
        )
        assert abs(played.mean - counts.mean) < 4 * np.hypot(counts.stderr, played.stderr)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoxBins([]), "bins without edges"),
        (lambda: BoxBins([1.0]), "edges 0 are 1 number, but a bin takes 2"),
        (lambda: BoxBins([0.0, np.inf]), r"edges 0\[1\] is inf, not a finite number"),
        (lambda: BoxBins([0.0, 1.0, 1.0]), "bin 1 of component 0 is empty"),
        (lambda: BoxBins([[0.0, 1.0], [2.0, 1.0]]), "bin 0 of component 1 is empty"),
        (lambda: BoxBins.equal(0.0, 1.0, 0), "number of bins 0 is not a whole number"),
        (lambda: BoxBins.equal(1.0, 0.0, 3), "bin 0 of component 0 is empty"),
        (lambda: BoxBins.equal([0.0, 0.0], [1.0, 1.0, 1.0], [1, 2]), "do not fit together"),
        (lambda: BoxBins([[0.0, 1.0]]).index(np.zeros((3, 2))), "vectors of 1 component"),
        (lambda: FunctionBins(lambda x: x, 0), "number of bins 0 is not"),
        (lambda: FunctionBins(lambda x: x, 2).index(np.zeros(1)), "float64, not whole numbers"),
        (
            lambda: FunctionBins(lambda x: x.astype(int), 2).index(np.array([5.0])),
            r"5, not one of 0\.\.1",
        ),
        (lambda: FunctionBins(lambda x: x.astype(int), 2).learn(np.zeros(4)), "bin 1 of 2 is empt"),
        (
            lambda: FunctionBins(lambda x: np.zeros(3, int), 1).learn(np.zeros(4)),
            r"shape \(3,\) for states of shape \(4,\)",
        ),
        (
            lambda: FunctionBins(lambda x: x, 2).draw(np.random.default_rng(), np.zeros(1, int)),
            "after `learn` only",
        ),
    ],
)
def test_bad_bins_are_refused_in_one_sentence(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"samples": 0}, "samples 0 is not"),
        ({"starts": 1.5}, r"starts 1\.5 is not"),
        ({"n": 0}, "fleet size 0 is not"),
        ({"gamma": 1.0}, "gamma 1.0"),
        ({"horizon": 0}, "horizon 0"),
        ({"seed": -1}, "seed -1 is not"),
    ],
)
def test_bad_settings_are_refused(
    random_game: Callable[..., Game], given_: dict[str, Any], message: str
) -> None:
    game = random_game()
    with pytest.raises(InputError, match=message):
        bin_chain(Chain(game), game, **given_)


@pytest.mark.parametrize(
    ("call", "part", "change", "message"),
    [
        ("reset", 0, lambda x: x[:-1], r"reset returned s_g of shape \(299,\)"),
        ("reset", 1, lambda x: x[:, :-1], r"reset returned s_l of shape \(300, 29\)"),
        ("reset", 1, lambda x: x * np.nan, "s_l with a value that is not finite"),
        ("reset", 0, lambda x: "here", r"s_g that is no array"),
        ("step", 0, lambda x: x[:, None], "step returned s_g of shape"),
        ("step", 1, lambda x: x.T, "step returned s_l of shape"),
        ("step", 2, lambda x: 1.0, r"step returned r_g of shape \(\)"),
        ("step", 3, lambda x: x.mean(axis=1), "step returned r_l of shape"),
        ("step", None, lambda x: x[:3], "step did not return a tuple of 4 arrays"),
    ],
)
def test_a_simulator_that_returns_the_wrong_thing_is_told_what_is_wrong(
    random_game: Callable[..., Game],
    call: str,
    part: int | None,
    change: Callable[[Any], Any],
    message: str,
) -> None:
    class Broken(Chain):
        def reset(self, *args: Any) -> Any:
            return self._break("reset", super().reset(*args))

        def step(self, *args: Any) -> Any:
            return self._break("step", super().step(*args))

        def _break(self, name: str, result: tuple[Any, ...]) -> Any:
            if name != call:
                return result
            if part is None:
                return change(result)
            return (*result[:part], change(result[part]), *result[part + 1 :])

    game = random_game()
    with pytest.raises(InputError, match=message) as error:
        bin_chain(Broken(game), game)
    assert "\n" not in str(error.value)


def test_other_faults_are_named(random_game: Callable[..., Game]) -> None:
    game = random_game()
    bins = BoxBins(np.arange(4.0))
    for actions in ([], [np.nan], [[[1.0]]], ["left"], [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match="list of global actions"):
            bin_simulator(Chain(game), bins, bins, actions, 2, n=5, gamma=0.9)
    with pytest.raises(InputError, match="vectors of 1 component"):
        bin_simulator(Chain(game), BoxBins([[0.0, 1.0]]), bins, [0.0], 2, n=5, gamma=0.9)
    fine = BoxBins.equal(0.0, 3.0, 10_000)
    with pytest.raises(InputError, match="above the limit"):
        bin_simulator(Chain(game), fine, fine, [0.0], 2, n=5, gamma=0.9)


def test_the_example_is_a_game_for_the_command_line() -> None:
    game = load_game("kofn.controller.core.tracking:game")
    assert (game.n_global, game.n_local, game.n_global_actions) == (20, 20, 21)
    # Action 1 moves an agent up by a quarter of a bin, action 2 down.
    bins = np.arange(20)
    drift = (game.P_l[3, 5:15] * bins).sum(axis=-1) - bins[5:15, None]
    assert np.allclose(drift.mean(axis=0), [0, 0.25, -0.25], atol=0.05)
    # The target that is called to its own place stays and earns.
    assert game.r_g[10, 10] > 4.5
    assert game.P_g[10, 10, 9:12].sum() > 0.99
