# SPDX-License-Identifier: MIT
r"""`Crowd`: the finite world in counts. A step costs the same for a thousand robots and a million.

Robots in one zone differ by nothing but their names, so how many go where is multinomial:

.. math:: N_{sa} \sim Mult(N_s, \pi(\cdot|s)), \quad
   F_{sa\cdot} \sim Mult(N_{sa}, P(\cdot|g,b,s,a)), \quad N_{s'} = \sum_{sa} F_{sas'}

Names are given when somebody asks for them. A robot that is asked for the first time is any of
those without a name, each as likely as the other: its last transition is a cell of F drawn with
weight F, without replacement, and with it its zone. From then on it has a name, moves by itself,
and counts no more among the others. Given all that was seen before, this is the law of n robots
that move one by one, for counts and named robots together and over time; nothing is approximated.
What it cannot do is tell where a robot was before it was first asked, one step excepted. Named
robots cost some nanoseconds each a step, so the cost grows with how many were ever asked.

| symbol | name | shape | unit |
|---|---|---|---|
| N | robots without a name per zone | (S,) | counts |
| F | their last transitions s, a, s' | (S, A, S) | counts |
| pi | local policy at the present target | (S, A) | probability |
"""

from typing import NamedTuple

import numpy as np

from kofn.controller.core._jit import jit
from kofn.controller.core.errors import InputError, RunError
from kofn.sim.motion import MotionKernel
from kofn.sim.world import FloatArray, IntArray

MAX_ROBOTS = 999_999_999
"""Numpy's draw without replacement takes totals below 10^9."""


class Answers(NamedTuple):
    """What robots say: zone now; zone and action of the last step, -1 before the first; (k,)."""

    zones: IntArray
    zones_before: IntArray
    actions_before: IntArray


class Crowd:
    """n robots in a finite model, in counts.

    Parameters
    ----------
    n
        Robots, named 0 to n-1; fewer than 10^9.
    kernel
        How they move.
    start
        Distribution of a robot's first zone, shape (S,); None is uniform.

    Raises
    ------
    InputError
        A value is out of range.
    """

    def __init__(self, n: int, kernel: MotionKernel, *, start: FloatArray | None = None) -> None:
        if not 1 <= n <= MAX_ROBOTS:
            raise InputError(f"{n} robots in a crowd, it holds 1 to {MAX_ROBOTS}")
        self.n, self.kernel = n, kernel
        size = kernel.n_zones
        self._start = np.full(size, 1.0 / size) if start is None else np.asarray(start, dtype=float)
        if self._start.shape != (size,) or not np.isclose(self._start.sum(), 1.0, atol=1e-9):
            raise InputError(f"start {self._start.tolist()} is no distribution over {size} zones")
        self._generator: np.random.Generator | None = None

    def reset(self, seed: int) -> None:
        """Draw the first zones."""
        size = self.kernel.n_zones
        self._generator = np.random.default_rng(seed)
        self._unnamed = self._generator.multinomial(self.n, self._start)
        self._flow: IntArray | None = None
        self._slots: dict[int, int] = {}
        self._zones, self._before, self._actions = (np.empty(64, dtype=np.int64) for _ in range(3))
        self._totals = np.empty(size, dtype=np.int64)

    @property
    def counts(self) -> IntArray:
        """Robots per zone now, named or not, shape (S,)."""
        self._open()
        named = self._zones[: len(self._slots)]
        total: IntArray = self._unnamed + np.bincount(named, minlength=self.kernel.n_zones)
        return total

    @property
    def named(self) -> int:
        """How many robots have a name by now."""
        return len(self._slots)

    def step(self, pi: FloatArray, target: int = 0) -> IntArray:
        """Play one option: every robot draws its action from `pi` (S, A) and moves.

        Returns
        -------
        ndarray
            Robots by zone before and action, shape (S, A), named or not.
        """
        generator, kernel = self._open(), self.kernel
        shape = (kernel.n_zones, kernel.n_actions)
        if pi.shape != shape:
            raise InputError(f"a local policy of shape {pi.shape} for a kernel of {shape}")
        rows = kernel.rows(target, self.counts)
        acting = generator.multinomial(self._unnamed, pi)
        law = np.diff(rows, axis=-1, prepend=0.0).reshape(-1, kernel.n_zones)
        self._flow = generator.multinomial(acting.reshape(-1), law).reshape(*shape, -1)
        self._unnamed = self._flow.sum(axis=(0, 1))
        m = len(self._slots)
        if m:
            cdf = np.cumsum(pi, axis=1)
            x = generator.random((m, 2))
            _move_named(
                self._zones[:m], self._before[:m], self._actions[:m], cdf / cdf[:, -1:], rows, x
            )
            np.add.at(acting, (self._before[:m], self._actions[:m]), 1)
        return acting

    def ask(self, robots: IntArray) -> Answers:
        """Return what robots say, giving names to those that have none yet; shape (k,)."""
        self._open()
        asked = np.asarray(robots, dtype=np.int64)
        if asked.size and (asked.min() < 0 or asked.max() >= self.n):
            raise InputError(f"robot {asked[(asked < 0) | (asked >= self.n)][0]} of {self.n}")
        new = [robot for robot in dict.fromkeys(asked.tolist()) if robot not in self._slots]
        if new:
            self._name(new)
        slots = [self._slots[robot] for robot in asked.tolist()]
        return Answers(self._zones[slots], self._before[slots], self._actions[slots])

    def _name(self, robots: list[int]) -> None:
        """Draw the zone and the last transition of robots that had no name."""
        generator, k = self._open(), len(robots)
        size, actions = self.kernel.n_zones, self.kernel.n_actions
        cells = self._unnamed if self._flow is None else self._flow.reshape(-1)
        # "marginals" works with sums below 10^9 and does not walk through them robot by robot.
        drawn = generator.multivariate_hypergeometric(cells, k, method="marginals")
        cell = generator.permutation(np.repeat(np.arange(cells.size), drawn))
        if self._flow is None:
            zones, before, acted = cell, np.full(k, -1), np.full(k, -1)
        else:
            self._flow = self._flow - drawn.reshape(self._flow.shape)
            before, rest = np.divmod(cell, actions * size)
            acted, zones = np.divmod(rest, size)
        self._unnamed = self._unnamed - np.bincount(zones, minlength=size)
        m = len(self._slots)
        while m + k > self._zones.size:
            self._zones, self._before, self._actions = (
                np.concatenate([old, np.empty_like(old)])
                for old in (self._zones, self._before, self._actions)
            )
        here = slice(m, m + k)
        self._zones[here], self._before[here], self._actions[here] = zones, before, acted
        self._slots.update(zip(robots, range(m, m + k), strict=True))

    def _open(self) -> np.random.Generator:
        if self._generator is None:
            raise RunError("the crowd has no state yet: reset it with a seed first")
        return self._generator


@jit
def _move_named(
    zones: IntArray,
    before: IntArray,
    actions: IntArray,
    pi: FloatArray,
    rows: FloatArray,
    x: FloatArray,
) -> None:
    """Draw action and next zone of named robots by inverse CDF, in place; x has shape (m, 2)."""
    last_action, last_zone = pi.shape[1] - 1, rows.shape[2] - 1
    for i in range(zones.size):
        s = zones[i]
        a = 0
        for j in range(last_action):
            a += pi[s, j] <= x[i, 0]
        to = 0
        for j in range(last_zone):
            to += rows[s, a, j] <= x[i, 1]
        before[i], actions[i], zones[i] = s, a, to
