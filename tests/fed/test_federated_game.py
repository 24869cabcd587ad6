# SPDX-License-Identifier: MIT
"""The federated game from logged rounds, and learning it inside a run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.fed.devices import TraceSettings, synthetic_devices
from kofn.fed.game import CALLS, FULL, PARTIAL, GameSettings, Shape, build_game, greedy_efforts
from kofn.fed.kernel import RoundLog, posterior
from kofn.fed.selectors.fixed_call import FixedCallSelector
from kofn.fed.selectors.learned import Cancelled, Fit
from kofn.fed.selectors.mean_field import MeanFieldSelector
from kofn.fed.selectors.myopic import MyopicSelector
from kofn.fed.selectors.safe import constant_policy, share_better
from kofn.fed.simulate import Federation, RunRecord, RunSettings, simulate
from kofn.fed.status import FIVE, SEVEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.fed.kernel import Posterior

DEADLINES = [call.deadline for call in CALLS]


def found(log: RoundLog) -> Posterior:
    return posterior(log, DEADLINES, high_worth=1.5)


@pytest.mark.parametrize("bins", [FIVE, SEVEN])
def test_an_empty_log_gives_a_valid_game_of_the_stated_size(bins: Any) -> None:
    shape = Shape(bins, CALLS)
    game = build_game(shape, found(RoundLog(bins, len(CALLS))), GameSettings(), m=10, n=100, k=20)
    assert (game.n_global, game.n_global_actions) == (15, 5)
    assert (game.n_local, game.n_local_actions) == (bins.n_states, 3)
    # The call chosen now is in force next round, whatever the phase does.
    for a in range(5):
        assert game.P_g[shape.state(0, 2), a].nonzero()[0].tolist() == [
            shape.state(0, a),
            shape.state(1, a),
        ]


def test_kernels_go_from_the_prior_to_the_counts() -> None:
    log = RoundLog(FIVE, 5)
    few = found(log)
    assert few.thin == 5 + 10
    for _ in range(400):
        log.move(3, 0, 1)
        log.move(4, FULL, 2)
        log.duration(0, FULL, 1.5)
        log.duration(0, PARTIAL, 0.8)
    many = found(log)
    assert many.rest[3, 1] > 0.98
    assert many.trained[4, FULL, 2] > 0.98
    assert np.allclose(many.rest.sum(axis=1), 1)
    # Slow clients miss a deadline of 1, keep one of 2; partial work keeps both.
    one, two = 0, DEADLINES.index(max(DEADLINES))
    assert many.on_time[one, 0, FULL] < 0.05
    assert many.on_time[two, 0, FULL] > 0.95
    assert many.on_time[one, 0, PARTIAL] > 0.95
    assert many.thin < few.thin


def test_less_work_is_never_later_and_a_longer_deadline_never_misses_more() -> None:
    log = RoundLog(FIVE, 5)
    rng = np.random.default_rng(0)
    for _ in range(100):
        log.duration(int(rng.integers(2)), int(rng.integers(1, 3)), float(rng.lognormal()))
    on_time = found(log).on_time
    assert np.all(on_time[:, :, PARTIAL] >= on_time[:, :, FULL])
    order = np.argsort(DEADLINES)
    assert np.all(np.diff(on_time[order], axis=0) >= -1e-12)


def test_where_slow_clients_miss_the_deadline_their_best_effort_is_partial() -> None:
    log = RoundLog(FIVE, 5)
    for _ in range(100):
        log.duration(0, FULL, 3.0)
        log.duration(0, PARTIAL, 0.5)
        log.duration(1, FULL, 0.5)
    game = build_game(Shape(FIVE, CALLS), found(log), GameSettings(), m=10, n=100, k=20)
    efforts = greedy_efforts(game).argmax(axis=2)[0]
    assert efforts[1 + FIVE.index(1, 0)] == PARTIAL
    assert efforts[1 + FIVE.index(1, 1)] == FULL


@pytest.mark.parametrize("k", [5, 20, 60, 100])
def test_all_seats_are_filled_on_average(k: int) -> None:
    shares = np.array([0.25, 0.1, 0.2, 0.3, 0.15])
    chance = Shape(FIVE, CALLS).admitted(shares, m=10, n=100, k=k)
    assert chance.min() >= 0
    assert chance.max() <= 1
    # Fewer only where more are wanted than are online.
    assert np.allclose(100 * chance @ shares, 10)
    # Who matches the call trains more often than who does not.
    high_fast = 1 + FIVE.index(1, 1)
    assert chance[3, high_fast] >= chance[3, 1]


def test_a_log_survives_json() -> None:
    log = RoundLog(FIVE, 5)
    log.move(1, 2, 3)
    log.duration(1, 2, float("inf"))
    log.round(0, 2, 1.3, True)
    again = RoundLog(FIVE, 5)
    again.from_state(log.to_state())
    assert again.to_state() == log.to_state()


def run(selector: Any, rounds: int = 16, seed: int = 1) -> RunRecord:
    federation = Federation.make("digits", 40, "dirichlet:0.5", seed=seed)
    fleet = synthetic_devices(federation.names, TraceSettings(), seed=seed)
    settings = RunSettings(m=5, rounds=rounds, hidden=0)
    return simulate(selector, federation, fleet, settings, bins=FIVE, seed=seed)


class Slow(MeanFieldSelector):
    """Learns only when it is allowed to, and notes who waited."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(k=12, warm_up=3, refit_every=50, grid=3, **settings)
        self.allowed, self.ready = threading.Event(), threading.Event()

    def learn_game(self, game: Game, stop: Callable[[], bool]) -> Policy:
        while not self.allowed.wait(0.01):
            if stop():
                raise Cancelled
        learned = super().learn_game(game, stop)
        self.ready.set()
        return learned


