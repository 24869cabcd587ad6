# SPDX-License-Identifier: MIT
"""`SerialPort`: a serial line that has one owner, never blocks for long, and fails with a hint."""

import asyncio
import errno
import time
from typing import Any

from kofn.controller.core.errors import RunError
from kofn.hardware.driver import DriverError
from kofn.hardware.lock_file import PortLock

WRITE_TIMEOUT_S = 0.1
LOOK_AGAIN_S = 0.001

_HINTS = {
    errno.ENOENT: "is the cable plugged in? `ls /dev/serial/by-id` lists what is there",
    errno.EACCES: "add the user to the group of the port, mostly: sudo usermod -aG dialout $USER",
    errno.EBUSY: "another program has the port open",
}


class SerialPort:
    """A serial line.

    Parameters
    ----------
    port
        Device, best by its unchanging name in /dev/serial/by-id.
    baud
        Bits a second.
    write_timeout_s
        Longest time for a write, at least 0.1 s. pyserial counts also the time in which a busy
        machine lets this process wait.
    """

    def __init__(self, port: str, baud: int, write_timeout_s: float = WRITE_TIMEOUT_S) -> None:
        self.port, self._baud = port, baud
        self._write_timeout_s = max(WRITE_TIMEOUT_S, write_timeout_s)
        self._lock = PortLock(port)
        self._line: Any = None
        self._buffer = b""

    @property
    def is_open(self) -> bool:
        """Whether the port is ours."""
        return self._line is not None

    def open(self) -> None:
        """Take the port; raises `DriverError`."""
        if self._line is not None:
            raise DriverError(f"{self.port} is open already", "close it first")
        try:
            import serial
        except ImportError as error:
            raise RunError("serial lines need pyserial: pip install kofn[hardware]") from error
        self._lock.take()
        try:
            self._line = serial.Serial(
                self.port,
                self._baud,
                timeout=0,
                write_timeout=self._write_timeout_s,
                exclusive=True,
            )
        except (serial.SerialException, OSError, ValueError) as error:
            self._lock.free()
            number = getattr(error, "errno", None)
            hint = _HINTS.get(number or 0, "check the name of the port and its cable")
            raise DriverError(f"cannot open {self.port}: {_words(error)}", hint) from error
        self._buffer = b""

    def write(self, data: bytes) -> None:
        """Send; raises `DriverError` when the line is gone or takes nothing in time."""
        line = self.checked()
        try:
            line.write(data)
        except OSError as error:  # pyserial's own errors are of that kind
            raise self._gone(error) from error

    def forget_input(self) -> None:
        """Drop what came unasked."""
        line = self.checked()
        self._buffer = b""
        try:
            while line.read(4096):
                pass
        except OSError as error:
            raise self._gone(error) from error

    async def read_bytes(self, n: int, timeout_s: float) -> bytes:
        """Return the next n bytes; raises `DriverError` when they do not come in time."""
        deadline_s = time.monotonic() + timeout_s
        while len(self._buffer) < n:
            await self._more(deadline_s, f"{n} bytes")
        data, self._buffer = self._buffer[:n], self._buffer[n:]
        return data

    async def read_line(self, timeout_s: float, *, most: int = 200) -> bytes:
        """Return the next line without its end; raises `DriverError` when none comes in time."""
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if len(self._buffer) > most:
                self._buffer = b""
            await self._more(deadline_s, "a line")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.strip(b"\r")

    def close(self) -> None:
        """Give the port back; idempotent. Raises what closing raises, once the lock is free."""
        line, self._line = self._line, None
        try:
            if line is not None:
                line.close()
        finally:
            self._lock.free()

    async def _more(self, deadline_s: float, wanted: str) -> None:
        line = self.checked()
        try:
            data = line.read(4096)
        except OSError as error:
            raise self._gone(error) from error
        if data:
            self._buffer += data
        elif time.monotonic() >= deadline_s:
            raise DriverError(
                f"{self.port} did not answer with {wanted} in time",
                "is the board powered, and are port, baud rate and firmware right?",
            )
        else:
            await asyncio.sleep(LOOK_AGAIN_S)

    def checked(self) -> Any:
        """Return the line; raises `DriverError` when it is not open."""
        if self._line is None:
            raise DriverError(f"{self.port} is not open", "open it first")
        return self._line

    def _gone(self, error: Exception) -> DriverError:
        return DriverError(f"{self.port} is gone: {_words(error)}", "is the cable plugged in?")


def _words(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or " ".join(str(error).split())[:120]
