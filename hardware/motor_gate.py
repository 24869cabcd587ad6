# SPDX-License-Identifier: MIT
"""`MotorGate`: the one place from which a driver is told to move.

    safety permits  ->  ramp  ->  safety.limit  ->  driver.drive  ->  safety still permits, or stop

Everything that moves a robot, an option, a calibration, a self-test, goes through it; a test reads
the sources to hold that.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable

from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Driver
from kofn.hardware.safety import Limits, limit, ramp
from kofn.hardware.safety_task import Safety

STILL = Applied(0.0, 0.0)


class MotorGate:
    """Speeds of one robot, on their way to its driver.

    Parameters
    ----------
    driver
        The robot; nobody else calls its `drive`.
    limits
        Greatest speeds and growth of speed.
    safety, robot
        Who permits, and the robot's index there.
    clock
        Time of the ramp.
    applied
        Told what was asked for and what was really applied; None tells nobody.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Limits,
        safety: Safety,
        clock: Clock,
        *,
        robot: int = 0,
        applied: Callable[[float, float, Applied], None] | None = None,
    ) -> None:
        self._driver, self._safety, self._robot, self._clock = driver, safety, robot, clock
        self._limits, self._tell = limits, applied
        self._v = 0.0
        self.moving = False
        """Whether motors may be turning: set before a drive, cleared after a stop."""
        self.driven_s = -math.inf

    async def drive(self, v: float, w: float, *, share: float = 1.0) -> Applied:
        """Drive where safety permits; return what was applied, zero where it does not.

        Parameters
        ----------
        v, w
            Wanted speeds, m/s and rad/s.
        share
            Share of the limits that may be used, above 0 and at most 1.
        """
        if not self._safety.permits(self._robot):
            await self.stop()
            return STILL
        now_s = self._clock.now()
        a_max, v_max, w_max = self._limits.a_max, self._limits.v_max, self._limits.w_max
        dt_s = min(now_s - self.driven_s, self._safety.settings.deadman_s)
        if math.isfinite(a_max) and math.isfinite(v):
            v = ramp(v, self._v, a_max, dt_s)
        speeds = limit(v, w, Limits(share * v_max, share * w_max))
        self.moving = True  # before the await: the dead-man must see a drive that blocks
        self.driven_s = now_s
        self._safety.command(self._robot)
        applied = await self._driver.drive(*speeds)
        self._v = applied.v
        if self._tell is not None:
            self._tell(*speeds, applied)
        if not self._safety.permits(self._robot):  # stopped while the command was on its way
            await self.stop()
            return STILL
        return applied

    async def stop(self, *, always: bool = False) -> None:
        """Stop where motors may be turning, or `always`; never raises."""
        if not (self.moving or always):
            return
        was = self.moving
        self.moving = True
        # A driver's stop must not raise; one that does is tried again by the dead-man.
        with contextlib.suppress(Exception):
            await self._driver.stop()
            self.moving = False
            self._v = 0.0
            if was and self._tell is not None:
                self._tell(0.0, 0.0, STILL)

    def stop_from_thread(self) -> None:
        """Stop from another thread, for a driver that blocks its own event loop."""
        with contextlib.suppress(Exception):
            asyncio.run(self._driver.stop())
            self.moving = False
            self._v = 0.0
            if self._tell is not None:
                self._tell(0.0, 0.0, STILL)
