# SPDX-License-Identifier: MIT
"""`SerialRobot`: what drivers of wheeled robots on a serial line share: its end, and patience."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kofn.controller.link.clock import Clock
from kofn.hardware.driver import DriverError
from kofn.hardware.drivers.serial_port import SerialPort
from kofn.hardware.drivers.speeds import check_positive
from kofn.hardware.safety import Limits, check_limits

Answer = TypeVar("Answer")


class SerialRobot:
    """Base of a driver; parameters are its subclasses'."""

    STOP = b""
    """Bytes that stop the motors."""
    FAREWELL = b""
    """Bytes after the last stop."""

    def __init__(
        self,
        clock: Clock,
        *,
        port: str,
        baud: int,
        track_m: float,
        limits: Limits,
        answer_s: float,
        settle_s: float,
    ) -> None:
        check_positive(track_m=track_m, answer_s=answer_s, settle_s=settle_s)
        self._limits = check_limits(limits)
        self._clock, self._line = clock, SerialPort(port, baud, answer_s)
        self._track_m, self._answer_s, self._settle_s = track_m, answer_s, settle_s
        self._counters: tuple[int, int] | None = None

    async def close(self) -> None:
        """Stop, give the port back; raises an `ExceptionGroup` of what failed."""
        failures: list[Exception] = []
        if self._line.is_open:
            try:
                self._line.write(self.STOP + self.FAREWELL)
            except DriverError as error:
                failures.append(error)
        try:
            self._release()
        except Exception as error:  # noqa: BLE001  reported with what failed before
            failures.append(error)
        if failures:
            raise ExceptionGroup(f"closing {self._line.port}", failures)

    def _release(self) -> None:
        """Give back what `open` took."""
        self._line.close()

    async def _settled(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until it answers: a board that was just reset, or a busy machine, takes its time."""
        deadline_s = self._clock.now() + self._settle_s
        while True:
            try:
                return await ask()
            except DriverError as error:
                if "did not answer" not in error.cause or self._clock.now() >= deadline_s:
                    raise
