# SPDX-License-Identifier: MIT
"""Robots that do exactly what they are told, and a small game for them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kofn.controller.core.game import Game, InitialLaw
from kofn.controller.core.grid import check_grid
from kofn.controller.core.policy import Policy
from kofn.controller.link.messages import Pace
from kofn.hardware.driver import Reading

ZONES = 4


class RingBank:
    """Robots on a ring of zones: action 1 goes one zone on, 2 one back, 0 and hold stay."""

    n_zones = ZONES
    n_actions = 3
    option_s = 6.0

    def __init__(self, robots: tuple[str, ...], pace: Pace = "lockstep", slices: int = 3) -> None:
        self.robots = robots
        self.pace: Pace = pace
        self.up = np.ones(len(robots), dtype=np.bool_)
        self._zones = np.arange(len(robots), dtype=np.int64) % ZONES
        self._actions = np.zeros(len(robots), dtype=np.int64)
        self._slices = slices
        self._left = 0
        self._time_s = 0.0

    def open(self) -> None:
        self._left = 0

    def read(self) -> Reading:
        return Reading(self._zones.copy(), self.up.copy(), self._time_s)

    def apply(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions, self._left = actions.copy(), self._slices

    def advance(self) -> bool:
        self._left -= 1
        if self._left == 0:
            moves = np.array([0, 1, -1, 0])[self._actions]  # index -1, hold, is the last
            self._zones = (self._zones + moves) % ZONES
            self._time_s += self.option_s
        return self._left > 0

    def hold(self) -> None:
        self._left = 0

    def close(self) -> None:
        self._left = 0


def small_game(**changes: Any) -> Game:
    """A ring of 4 zones and targets; the dispatcher moves the target where it wants, mostly."""
    eye = np.eye(ZONES)
    P_g = np.broadcast_to(0.9 * eye + 0.1 / ZONES, (ZONES, ZONES, ZONES)).copy()
    moves = np.stack([np.roll(eye, shift, axis=1) for shift in (0, 1, -1)], axis=1)
    P_l = np.broadcast_to(moves, (ZONES, ZONES, 3, ZONES)).copy()
    r_l = np.broadcast_to(eye[:, :, None], (ZONES, ZONES, 3)).copy()
    settings: dict[str, Any] = {"initial": InitialLaw(), "name": "small"} | changes
    return Game(P_g, np.ones((ZONES, ZONES)), P_l, r_l, 0.9, **settings)


def small_policy(grid: int = 4, **changes: Any) -> Policy:
    """Send the target to zone (first cells' rank) mod 4; robots walk towards the target."""
    game = small_game(**changes)
    points = check_grid(grid, ZONES)
    action = np.tile(np.arange(points) % ZONES, (ZONES, 1))
    pi_l = np.full((ZONES, ZONES, 3), 0.1)
    for g in range(ZONES):
        for z in range(ZONES):
            pi_l[g, z, 0 if g == z else (1 if (g - z) % ZONES <= 2 else 2)] = 0.8
    return Policy(game, grid, action, pi_l, memory=8.0)
