# SPDX-License-Identifier: MIT
r"""Where a silent robot probably is: its last answer, aged through the local model.

A robot seen in zone z at step s is, at step t, in zone j with probability

.. math:: r_j = (A_{s,t})_{zj}, \qquad A_{s,t} = P^\pi[g(s)]\, P^\pi[g(s+1)] \cdots P^\pi[g(t-1)],

and the row r stands in for its answer. It counts with the weight

.. math:: \tau(A) = \tfrac12 \max_{i,j} \lVert A_i - A_j \rVert_1 \in [0, 1],

Dobrushin's coefficient: 1 while the fleet stands still, falling with every step that mixes it, and
0 when the row is the same wherever the robot was. Then the row says nothing of this robot; to count
it would pass the model off as an answer.

The belief holds a remembered answer already, as one pseudo-count among many, and adding it looks
like counting it twice. It is counted for another reason now. A poll is a uniform sample of k
robots, and its histogram is right only if every one of them is in it; to leave out the silent ones,
or to replace them by others that do answer, is what makes a loss that depends on the zone a bias. A
round therefore adds one entry per robot asked, from memory where it must, to a belief that is
scaled down to make room (`core.belief`): no total grows beyond the cap. What is overstated is only
how independent the entries are; to take off what the belief still holds of an answer would take the
correction off with it. `benchmarks/bench_bias.py` measures what remembering does to the belief
under random loss (nothing) and under a loss that depends on the zone (it repairs part of it).

| symbol | name | shape |
|---|---|---|
| A by age | `_products` | (max_age + 1, S_l, S_l) |
| s, z of each robot | `_steps`, `_zones` | (robots,) |
| P^pi[g] | `kernels` | (S_g, S_l, S_l) |
"""

from array import array
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Ageing = Literal["model", "as-seen"]

_LEAST, _MOST = 64, 50_000
"""Answers kept, however old, before old ones are dropped: twice the fleet's, between these."""


class Recalled(NamedTuple):
    """A stand-in for an answer: law over zones, shape (S_l,), and the weight it counts with."""

    law: FloatArray
    weight: float


class LastKnown:
    """The last answer of each robot.

    Parameters
    ----------
    kernels
        Local kernel under the local policy for each target, shape (S_g, S_l, S_l).
    max_age
        Steps after which an answer is forgotten; 0 remembers none.
    ageing
        "model" as above; "as-seen" takes the robot to be where it was, at full weight.
    step
        The step that comes first.
    robots
        Size of the fleet, as far as it is known.
    """

    def __init__(
        self,
        kernels: FloatArray,
        max_age: int,
        ageing: Ageing = "model",
        *,
        step: int = 0,
        robots: int = 0,
    ) -> None:
        n_zones = kernels.shape[1]
        self._kernels = kernels
        self._max_age = max_age
        self._ageing = ageing
        self._now = step
        # A robot keeps its place in two arrays: a hundred new objects a step, each to live until
        # its robot is asked again, would fragment the memory of the process.
        self._places: dict[str, int] = {}
        self._steps, self._zones = array("q"), array("q")
        self._room = self._least_room = min(max(2 * robots, _LEAST), _MOST)
        self._products = np.zeros((max_age + 1, n_zones, n_zones))
        self._products[0] = np.eye(n_zones)
        self._weights: dict[int, float] = {}

    def note(self, robot: str, t: int, zone: int) -> None:
        """Remember that `robot` was in `zone` when it took step t; an older answer is ignored."""
        place = self._places.get(robot)
        if place is None:
            self._places[robot] = len(self._places)
            self._steps.append(t)
            self._zones.append(zone)
        elif self._steps[place] <= t <= self._now:
            self._steps[place], self._zones[place] = t, zone

    def zone(self, robot: str) -> int | None:
        """Zone of the last answer; None when there is none or it is too old."""
        place = self._places.get(robot)
        if place is None or not self._max_age or not 0 <= self._age(place) <= self._max_age:
            return None
        return self._zones[place]

    def recall(self, robot: str) -> Recalled | None:
        """Stand-in for an answer at the present step; None as for `zone`."""
        zone = self.zone(robot)
        if zone is None:
            return None
        age = self._age(self._places[robot])
        if self._ageing == "as-seen":
            return Recalled(self._products[0][zone], 1.0)
        return Recalled(self._products[age][zone], self._weight(age))

    def change_kernels(self, kernels: FloatArray) -> None:
        """From now on robots move by other kernels, shape (S_g, S_l, S_l)."""
        self._kernels = kernels

    def advance(self, g: int) -> None:
        """Move on by one step of the fleet under target `g`."""
        self._now += 1
        self._products[1:] = self._products[:-1] @ self._kernels[g]
        self._weights.clear()
        if len(self._places) > self._room:  # robots that left for good take their entries along
            kept = {
                robot: place
                for robot, place in self._places.items()
                if self._age(place) <= self._max_age
            }
            self._steps = array("q", [self._steps[place] for place in kept.values()])
            self._zones = array("q", [self._zones[place] for place in kept.values()])
            self._places = {robot: place for place, robot in enumerate(kept)}
            self._room = max(self._least_room, 2 * len(kept))

    def _age(self, place: int) -> int:
        return self._now - self._steps[place]

    def _weight(self, age: int) -> float:
        weight = self._weights.get(age)
        if weight is None:
            weight = self._weights[age] = mixing_left(self._products[age])
        return weight


def mixing_left(product: FloatArray) -> float:
    """Dobrushin's coefficient of a stochastic matrix, shape (S, S): 1 remembers all, 0 nothing."""
    apart = [np.abs(product - row).sum(axis=1).max() for row in product]
    return min(1.0, 0.5 * float(max(apart)))
