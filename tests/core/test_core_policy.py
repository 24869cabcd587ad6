# SPDX-License-Identifier: MIT
from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import Game, InputError, Policy, arena, histogram_rank, load_game
from kofn.controller.core.grid import grid_points

if TYPE_CHECKING:
    from pathlib import Path


def some_policy(game: Game | None = None, seed: int = 0) -> Policy:
    game = game or load_game("ring-released")
    rng = np.random.default_rng(seed)
    return Policy(
        game,
        4,
        rng.integers(0, game.n_global_actions, (game.n_global, grid_points(4, game.n_local))),
        rng.dirichlet(np.ones(game.n_local_actions), (game.n_global, game.n_local)),
        memory=12.5,
        prior=rng.random((game.n_global, game.n_local)),
        provenance={"kind": "test", "seconds": 1.5},
    )


@pytest.mark.parametrize("name", ["ring-paper", "ring-released", "arena"])
def test_a_policy_survives_its_file(tmp_path: Path, name: str) -> None:
    policy = some_policy(load_game(name))
    policy.save(tmp_path / "p.npz")
    again = Policy.load(tmp_path / "p.npz")
    assert again.sha256 == policy.sha256
    assert again.game.sha256 == policy.game.sha256
    assert np.array_equal(again.action, policy.action)
    assert np.array_equal(again.pi_l, policy.pi_l)
    assert np.array_equal(again.prior, policy.prior)
    assert (again.grid, again.memory, again.game.name) == (4, 12.5, name)
    assert again.provenance == policy.provenance
    assert again.to_bytes() == policy.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_equal_policies_have_equal_hashes_and_changes_show() -> None:
    policy = some_policy()
    assert some_policy().sha256 == policy.sha256

    def variant(
        action: npt.NDArray[np.integer] = policy.action,
        pi_l: npt.NDArray[np.float64] = policy.pi_l,
        memory: float | None = policy.memory,
        prior: npt.NDArray[np.float64] | None = policy.prior,
    ) -> str:
        return Policy(policy.game, 4, action, pi_l, memory=memory, prior=prior).sha256

    assert variant() == policy.sha256
    assert variant(memory=13.0) != policy.sha256
    assert variant(memory=None) != policy.sha256
    assert variant(prior=None) != policy.sha256
    assert variant(pi_l=policy.game.uniform_local_policy()) != policy.sha256
    assert variant(action=(policy.action + 1) % 5) != policy.sha256


DATA = some_policy().to_bytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DATA) - 1))
def test_a_truncated_file_is_one_sentence(length: int) -> None:
    with pytest.raises(InputError, match=r"truncated or damaged|is damaged") as error:
        Policy.from_bytes(DATA[:length], source="p.npz")
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_gives_another_policy(position: int, flip: int) -> None:
    damaged = bytearray(DATA)
    damaged[position] ^= flip
    try:
        policy = Policy.from_bytes(bytes(damaged))
    except InputError:
        return
    assert policy.to_bytes() == DATA


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.npz"
    text.write_text("hello")
    with pytest.raises(InputError, match=r"a\.npz is not a kofn policy"):
        Policy.load(text)
    np.savez(tmp_path / "b.npz", x=np.ones(3))
    with pytest.raises(InputError, match="is not a kofn policy"):
        Policy.load(tmp_path / "b.npz")
    header = np.frombuffer(json.dumps({"format": "other"}).encode(), np.uint8)
    np.savez(tmp_path / "c.npz", header=header)
    with pytest.raises(InputError, match=r"c\.npz is not a kofn policy$"):
        Policy.load(tmp_path / "c.npz")
    pickled = io.BytesIO()
    np.savez(pickled, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not a kofn policy"):
        Policy.from_bytes(pickled.getvalue())
    header = np.frombuffer(json.dumps({"format": "kofn-policy", "version": 9}).encode(), np.uint8)
    np.savez(tmp_path / "d.npz", header=header)
    with pytest.raises(InputError, match="format version 9, but 1 to 2 are known"):
        Policy.load(tmp_path / "d.npz")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read policy .*none\.npz"):
        Policy.load(tmp_path / "none.npz")
    with pytest.raises(InputError, match="cannot write policy"):
        some_policy().save(tmp_path / "no" / "p.npz")


def test_a_policy_for_another_game_is_detected() -> None:
    policy = some_policy(load_game("ring-released"))
    policy.check_game(load_game("ring-released"))
    with pytest.raises(InputError, match=r"made for game ring-released \(\w+\), not for arena"):
        policy.check_game(arena())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": np.zeros((5, 3), int)}, r"action has shape \(5, 3\)"),
        ({"action": np.zeros((5, 70))}, "not whole numbers"),
        ({"action": np.full((5, 70), 5)}, "action 5 is not one of the 5"),
        ({"action": np.full((5, 70), -1)}, "action -1 is not"),
        ({"grid": 0}, "grid size 0"),
        ({"memory": -1.0}, "memory -1.0"),
        ({"memory": 0.5}, "memory 0.5 is not a number of at least 1"),
        ({"pi_l": np.ones((5, 5, 3))}, r"pi_l\[0, 0\] sums to 3"),
        ({"prior": -np.ones((5, 5))}, r"prior\[0, 0\] is -1, not a number of agents"),
        ({"prior": np.ones((4, 5))}, r"prior has shape \(4, 5\)"),
    ],
)
def test_bad_parts_are_refused(change: dict[str, object], message: str) -> None:
    good = some_policy()
    parts: dict[str, object] = {"grid": 4, "action": good.action, "pi_l": good.pi_l, **change}
    with pytest.raises(InputError, match=message):
        Policy(good.game, **parts)  # type: ignore[arg-type]


