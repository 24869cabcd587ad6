# SPDX-License-Identifier: MIT
r"""Ready-made games, and games from files.

`ring`: zones on a ring, one target zone per global state, local actions stay/+1/-1.

.. math::
   P_g(\cdot|s,a) &= softmax(3 [s'=a] + 0.5 [s'=s]) \\
   P_l(\cdot|l,s,a) &= softmax(3.5 [l'=l] + 1.5 [l'=l \pm 1] + 0.3 [l'=s]) \\
   r_l &= (10 \text{ if } l = s \text{ else } 2/(1 + dist(l, s))) + (0, 0.5, -0.3)_a

`ring-paper` is the game of the paper's text, `ring-released` what its released code evaluates, and
`ring-current` the latter with locals that see s_g(t). In `arena` robots stay where they are almost
surely and arrive where they want to go often, and the target does not follow every call; `grid` is
the same on a grid of cells.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from kofn.controller.core._arguments import check_int, check_real, shown
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import FloatArray, Game, InitialLaw

if TYPE_CHECKING:
    from collections.abc import Callable

#: Local actions of the ring: stay, one zone on, one zone back.
MOVES = (0, 1, -1)

#: Most zones of an arena or a grid: a table of the kernel grows with their third power.
MAX_ZONES = 200

#: Reward that a move costs a robot of the arena, whether it arrives or not.
MOVE_COST = 0.2


def _softmax(logits: FloatArray) -> FloatArray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return result


def _near_target(zones: int) -> FloatArray:
    """Return the reward of an agent by target and zone: 10 in it, 2 / (1 + distance) elsewhere."""
    apart = np.abs(np.arange(zones)[:, None] - np.arange(zones)[None, :])
    distance = np.minimum(apart, zones - apart)
    reward: FloatArray = np.where(distance == 0, 10.0, 2.0 / (1.0 + distance))
    return reward


def _ring(variant: Literal["paper", "released", "current"]) -> Game:
    zones = 5
    eye = np.eye(zones)
    P_g = _softmax(3.0 * eye[None, :, :] + 0.5 * eye[:, None, :])
    r_l = _near_target(zones)[:, :, None] + np.array([0.0, 0.5, -0.3])
    P_l = np.empty((zones, zones, len(MOVES), zones))
    for a, move in enumerate(MOVES):
        logits = 3.5 * eye[None] + 0.3 * eye[:, None, :]
        if move:
            logits = logits + 1.5 * np.roll(eye, move, axis=1)[None]
        P_l[:, :, a, :] = _softmax(logits)
    away = np.abs(np.arange(zones)[:, None] - np.arange(zones)[None, :])
    return Game(
        P_g,
        4.0 - away if variant == "paper" else np.ones((zones, zones)),
        P_l,
        r_l,
        0.95,
        local_sees="next" if variant == "released" else "current",
        initial=InitialLaw(alpha=0.3),
        horizon=100 if variant == "paper" else 50,
        name=f"ring-{variant}",
    )


def ring_paper() -> Game:
    """Return the ring of the paper's text: r_g = 4 - abs(s_g - a_g), horizon 100."""
    return _ring("paper")


def ring_released() -> Game:
    """Return the ring that the released code evaluates: locals see s_g(t+1), horizon 50."""
    return _ring("released")


def ring_current() -> Game:
    """Return the released ring with locals that see s_g(t)."""
    return _ring("current")


def arena(
    zones: int = 5,
    move_success: float = 0.7,
    stay_success: float = 0.98,
    call_success: float = 0.35,
    drift: float = 0.08,
    horizon: int = 50,
) -> Game:
    """Return the game of the ring arena, where robots drive between zones after a target.

    The target is where work is. It follows a call of the dispatcher only now and then, and is
    sometimes dragged away by itself; so it pays to call it back, or to let the robots follow,
    according to where they are.

    Parameters
    ----------
    zones : int
        Zones on the ring, at least 3; each is a target.
    move_success : float
        Probability that a robot which moves arrives within the step; otherwise it stays.
    stay_success : float
        Probability that a robot which stays is not pushed into one of the two neighbours.
    call_success : float
        Probability that the target goes to the called zone within the step; otherwise it stays.
    drift : float
        Probability that the target goes to a zone drawn uniformly, whatever was called.
    horizon : int
        Steps of an episode.
    """
    zones = check_int("zones", zones, 3, MAX_ZONES)
    _probabilities(
        move_success=move_success,
        stay_success=stay_success,
        call_success=call_success,
        drift=drift,
    )
    eye = np.eye(zones)
    called, kept = eye[None, :, :], eye[:, None, :]
    P_g = (1 - drift) * (call_success * called + (1 - call_success) * kept) + drift / zones
    on, back = np.roll(eye, 1, axis=1), np.roll(eye, -1, axis=1)
    P_l = np.empty((zones, zones, len(MOVES), zones))
    P_l[:, :, 0] = stay_success * eye + (1 - stay_success) / 2 * (on + back)
    P_l[:, :, 1] = move_success * on + (1 - move_success) * eye
    P_l[:, :, 2] = move_success * back + (1 - move_success) * eye
    r_l = _near_target(zones)[:, :, None] - np.array([0.0, MOVE_COST, MOVE_COST])
    return Game(P_g, np.ones((zones, zones)), P_l, r_l, 0.95, horizon=horizon, name="arena")