def test_a_round_never_waits_for_training_and_the_policy_switches_when_it_is_ready() -> None:
    selector = Slow()
    names = [f"c{i}" for i in range(20)]
    calls = []

    def play(server_round: int) -> None:
        from kofn.fed.selectors import Outcome, Status

        rng = np.random.default_rng(server_round)
        asked = selector.wants(server_round, names, rng).clients
        selector.observe(
            server_round, [Status(name=name, bin=i % 4) for i, name in enumerate(asked)]
        )
        chosen = selector.select(server_round, names, 4, rng)
        calls.append(chosen.call)
        selector.update(
            server_round,
            [
                Outcome(name=name, duration_s=5.0, loss=1.0, samples=9, arrived=True, bin=0)
                for name in chosen.clients
            ],
        )

    selector.register(names)
    # Training is due after the fourth round and is held up: the rounds go on without it.
    for server_round in range(1, 15):
        play(server_round)
    assert selector.fits == 0
    assert all("@0.200" in call for call in calls[1:])
    selector.allowed.set()
    assert selector.ready.wait(150)
    thread = selector._background._thread
    assert thread is not None
    thread.join(60)
    play(15)
    play(16)
    assert selector.fits == 1
    assert "@" not in calls[-1]
    selector.close()


def test_a_run_that_ends_gives_up_training() -> None:
    selector = Slow()
    record = run(selector, rounds=6)
    assert len(record.rounds) == 6
    # `simulate` has closed the selector: the thread is gone, and nothing was adopted.
    assert not selector._background._thread.is_alive()  # type: ignore[union-attr]
    assert selector.fits == 0


@pytest.mark.parametrize("kind", [MeanFieldSelector, MyopicSelector])
def test_learning_in_a_blocking_run_depends_on_the_seed_alone(kind: Any) -> None:
    def once() -> tuple[list[str], list[list[str]]]:
        quick = {"grid": 3, "exchanges": 1} if kind is MeanFieldSelector else {}
        selector = kind(k=12, warm_up=4, refit_every=50, refit="blocking", **quick)
        record = run(selector, rounds=10)
        assert selector.fits == 1
        return [r.call for r in record.rounds], [r.chosen for r in record.rounds]

    first = once()
    assert first == once()
    # The opening, four random calls with their probability, one more that was not announced.
    assert [call.split("@")[1:] for call in first[0][:7]] == [[]] + [["0.200"]] * 5 + [[]]


def paying(extra: float) -> Game:
    """Return a game in which call 1 earns so much more than the others, whatever else happens."""
    game = build_game(Shape(FIVE, CALLS), found(RoundLog(FIVE, 5)), GameSettings(), m=5, n=40, k=12)
    r_g = np.zeros_like(game.r_g)
    r_g[:, 1] = extra
    flat = np.zeros_like(game.r_l)
    return Game(
        game.P_g, r_g, game.P_l, flat, game.gamma, initial=game.initial, horizon=game.horizon
    )


def late_reward() -> Game:
    """Return a game in which call 3, alone, raises the phase, and only the phase pays.

    What is called now is in force next round and raises the phase one round later: the reward is
    two rounds away. The other calls pay 0, but call 1 a little at once.
    """
    shape = Shape(FIVE, CALLS)
    game = paying(0.1)
    P_g = np.zeros_like(game.P_g)
    for phase in range(3):
        for call in range(5):
            after = min(phase + 1, 2) if call == 3 else phase
            for a in range(5):
                P_g[shape.state(phase, call), a, shape.state(after, a)] = 1.0
    r_l = np.zeros_like(game.r_l)
    r_l[shape.state(1, 0) :] = 10.0
    return Game(P_g, game.r_g, game.P_l, r_l, game.gamma, initial=game.initial, horizon=20)


