# SPDX-License-Identifier: MIT
"""`Create2Driver`: iRobot Create 2 (Roomba 500 to 800) by its Open Interface, binary over serial.

| bytes | meaning |
|---|---|
| 128, 131 | start; safe mode: a dropped wheel or a cliff stops the robot by itself |
| 145 rh rl lh ll | drive direct: right, left wheel, mm/s, signed, big-endian, -500..500 |
| 149 n ids.. | query: packets 7, 14, 22, 35, 43, 44 are answered with 1, 1, 2, 1, 2, 2 bytes |

Odometry: 508.8 counts a turn of a wheel of 72 mm, track 235 mm (Open Interface specification). The
robot has **no time-out of its own**: a wheel keeps turning when the cable is pulled. A `StopGuard`
stops it when its agent is killed or frozen.
"""

import contextlib
import math
import struct

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Capabilities, DriverError, Observation
from kofn.hardware.drivers.serial_robot import SerialRobot
from kofn.hardware.drivers.speeds import (
    check_positive,
    checked_speeds,
    rolled,
    slowed,
    speeds_of,
    way_of,
    wheels_of,
)
from kofn.hardware.drivers.stop_guard import StopGuard
from kofn.hardware.safety import Limits

START, SAFE, DRIVE_DIRECT, QUERY = 128, 131, 145, 149
PACKETS = (7, 14, 22, 35, 43, 44)  # bumps and drops, overcurrents, mV, OI mode, left, right counts
ANSWER = struct.Struct(">BBHBHH")
MODE_SAFE, MODE_FULL = 2, 3
WHEEL_MAX_MPS = 0.5
M_PER_COUNT = math.pi * 0.072 / 508.8


class Create2Driver(SerialRobot):
    """An iRobot Create 2.

    Parameters
    ----------
    clock
        Stamps readings.
    port, baud
        Of the serial line.
    track_m, left_scale, right_scale
        Of the calibration.
    v_max_mps, w_max_radps
        Greatest speeds asked for.
    answer_s
        Longest wait for an answer, and for a write where that is longer than 0.1 s; the robot
        needs up to 15 ms.
    settle_s
        Longest wait for the first answer: a robot that wakes up takes its time.
    guard_s
        The guard stops the robot after so long without a drive command, 0.1 to 2 s.
    """

    STOP = bytes([DRIVE_DIRECT, 0, 0, 0, 0])
    FAREWELL = bytes([START])

    def __init__(
        self,
        clock: Clock,
        *,
        port: str,
        baud: int = 115_200,
        track_m: float = 0.235,
        left_scale: float = 1.0,
        right_scale: float = 1.0,
        v_max_mps: float = 0.3,
        w_max_radps: float = 2.0,
        answer_s: float = 0.1,
        settle_s: float = 1.0,
        guard_s: float = 0.5,
    ) -> None:
        super().__init__(
            clock,
            port=port,
            baud=baud,
            track_m=track_m,
            limits=Limits(v_max_mps, w_max_radps),
            answer_s=answer_s,
            settle_s=settle_s,
        )
        check_positive(left_scale=left_scale, right_scale=right_scale)
        if not 0.1 <= guard_s <= 2.0:
            raise InputError(f"guard_s = {guard_s} s must lie in 0.1..2 s")
        self._guard_s = guard_s
        self._guard: StopGuard | None = None
        self._left_m, self._right_m = M_PER_COUNT * left_scale, M_PER_COUNT * right_scale

    def capabilities(self) -> Capabilities:
        """Return a robot with odometry and battery."""
        return Capabilities(
            kind="create2",
            v_max=self._limits.v_max,
            w_max=self._limits.w_max,
            has_odometry=True,
            has_battery=True,
            has_estop_input=False,
        )

    async def open(self) -> None:
        """Take the port, wake the interface, stop, check that it answers in safe mode."""
        self._line.open()
        try:
            self._guard = StopGuard(self._line.checked().fileno(), self.STOP, self._guard_s)
            self._line.write(bytes([START, SAFE]) + self.STOP)
            self._counters = None
            _refuse_faults(await self._settled(self.read))
        except BaseException:
            self._release()
            raise

    async def read(self) -> Observation:
        """Query bumpers, overcurrents, battery, mode and counters."""
        self._line.forget_input()
        self._line.write(bytes([QUERY, len(PACKETS), *PACKETS]))
        data = await self._line.read_bytes(ANSWER.size, self._answer_s)
        bumps, overcurrents, millivolts, mode, left, right = ANSWER.unpack(data)
        old = self._counters or (left, right)
        self._counters = left, right
        dx, dy, dyaw = way_of(
            rolled(left, old[0], 16) * self._left_m,
            rolled(right, old[1], 16) * self._right_m,
            self._track_m,
        )
        faults = []
        if mode not in (MODE_SAFE, MODE_FULL):
            faults.append(f"it left safe mode (mode {mode}): wheel drop, cliff or charger")
        if bumps & 0b1100:
            faults.append("wheel drop")
        if overcurrents & 0b11000:
            faults.append("wheel overcurrent")
        return Observation(
            dx_m=dx,
            dy_m=dy,
            dyaw_rad=dyaw,
            battery_v=millivolts / 1000,
            bumper=bool(bumps & 0b0011),
            estop_input=False,
            faults=tuple(faults),
            stamp_s=self._clock.now(),
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Drive direct; return the speeds after rounding to mm/s."""
        v, w = checked_speeds(v, w, self._limits)
        left, right = slowed(*wheels_of(v, w, self._track_m), WHEEL_MAX_MPS)
        millis = round(1000 * right), round(1000 * left)
        self._line.write(struct.pack(">Bhh", DRIVE_DIRECT, *millis))
        if self._guard is not None:
            self._guard.driving()
        return Applied(*speeds_of(millis[1] / 1000, millis[0] / 1000, self._track_m))

    async def stop(self) -> None:
        """Send a stop; never raises."""
        with contextlib.suppress(Exception):
            self._line.write(self.STOP)
            if self._guard is not None:
                self._guard.stopped()

    def _release(self) -> None:
        guard, self._guard = self._guard, None
        try:
            if guard is not None:
                guard.close()
        finally:
            super()._release()


def _refuse_faults(seen: Observation) -> None:
    if seen.faults:
        raise DriverError(
            ", ".join(seen.faults), "put it on the floor, off its charger, and wake it"
        )