def grid(
    columns: int = 3,
    rows: int = 2,
    move_success: float = 0.7,
    stay_success: float = 0.98,
    call_success: float = 0.35,
    drift: float = 0.08,
    horizon: int = 50,
) -> Game:
    """Return the arena's game on a grid of square cells: actions stay, east, west, north, south.

    Zone = row * columns + column; a move off the edge is a stay. Distances are counted in cells
    along rows and columns. Parameters as in `arena`, but for

    Parameters
    ----------
    columns, rows : int
        Cells, at least two in all; each is a target.
    """
    columns = check_int("columns", columns, 1, MAX_ZONES)
    rows = check_int("rows", rows, 1, MAX_ZONES)
    zones = check_int("cells in all, columns times rows,", columns * rows, 2, MAX_ZONES)
    _probabilities(
        move_success=move_success,
        stay_success=stay_success,
        call_success=call_success,
        drift=drift,
    )
    zone = np.arange(zones)
    column, row = zone % columns, zone // columns
    P_l = np.zeros((zones, zones, 1 + 4, zones))
    for a, (east, north) in enumerate(((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))):
        inside = (
            (column + east >= 0)
            & (column + east < columns)
            & (row + north >= 0)
            & (row + north < rows)
        )
        to = np.where(inside, (row + north) * columns + column + east, zone)
        success = np.where(to == zone, stay_success, move_success)
        P_l[:, zone, a, to] += success
        if a:
            P_l[:, zone, a, zone] += np.where(to == zone, 0.0, 1.0 - move_success)
    # A robot that stays is pushed into one of its neighbours now and then.
    apart = np.abs(column[:, None] - column) + np.abs(row[:, None] - row)
    beside = (apart == 1) / (apart == 1).sum(axis=1, keepdims=True)
    for a in range(5):
        left = 1.0 - P_l[0, :, a].sum(axis=-1)
        P_l[:, :, a] += (left[:, None] * beside)[None]
    eye = np.eye(zones)
    called, kept = eye[None, :, :], eye[:, None, :]
    P_g = (1 - drift) * (call_success * called + (1 - call_success) * kept) + drift / zones
    near = np.where(apart == 0, 10.0, 2.0 / (1.0 + apart))
    r_l = near[:, :, None] - np.array([0.0, *[MOVE_COST] * 4])
    return Game(P_g, np.ones((zones, zones)), P_l, r_l, 0.95, horizon=horizon, name="grid")


def _probabilities(**values: float) -> None:
    for name, value in values.items():
        check_real(name, value, least=0, most=1)


PRESETS: dict[str, Callable[[], Game]] = {
    "ring-paper": ring_paper,
    "ring-released": ring_released,
    "ring-current": ring_current,
    "arena": arena,
    "grid": grid,
}

_TABLES = ("P_g", "r_g", "P_l", "r_l")
_KEYS = (*_TABLES, "gamma", "local_sees", "horizon", "name", "initial")
_INITIAL_KEYS = ("s_g", "s_l", "alpha")


def load_game(source: str | os.PathLike[str]) -> Game:
    """Return a game by preset name, from a TOML file, or from a factory of your own.

    Parameters
    ----------
    source : str or path
        - a preset: `ring-paper`, `ring-released`, `ring-current`, `arena`, `grid`;
        - a path that ends in `.toml`;
        - `module:factory`, a function without arguments that returns a `Game`.

    Notes
    -----
    The TOML file holds the tables as nested arrays, s_g first, and the settings::

        gamma = 0.95
        local_sees = "current"         # or "next"; default "current"
        horizon = 50                   # steps; leave it out for an endless game
        name = "mine"
        P_g = [[[0.9, 0.1], ...]]      # shape (S_g, A_g, S_g)
        r_g = [[1.0, 1.0], ...]        # shape (S_g, A_g)
        P_l = [[[[0.8, 0.2], ...]]]    # shape (S_g, S_l, A_l, S_l)
        r_l = [[[0.0, 1.0], ...]]      # shape (S_g, S_l, A_l)
        [initial]                      # optional; uniform without it
        s_g = [0.5, 0.5]
        s_l = [0.5, 0.5]               # or alpha = 0.3 for a Dirichlet draw
    """
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"game {shown(source)} is neither a name nor a path")
    text = os.fspath(source)
    if text in PRESETS:
        return PRESETS[text]()
    if text.endswith(".toml"):
        return _from_toml(Path(text))
    if ":" in text:
        return _from_factory(text)
    raise InputError(
        f"unknown game {text!r}: not a preset ({', '.join(PRESETS)}), "
        "not a .toml file and not module:factory"
    )


def _unknown(
    path: Path, found: dict[str, object], known: tuple[str, ...], prefix: str = ""
) -> None:
    for key in found:
        if key not in known:
            raise InputError(
                f"{path}: unknown key {prefix}{key}; known keys are {', '.join(known)}"
            )


def _from_toml(path: Path) -> Game:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read game {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    _unknown(path, content, _KEYS)
    for key in (*_TABLES, "gamma"):
        if key not in content:
            raise InputError(f"{path}: key {key} is missing")
    initial = content.get("initial", {})
    if not isinstance(initial, dict):
        raise InputError(f"{path}: initial is not a table")
    _unknown(path, initial, _INITIAL_KEYS, "initial.")
    alpha = initial.get("alpha")
    try:
        return Game(
            content["P_g"],
            content["r_g"],
            content["P_l"],
            content["r_l"],
            content["gamma"],
            local_sees=content.get("local_sees", "current"),
            initial=InitialLaw(s_g=initial.get("s_g"), s_l=initial.get("s_l"), alpha=alpha),
            horizon=content.get("horizon"),
            name=str(content.get("name", path.stem)),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _from_factory(text: str) -> Game:
    module_name, _, factory_name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(
            f"cannot import module {module_name!r} of game {text!r}: {error}"
        ) from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise InputError(f"module {module_name!r} has no function {factory_name!r}")
    game = factory()
    if not isinstance(game, Game):
        raise InputError(f"{text} returned {type(game).__name__}, not a Game")
    return game
