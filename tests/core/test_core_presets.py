# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from kofn.controller.core import Game, InputError, arena, load_game

if TYPE_CHECKING:
    from pathlib import Path

GAME = """
gamma = 0.5
horizon = 7
P_g = [[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [1.0, 0.0]]]
r_g = [[1.0, 0.0], [0.0, 2.0]]
P_l = [[[[0.8, 0.2]], [[0.3, 0.7]]], [[[1, 0]], [[0, 1]]]]
r_l = [[[0.0], [1.0]], [[2], [3]]]
"""


def test_the_ring_tables_are_those_of_the_text() -> None:
    game = load_game("ring-paper")
    e = np.exp
    assert np.isclose(game.P_g[1, 3, 3], e(3) / (e(3) + e(0.5) + 3))
    assert np.isclose(game.P_g[2, 2, 2], e(3.5) / (e(3.5) + 4))
    # From zone 4, action +1 aims at zone 0, the target is zone 2.
    assert np.isclose(game.P_l[2, 4, 1, 0], e(1.5) / (e(3.5) + e(1.5) + e(0.3) + 2))
    assert np.isclose(game.P_l[2, 0, 2, 4], game.P_l[2, 4, 1, 0])
    assert game.r_l[3, 3].tolist() == [10, 10.5, 9.7]
    assert np.isclose(game.r_l[0, 4, 0], 1.0)
    assert game.r_g[0].tolist() == [4, 3, 2, 1, 0]
    assert (game.gamma, game.horizon, game.initial.alpha) == (0.95, 100, 0.3)


def test_the_ring_variants_differ_in_what_the_locals_see() -> None:
    released, current = load_game("ring-released"), load_game("ring-current")
    assert (released.local_sees, current.local_sees) == ("next", "current")
    assert np.all(released.r_g == 1)
    assert released.horizon == current.horizon == 50
    assert np.array_equal(released.P_l, current.P_l)


def test_arena_robots_stay_almost_surely_and_arrive_often() -> None:
    game = load_game("arena")
    assert np.isclose(game.P_l[0, 2, 0, 2], 0.98)
    assert np.allclose(game.P_l[0, 2, 0, [1, 3]], 0.01)
    assert np.isclose(game.P_l[4, 4, 1, 0], 0.7)
    assert np.isclose(game.P_l[4, 0, 2, 4], 0.7)
    assert np.isclose(game.P_l[4, 0, 2, 0], 0.3)
    assert np.all(game.P_l == game.P_l[:1])
    assert game.local_sees == "current"
    assert arena(zones=7, move_success=0.5).P_l[0, 0, 1, 1] == 0.5
    for bad, message in (
        ({"zones": 2}, "zones 2 is not a whole number from 3"),
        ({"move_success": 1.2}, "move_success 1.2"),
        ({"drift": -0.1}, "drift -0.1"),
    ):
        with pytest.raises(InputError, match=message):
            arena(**bad)


def test_the_target_of_the_arena_follows_some_calls_and_drifts_by_itself() -> None:
    P_g = arena(call_success=0.4, drift=0.1).P_g
    assert np.isclose(P_g[0, 3, 3], 0.9 * 0.4 + 0.1 / 5)
    assert np.isclose(P_g[0, 3, 0], 0.9 * 0.6 + 0.1 / 5)
    assert np.isclose(P_g[0, 3, 1], 0.1 / 5)
    assert np.isclose(P_g[2, 2, 2], 0.9 + 0.1 / 5)


def test_a_toml_game_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GAME + "[initial]\nalpha = 0.4\n")
    game = load_game(path)
    assert game.P_g[1, 1].tolist() == [1, 0]
    assert (game.gamma, game.horizon, game.initial.alpha, game.name) == (0.5, 7, 0.4, "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GAME + "gama = 1\n", "unknown key gama; known keys are P_g, r_g"),
        (
            GAME + "[initial]\nbeta = 1\n",
            "unknown key initial.beta; known keys are s_g, s_l, alpha",
        ),
        (GAME + "initial = 3\n", "initial is not a table"),
        (GAME + "[initial]\nalpha = 'x'\n", "initial alpha 'x'"),
        (GAME.replace("gamma = 0.5", ""), "key gamma is missing"),
        (GAME.replace("[0.3, 0.7]", "[0.3, 0.6]"), r"P_l\[0, 1, 0\] sums to 0\.9, not 1"),
        ("P_g = [", "not valid TOML"),
    ],
)
def test_a_bad_toml_game_names_file_and_fault(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_game(str(path))
    assert "bad.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_game_comes_from_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "games_for_a_test.py").write_text(
        "from kofn.controller.core import arena\n"
        "def six():\n    return arena(zones=6)\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    game = load_game("games_for_a_test:six")
    assert isinstance(game, Game)
    assert game.n_local == 6
    with pytest.raises(InputError, match="returned int, not a Game"):
        load_game("games_for_a_test:wrong")
    with pytest.raises(InputError, match="has no function 'none'"):
        load_game("games_for_a_test:none")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ringg", "unknown game 'ringg': not a preset .ring-paper, ring-released, ring-current"),
        ("no_such_module:f", "cannot import module 'no_such_module'"),
        ("missing.toml", "cannot read game missing.toml"),
    ],
)
def test_unknown_games_are_refused(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_game(source)
