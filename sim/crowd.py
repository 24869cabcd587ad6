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

A step has two halves, `act` and `move`. Who is named between them draws from N_sa what it is about
to do, too, so answers may be asked for at any time.

| symbol | name | shape | unit |
|---|---|---|---|
| N | robots without a name per zone | (S,) | counts |
| F | their last transitions s, a, s' | (S, A, S) | counts |
| pi | local policy at the present target | (S, A) | probability |
"""

from typing import NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.sim.finite import jump
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

    Attributes
    ----------
    acting
        Robots by zone and action of the last `act`, named or not, shape (S, A).
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
        self._acting: IntArray | None = None
        self.acting = np.zeros((size, self.kernel.n_actions), dtype=np.int64)
        self._slots: dict[int, int] = {}
        self._zones, self._before, self._actions, self._present = (
            np.empty(64, dtype=np.int64) for _ in range(4)
        )

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

    def act(self, pi: FloatArray, target: int = 0) -> IntArray:
        """Draw every robot's action from `pi` (S, A); nobody moves before `move`.

        Returns
        -------
        ndarray
            Robots by zone and action, shape (S, A), named or not.
        """
        generator, kernel = self._open(), self.kernel
        shape = (kernel.n_zones, kernel.n_actions)
        if pi.shape != shape:
            raise InputError(f"a local policy of shape {pi.shape} for a kernel of {shape}")
        self._acting = generator.multinomial(self._unnamed, pi)
        self._rows = kernel.rows(target, self.counts)
        m = len(self._slots)
        cdf = np.cumsum(pi, axis=1)
        zones, x = self._zones[:m], generator.random(m)
        drawn = (x[:, None] >= (cdf / cdf[:, -1:])[zones, :-1]).sum(axis=1)
        self._present[:m] = drawn
        self.acting = self._acting.copy()
        np.add.at(self.acting, (zones, drawn), 1)
        return self.acting

    def move(self) -> None:
        """Let every robot do what it drew in `act`; without that, nothing happens."""
        generator, acting = self._open(), self._acting
        if acting is None:
            return
        size = self.kernel.n_zones
        law = np.diff(self._rows, axis=-1, prepend=0.0).reshape(-1, size)
        self._flow = generator.multinomial(acting.reshape(-1), law).reshape(*acting.shape, size)
        self._unnamed = self._flow.sum(axis=(0, 1))
        m = len(self._slots)
        zones, actions = self._zones[:m].copy(), self._present[:m].copy()
        jump(self._zones[:m], actions, self._rows, generator.random(m))
        self._before[:m], self._actions[:m] = zones, actions
        self._acting = None

    def rest(self) -> None:
        """Forget what was drawn in `act`: everybody stays."""
        self._acting = None

    def step(self, pi: FloatArray, target: int = 0) -> IntArray:
        """Play one option, `act` and `move`; return robots by zone before and action, (S, A)."""
        acting = self.act(pi, target)
        self.move()
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
            self._zones, self._before, self._actions, self._present = (
                np.concatenate([old, np.empty_like(old)])
                for old in (self._zones, self._before, self._actions, self._present)
            )
        here = slice(m, m + k)
        self._zones[here], self._before[here], self._actions[here] = zones, before, acted
        self._present[here] = -1
        if self._acting is not None:
            self._present[here] = self._acts(zones)
        self._slots.update(zip(robots, range(m, m + k), strict=True))

    def _acts(self, zones: IntArray) -> IntArray:
        """Draw what newly named robots in `zones` (k,) are about to do, without replacement."""
        generator, acting = self._open(), self._acting
        assert acting is not None  # noqa: S101  asked by the caller
        present = np.empty_like(zones)
        for s in np.unique(zones):
            (here,) = np.nonzero(zones == s)
            drawn = generator.multivariate_hypergeometric(acting[s], here.size, method="marginals")
            acting[s] -= drawn
            present[here] = generator.permutation(np.repeat(np.arange(drawn.size), drawn))
        return present

    def _open(self) -> np.random.Generator:
        if self._generator is None:
            raise RunError("the crowd has no state yet: reset it with a seed first")
        return self._generator
