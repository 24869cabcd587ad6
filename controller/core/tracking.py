# SPDX-License-Identifier: MIT
r"""An example of a continuous simulator: a fleet in two clusters and a target that leads it.

All states are numbers in [-2, 2]. The dispatcher pulls the target towards tau, an agent stays or
moves by d, and both are a little pushed around:

.. math::
   s_g' &= clip(s_g + 0.6 (\tau - s_g) + N(0, 0.08^2)) \\
   s_i' &= clip(s_i + d_i + N(0, 0.04^2)), \quad d \in \{0, 0.05, -0.05\} \\
   r_g &= 5 \exp(-(s_g - \tau)^2 / (2 \cdot 0.3^2)) \\
   r_i &= 10 \exp(-(s_i - s_g)^2 / (2 \cdot 0.2^2)) - 5 |d_i|

At the start s_g is uniform in [-1, 1]. The agents stand around two different ones of five places,
an agent with probability 0.55 at the first and else at the second, each off by N(0, 0.18^2).
Where most agents are is thus a fact that an episode keeps and a poll shows in part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core.binning import Binned, bin_simulator
from kofn.controller.core.bins import BoxBins

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray

LOW, HIGH = -2.0, 2.0
#: The places of clusters: the centres of five equal bins.
PLACES = np.array([-1.6, -0.8, 0.0, 0.8, 1.6])
#: Local actions, as moves.
MOVES = np.array([0.0, 0.05, -0.05])
GAMMA, HORIZON, N = 0.95, 50, 500
_MAJORITY = 0.55


class Tracking:
    """The simulator of the module docstring; see `Simulator` for shapes."""

    def reset(
        self, rng: np.random.Generator, episodes: int, n: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return the states (s_g, s_l) at the start of new episodes."""
        s_g = rng.uniform(-1.0, 1.0, episodes)
        order = rng.random((episodes, len(PLACES))).argsort(axis=1)
        second = rng.random((episodes, n)) >= _MAJORITY
        place = PLACES[np.where(second, order[:, 1:2], order[:, :1])]
        s_l = np.clip(place + 0.18 * rng.standard_normal((episodes, n)), LOW, HIGH)
        return s_g, s_l

    def step(
        self,
        rng: np.random.Generator,
        s_g: FloatArray,
        s_l: FloatArray,
        a_g: FloatArray,
        a_l: IntArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return (s_g', s_l', r_g, r_l)."""
        d = MOVES[a_l]
        r_g = 5.0 * np.exp(-((s_g - a_g) ** 2) / (2 * 0.3**2))
        r_l = 10.0 * np.exp(-((s_l - s_g[:, None]) ** 2) / (2 * 0.2**2)) - 5.0 * np.abs(d)
        next_g = s_g + 0.6 * (a_g - s_g) + 0.08 * rng.standard_normal(s_g.shape)
        next_l = s_l + d + 0.04 * rng.standard_normal(s_l.shape)
        return np.clip(next_g, LOW, HIGH), np.clip(next_l, LOW, HIGH), r_g, r_l


def binned(
    global_bins: int = 40, local_bins: int = 40, actions: int = 41, *, samples: int = 200
) -> Binned:
    """Return the simulator with equal bins and equally spaced targets."""
    return bin_simulator(
        Tracking(),
        BoxBins.equal(LOW, HIGH, global_bins),
        BoxBins.equal(LOW, HIGH, local_bins),
        np.linspace(LOW, HIGH, actions),
        len(MOVES),
        n=N,
        gamma=GAMMA,
        horizon=HORIZON,
        samples=samples,
        name=f"tracking-{global_bins}-{local_bins}",
    )


def game() -> Game:
    """Return a coarse game of it, small enough for histogram grids; a factory for `load_game`."""
    return binned(20, 20, 21).game
