# SPDX-License-Identifier: MIT
"""`SerialTextDriver`: a motor board that speaks lines of text; sketch in `arduino/kofn_robot`.

Each line is `<fields>*<XX>`, XX the XOR of the bytes before `*` as two hex digits. The board keeps
wheel counters, speeds and a dead-man of its own: without a valid V for its time-out it stops.

| we send | it answers | meaning |
|---|---|---|
| `I` | `i kofn1 <name> <v_max> <deadman>` | who are you; ticks/s, ms |
| `V <left> <right>` | `v <left> <right>` | wheel speeds wanted, really applied; ticks/s |
| `S` | `v 0 0` | stop |
| `Q` | `q <left> <right> <battery> <flags>` | counters mod 2^32, mV (0: none), flags |

Flags: 1 bumper, 2 stop input, 4 tilt, 8 motor driver fault.
"""

import contextlib
import math

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
from kofn.hardware.safety import Limits

PROTOCOL = "kofn1"
BUMPER, STOP_INPUT, TILT, MOTOR_FAULT = 1, 2, 4, 8


def framed(text: str) -> bytes:
    """Return a line with its checksum and end."""
    check = 0
    for byte in text.encode("ascii"):
        check ^= byte
    return f"{text}*{check:02X}\n".encode("ascii")


def unframed(line: bytes) -> list[str] | None:
    """Return the fields of a line; None when its checksum is wrong or missing."""
    text, star, _ = line.partition(b"*")
    try:
        if not star or framed(text.decode("ascii")).strip() != line.strip():
            return None
        return text.decode("ascii").split()
    except UnicodeDecodeError:
        return None


class SerialTextDriver(SerialRobot):
    """A differential-drive robot behind a board with text lines.

    Parameters
    ----------
    clock
        Stamps readings.
    port, baud
        Of the serial line.
    wheel_radius_m, track_m, ticks_per_rev
        Of the calibration.
    left_scale, right_scale
        Correction of each wheel's way, from the calibration.
    flip_left, flip_right
        A motor is mounted the other way round.
    v_max_mps, w_max_radps
        Greatest speeds asked for.
    answer_s
        Longest wait for an answer, and for a write where that is longer than 0.1 s.
    settle_s
        Longest wait after opening: many boards start anew when their port is opened.
    """

    STOP = b"S*53\n"

    def __init__(
        self,
        clock: Clock,
        *,
        port: str,
        baud: int = 115_200,
        wheel_radius_m: float = 0.0325,
        track_m: float = 0.15,
        ticks_per_rev: float = 1440.0,
        left_scale: float = 1.0,
        right_scale: float = 1.0,
        flip_left: bool = False,
        flip_right: bool = False,
        v_max_mps: float = 0.3,
        w_max_radps: float = 3.0,
        answer_s: float = 0.1,
        settle_s: float = 3.0,
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
        check_positive(
            wheel_radius_m=wheel_radius_m,
            ticks_per_rev=ticks_per_rev,
            left_scale=left_scale,
            right_scale=right_scale,
        )
        tick_m = 2 * math.pi * wheel_radius_m / ticks_per_rev
        self._left_m = tick_m * left_scale * (-1 if flip_left else 1)
        self._right_m = tick_m * right_scale * (-1 if flip_right else 1)
        self._wheel_max = float("inf")
        self.board = ""
        self.board_deadman_s = 0.0

    def capabilities(self) -> Capabilities:
        """Return a robot with odometry, battery and stop input."""
        return Capabilities(
            kind="serial",
            v_max=self._limits.v_max,
            w_max=self._limits.w_max,
            has_odometry=True,
            has_battery=True,
            has_estop_input=True,
        )

    @property
    def identity(self) -> str:
        """What answered at the port, with the protocol that it speaks; "" before `open`."""
        return f"{self.board}, protocol {PROTOCOL}" if self.board else ""

    async def open(self) -> None:
        """Take the port, stop the motors, check who answers."""
        self._line.open()
        try:
            self._line.write(self.STOP)
            fields = await self._identify()
            self.board = fields[2]
            scale = min(abs(self._left_m), abs(self._right_m))
            self._wheel_max = float(fields[3]) * scale
            self.board_deadman_s = float(fields[4]) / 1000
            self._counters = None
            await self._stopped()
        except BaseException:
            self._line.close()
            raise

    async def read(self) -> Observation:
        """Ask for counters, battery and flags."""
        fields = await self._ask("Q", "q", 5)
        left, right, millivolts, flags = (int(field) for field in fields[1:])
        old = self._counters or (left, right)
        self._counters = left, right
        dx, dy, dyaw = way_of(
            rolled(left, old[0], 32) * self._left_m,
            rolled(right, old[1], 32) * self._right_m,
            self._track_m,
        )
        faults = [
            name for bit, name in ((TILT, "tilt"), (MOTOR_FAULT, "motor driver")) if flags & bit
        ]
        return Observation(
            dx_m=dx,
            dy_m=dy,
            dyaw_rad=dyaw,
            battery_v=millivolts / 1000 if millivolts else None,
            bumper=bool(flags & BUMPER),
            estop_input=bool(flags & STOP_INPUT),
            faults=tuple(faults),
            stamp_s=self._clock.now(),
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Set wheel speeds; return what the board says that it applies."""
        v, w = checked_speeds(v, w, self._limits)
        self._line.checked()
        left, right = slowed(*wheels_of(v, w, self._track_m), self._wheel_max)
        ticks = round(left / self._left_m), round(right / self._right_m)
        fields = await self._ask(f"V {ticks[0]} {ticks[1]}", "v", 3)
        applied = int(fields[1]) * self._left_m, int(fields[2]) * self._right_m
        return Applied(*speeds_of(*applied, self._track_m))

    async def stop(self) -> None:
        """Send a stop; never raises, and does not wait for the answer."""
        with contextlib.suppress(Exception):
            self._line.write(self.STOP)

    async def _identify(self) -> list[str]:
        fields = await self._settled(lambda: self._ask("I", "i", 5))
        if fields[1] != PROTOCOL:
            raise DriverError(
                f"{self._line.port} speaks {fields[1]}, not {PROTOCOL}",
                "flash arduino/kofn_robot of this version",
            )
        return fields

    async def _stopped(self) -> None:
        fields = await self._ask("S", "v", 3)
        if fields[1:] != ["0", "0"]:
            raise DriverError("the board does not stop", "cut its motors' power and flash it again")

    async def _ask(self, text: str, answer: str, n_fields: int) -> list[str]:
        line = self._line
        line.forget_input()
        line.write(framed(text))
        for _ in range(8):  # answers to what was asked before, and torn lines, are passed over
            fields = unframed(await line.read_line(self._answer_s))
            if fields and fields[0] == answer and len(fields) == n_fields:
                return fields
            if fields and fields[0] == "e":
                raise InputError(f"the board refuses {text!r}: {' '.join(fields[1:])}")
        raise DriverError(
            f"{line.port} answers {text[:1]!r} with noise", "check baud rate, ground and cable"
        )