def test_myopic_looks_one_stage_ahead_and_the_learned_rule_further() -> None:
    def call(selector: Any, game: Game) -> int:
        selector.register([f"c{i}" for i in range(40)])
        selector.counts = np.array([2.0, 4.0, 0.0, 3.0, 3.0])
        selector.adopt(Fit(game, selector.learn_game(game, lambda: False), 1))
        start = Shape(FIVE, CALLS).state(0, 0)
        return int(selector.choose(start, start))

    myopic, learned = MyopicSelector(k=12), MeanFieldSelector(k=12, grid=3, exchanges=0)
    # Two stages away: 0.1 at once is all that myopic sees, the learned rule gives it up.
    assert call(myopic, late_reward()) == 1
    assert call(learned, late_reward()) == 3
    # One stage away: call 2 pays 5 when it is in force, call 1 pays 1 at once; 0.9 * 5 > 1.
    game = paying(1.0)
    r_l = np.zeros_like(game.r_l)
    r_l[[Shape(FIVE, CALLS).state(phase, 2) for phase in range(3)]] = 5.0
    near = Game(game.P_g, game.r_g, game.P_l, r_l, game.gamma, initial=game.initial, horizon=20)
    assert call(MyopicSelector(k=12), near) == 2
    assert call(MeanFieldSelector(k=12, grid=3, exchanges=0), near) == 2


def test_a_candidate_is_as_sure_as_the_share_of_drawn_games_in_which_it_earns_more() -> None:
    game = paying(1.0)
    efforts = [PARTIAL, FULL, PARTIAL, FULL]
    known, other = (constant_policy(game, call, efforts) for call in (0, 1))
    good, bad = paying(1.0), paying(-1.0)
    assert share_better(other, known, [good] * 4, n=40, k=12) == 1.0
    assert share_better(other, known, [good, bad, bad, bad], n=40, k=12) == 0.25
    assert share_better(known, known, [good] * 4, n=40, k=12) == 0.0


def test_draws_of_the_posterior_are_spread_around_its_mean_and_narrow_with_rounds() -> None:
    log = RoundLog(FIVE, 5)

    def spread() -> float:
        rng = np.random.default_rng(1)
        drawn = [posterior(log, DEADLINES, high_worth=1.5, rng=rng) for _ in range(300)]
        mean = found(log)
        # Punctuality is held monotone in the effort, draw by draw: that moves its mean.
        for name in ("rest", "trained", "value", "up", "seconds", "shares"):
            draws = np.array([getattr(one, name) for one in drawn])
            # The rarest moves are too rare for their spread to be seen in so few draws.
            near = 5 * draws.std(axis=0) / np.sqrt(300) + 0.01
            assert (np.abs(draws.mean(axis=0) - getattr(mean, name)) <= near).all(), name
        return float(np.std([one.on_time[0, 0, FULL] for one in drawn]))

    before = spread()
    for i in range(100):
        log.duration(0, FULL, 0.5 if i % 2 else 1.5)
    assert spread() < before / 3


@pytest.mark.parametrize(("sure", "used"), [(0.5, False), (0.97, True)])
def test_a_model_that_is_not_surely_better_leaves_the_fixed_call_as_it_was(
    sure: float, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kofn.fed.selectors.learned.share_better", lambda *_, **__: sure)

    class Other(MeanFieldSelector):
        """Has learned something else than the baseline, whatever the log says."""

        def learn_game(self, game: Game, stop: Callable[[], bool]) -> Policy:
            policy = super().learn_game(game, stop)
            return Policy(game, policy.grid, np.full_like(policy.action, 4), policy.pi_l)

    selector = Other(
        k=12, warm_up=3, refit_every=4, refit="blocking", grid=3, exchanges=0, baseline="both"
    )
    got = run(selector, rounds=12)
    fixed = run(FixedCallSelector(k=12, call="both"), rounds=12)
    assert selector.fits == 3
    assert selector.refused == (0 if used else 3)
    same = [a.chosen == b.chosen for a, b in zip(got.rounds, fixed.rounds, strict=True)]
    # The warm-up, too, is played under the baseline.
    assert all(same[:4])
    assert all(same) is not used
    assert [r.call for r in got.rounds[5:]] == (["long"] * 7 if used else ["both"] * 7)


def test_a_baseline_that_is_no_call_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"^there is no call 'most'; known are all, high, "):
        MeanFieldSelector(k=12, baseline="most")
    with pytest.raises(InputError, match="takes no baseline"):
        MyopicSelector(k=12, baseline="both")


def test_a_malicious_status_is_dropped_and_changes_no_choice() -> None:
    from kofn.fed.selectors import Status

    class Hit(MyopicSelector):
        def observe(self, server_round: int, statuses: Any) -> None:
            bad = [
                Status(name=status.name, bin=10**20, loss=float("nan")) for status in statuses[:3]
            ]
            super().observe(server_round, [*statuses, *bad])

    clean = run(MyopicSelector(k=12, warm_up=4, refit="blocking"))
    hit = run(Hit(k=12, warm_up=4, refit="blocking"))
    assert [r.chosen for r in hit.rounds] == [r.chosen for r in clean.rounds]
    assert hit.dropped >= 3
    assert clean.dropped == 0
