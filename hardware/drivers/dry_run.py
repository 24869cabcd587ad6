# SPDX-License-Identifier: MIT
"""`DryRunDriver`: a robot made of arithmetic. It records commands and believes its wheels.

Odometry is that of a unicycle whose speeds change only by command; over dt in the robot's frame

    dyaw = w dt,   dx = v sin(dyaw) / w,   dy = v (1 - cos(dyaw)) / w      (dx = v dt for w = 0)

Reference for driver authors, and what `--dry-run` puts in the place of motors.
"""

import math
from collections import deque
from typing import NamedTuple

from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Capabilities, DriverError, Observation
from kofn.hardware.safety import Limits, check_limits, limit


class Command(NamedTuple):
    """Speeds as applied (m/s, rad/s) from `stamp_s` on."""

    stamp_s: float
    v: float
    w: float


class DryRunDriver:
    """A recorder in the place of motors.

    Parameters
    ----------
    clock
        Time that the unicycle moves in.
    v_max_mps, w_max_radps
        Greatest forward speed and turn rate.
    record
        Commands kept; the oldest go first.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        v_max_mps: float = 0.4,
        w_max_radps: float = 3.0,
        record: int = 10_000,
    ) -> None:
        self._limits = check_limits(Limits(v_max_mps, w_max_radps))
        self._clock = clock
        self._open = False
        self._applied = Applied(0.0, 0.0)
        self._since_s = 0.0
        self._moved = (0.0, 0.0, 0.0)
        self.commands: deque[Command] = deque(maxlen=record)

    def capabilities(self) -> Capabilities:
        """Return a unicycle with odometry and nothing else."""
        return Capabilities(
            kind="dry_run",
            v_max=self._limits.v_max,
            w_max=self._limits.w_max,
            has_odometry=True,
            has_battery=False,
            has_estop_input=False,
            simulated=True,
        )

    async def open(self) -> None:
        """Start with motors stopped."""
        if self._open:
            raise DriverError("the dry-run robot is open already", "close it first")
        self._open = True
        self._moved = (0.0, 0.0, 0.0)
        self._since_s = self._clock.now()
        self._set(0.0, 0.0)

    async def read(self) -> Observation:
        """Return the way gone since the last read."""
        self._check_open()
        self._integrate()
        (dx, dy, dyaw), self._moved = self._moved, (0.0, 0.0, 0.0)
        return Observation(
            dx_m=dx,
            dy_m=dy,
            dyaw_rad=dyaw,
            battery_v=None,
            bumper=False,
            estop_input=False,
            faults=(),
            stamp_s=self._since_s,
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Set speeds, clipped; return what was applied."""
        if not (math.isfinite(v) and math.isfinite(w)):
            raise ValueError(f"speeds v = {v} m/s, w = {w} rad/s must be finite")
        self._check_open()
        return self._set(*limit(v, w, self._limits))

    async def stop(self) -> None:
        """Speeds to zero; does nothing on a robot that is not open."""
        if self._open:
            self._set(0.0, 0.0)

    async def close(self) -> None:
        """Stop and release; idempotent."""
        await self.stop()
        self._open = False

    @property
    def applied(self) -> Applied:
        """Speeds now."""
        return self._applied

    def _check_open(self) -> None:
        if not self._open:
            raise DriverError("the dry-run robot is not open", "open it first")

    def _set(self, v: float, w: float) -> Applied:
        self._integrate()
        self._applied = Applied(v, w)
        self.commands.append(Command(self._since_s, v, w))
        return self._applied

    def _integrate(self) -> None:
        now_s = self._clock.now()
        dt, self._since_s = now_s - self._since_s, now_s
        v, w = self._applied
        turn = w * dt
        ahead, left = (
            (v * math.sin(turn) / w, v * (1.0 - math.cos(turn)) / w)
            if abs(turn) > 1e-9
            else (v * dt, 0.0)
        )
        x, y, yaw = self._moved
        self._moved = (
            x + ahead * math.cos(yaw) - left * math.sin(yaw),
            y + ahead * math.sin(yaw) + left * math.cos(yaw),
            yaw + turn,
        )
