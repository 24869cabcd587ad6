# SPDX-License-Identifier: MIT
"""`FiniteWorld`: robots that jump between zones by a motion kernel; no bodies, no poses.

Each robot has an identity and a zone of its own. When an option ends,

    s_i' = #{ j < S - 1 : C(g, b(s_i), s_i, a_i, j) <= x_i },     x_i uniform in [0, 1)

with the bins b of the shares at the option's start. It says of traffic what its kernel says, and
nothing else. One option costs some nanoseconds a robot; `crowd.Crowd` is the form in counts, whose
cost does not grow with n.

| symbol | name | shape | unit |
|---|---|---|---|
| n | robots | - | - |
| C | cumulative kernel | (G, B, S, A, S) | - |
| s, a | zones, actions (-1 = hold) | (n,) | index |
"""

import numpy as np

from kofn.controller.core._jit import jit
from kofn.controller.core.errors import InputError, RunError
from kofn.sim.motion import MotionKernel
from kofn.sim.world import (
    TICK_S,
    Condition,
    FloatArray,
    IntArray,
    Snapshot,
    WorldSpec,
    check_actions,
    check_period,
    ticks,
)

MAX_ROBOTS = 10_000_000


class FiniteWorld:
    """n robots in a finite model; implements `kofn.sim.world.World`.

    Parameters
    ----------
    n
        Robots, 1 to 10 000 000.
    kernel
        How they move.
    start
        Distribution of a robot's first zone, shape (S,); None is uniform.
    period_s
        Length T of an option, a multiple of 0.1 s.

    Raises
    ------
    InputError
        A value is out of range.
    """

    def __init__(
        self,
        n: int,
        kernel: MotionKernel,
        *,
        start: FloatArray | None = None,
        period_s: float = 6.0,
    ) -> None:
        if not 1 <= n <= MAX_ROBOTS:
            raise InputError(f"{n} robots in a finite world, it holds 1 to {MAX_ROBOTS}")
        self.kernel = kernel
        self.spec = WorldSpec(
            n=n,
            n_zones=kernel.n_zones,
            n_actions=kernel.n_actions,
            period_s=period_s,
            tick_s=TICK_S,
            backend="finite",
            versions={"numpy": np.__version__},
            arena={},
        )
        self._period_ticks = check_period(period_s)
        law = np.full(kernel.n_zones, 1.0 / kernel.n_zones) if start is None else np.asarray(start)
        if law.shape != (kernel.n_zones,) or np.any(law < 0) or abs(law.sum() - 1.0) > 1e-9:
            raise InputError(f"start {law.tolist()} is no distribution over {kernel.n_zones} zones")
        self._start = np.cumsum(law)
        self._target = 0
        self._zones: IntArray | None = None
        self._closed = False
        self.condition = Condition.healthy(n)

    def reset(self, seed: int) -> None:
        """Draw every robot's zone, at time 0."""
        if self._closed:
            raise RunError("the world is closed")
        self._generator = np.random.default_rng(seed)
        drawn = np.searchsorted(self._start, self._generator.random(self.spec.n), side="right")
        self._zones = np.minimum(drawn, self.spec.n_zones - 1).astype(np.int64)
        self._actions = np.full(self.spec.n, -1, dtype=np.int64)
        self._tick = self._ticks_left = 0
        self.condition = Condition.healthy(self.spec.n)

    def see_target(self, target: int) -> None:
        """Take the target g that the next option is acted out under."""
        if self.kernel.n_targets > 1 and not 0 <= target < self.kernel.n_targets:
            raise InputError(f"target {target} is not below {self.kernel.n_targets}")
        self._target = target

    def observe(self) -> Snapshot:
        """Return zones now; there are no poses."""
        zones, up = self._open(), self.condition.up
        return Snapshot(
            zones=zones.copy(),
            poses=None,
            up=up.copy(),
            time_s=self._tick * TICK_S,
            trouble=self.condition.trouble(),
        )

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot: an action, or -1 to hold; shape (n,)."""
        zones = self._open()
        checked = check_actions(actions, self.spec)
        able = self.condition.able
        self._actions = checked.copy() if able is None else np.where(able, checked, -1)
        self._rows = self.kernel.rows(self._target, np.bincount(zones, minlength=self.spec.n_zones))
        self._ticks_left = self._period_ticks

    def advance(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass; robots jump at the instant their option ends."""
        zones = self._open()
        passed = ticks(duration_s, "duration_s")
        self._tick += passed
        if 0 < self._ticks_left <= passed:
            x = self._generator.random(self.spec.n)
            jump(zones, self._actions, self._rows, x)
        self._ticks_left = max(0, self._ticks_left - passed)

    def close(self) -> None:
        """Forget the robots; idempotent."""
        self._closed = True
        self._zones = None

    def _open(self) -> IntArray:
        if self._closed:
            raise RunError("the world is closed")
        if self._zones is None:
            raise RunError("the world has no state yet: reset it with a seed first")
        return self._zones


@jit
def jump(zones: IntArray, actions: IntArray, rows: FloatArray, x: FloatArray) -> None:
    """Move all robots by inverse CDF, in place; `rows` has shape (S, A, S)."""
    last = rows.shape[2] - 1
    for i in range(zones.size):
        a = actions[i]
        if a >= 0:
            s = zones[i]
            to = 0
            for j in range(last):
                to += rows[s, a, j] <= x[i]
            zones[i] = to