def test_a_histogram_of_the_grid_is_looked_up_as_it_is() -> None:
    full = some_policy()
    policy = Policy(full.game, 4, full.action, full.pi_l)
    for c in ([4, 0, 0, 0, 0], [1, 1, 0, 2, 0], [0, 0, 0, 0, 4]):
        assert policy.decide(2, c) == full.action[2, histogram_rank(c)]
        assert policy.decide(2, np.array(c) * 7.0) == full.action[2, histogram_rank(c)]


def test_the_prior_pulls_a_small_poll_and_not_a_long_memory() -> None:
    game = load_game("ring-released")
    action = np.zeros((5, 5), int)
    action[:, :] = [histogram_rank(c) for c in np.eye(5, dtype=int)]
    prior = np.zeros((5, 5))
    prior[0, 1] = 3
    policy = Policy(
        game, 1, np.arange(5)[None].repeat(5, 0), game.uniform_local_policy(), prior=prior
    )
    usual, seen = histogram_rank([0, 1, 0, 0, 0]), histogram_rank([1, 0, 0, 0, 0])
    assert policy.decide(0, [1, 0, 0, 0, 0]) == usual
    assert policy.decide(0, [30, 0, 0, 0, 0]) == seen
    assert policy.decide(1, [1, 0, 0, 0, 0]) == seen
    assert policy.decide(0, [1, 0, 0, 0, 0], remembered=True) == seen


def with_bare(policy: Policy) -> Policy:
    bare = Policy(policy.game, 2, np.ones((5, 15), int), policy.game.uniform_local_policy())
    return Policy(
        policy.game,
        policy.grid,
        policy.action,
        policy.pi_l,
        memory=policy.memory,
        prior=policy.prior,
        bare=bare,
    )


def test_a_second_pair_is_played_where_nothing_is_remembered() -> None:
    policy = with_bare(some_policy())
    assert policy.bare is not None
    assert policy.in_play(5) is policy
    assert policy.in_play(5, "none") is policy.bare
    assert policy.in_play(13) is policy.bare  # a poll larger than the memory
    plain = some_policy()
    assert plain.in_play(5, "none") is plain


def test_a_second_pair_survives_the_file_and_is_part_of_the_identity() -> None:
    policy = with_bare(some_policy())
    again = Policy.from_bytes(policy.to_bytes())
    assert again.bare is not None
    assert policy.bare is not None
    assert again.sha256 == policy.sha256 != some_policy().sha256
    assert again.bare.sha256 == policy.bare.sha256
    assert again.to_bytes() == policy.to_bytes()


def test_a_policy_without_a_second_pair_is_written_as_version_1() -> None:
    for policy, version in ((some_policy(), 1), (with_bare(some_policy()), 2)):
        with np.load(io.BytesIO(policy.to_bytes())) as archive:
            assert json.loads(archive["header"].tobytes())["version"] == version


def test_a_second_pair_is_bare_itself_and_for_the_same_game() -> None:
    policy = some_policy()
    with pytest.raises(InputError, match="has a memory or such a pair of its own"):
        Policy(policy.game, 4, policy.action, policy.pi_l, bare=policy)
    with pytest.raises(InputError, match="made for game arena"):
        Policy(policy.game, 4, policy.action, policy.pi_l, bare=Policy.uniform(arena(), 2))


def test_memory_words_and_numbers() -> None:
    policy = some_policy()
    assert policy.memory_cap(5) == 12.5
    assert policy.memory_cap(5, "none") == 5
    assert policy.memory_cap(5, None) == 5
    assert policy.memory_cap(5, 3) == 5
    assert policy.memory_cap(5, "40") == 40
    assert [policy.remembers(k) for k in (5, 12, 13)] == [True, True, False]
    for bad in (0.999, 1e-300, 0, -3, "0.5", float("nan"), float("inf")):
        with pytest.raises(InputError, match="is not a number of at least 1"):
            policy.memory_cap(5, bad)
    with pytest.raises(InputError, match="not 'auto', 'none' or a number"):
        policy.memory_cap(5, "much")


def test_the_uniform_policy_draws_each_action_equally() -> None:
    policy = Policy.uniform(arena(), 5)
    assert np.all(policy.pi_l == 1 / 3)
    assert not policy.action.any()


def test_loading_a_policy_does_not_import_numba() -> None:
    code = (
        "import sys\n"
        "from kofn.controller.core.policy import Policy\n"
        "from kofn.controller.core import Policy as Same, Game, Belief, load_game, histogram_rank\n"
        "assert Policy is Same\n"
        "p = Policy.uniform(load_game('arena'), 3)\n"
        "p.decide(0, [1, 1, 1, 0, 0])\n"
        "Policy.from_bytes(p.to_bytes())\n"
        "assert 'numba' not in sys.modules, 'numba was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_importable() -> None:
    from kofn.controller import core

    for name in core.__all__:
        assert getattr(core, name) is not None
    assert set(core.__all__) <= set(dir(core))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = core.nothing
