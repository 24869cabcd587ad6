# SPDX-License-Identifier: MIT
"""Robots at the far end of a pty: a board with text lines, and a Create 2."""

import math
import os
import struct
import threading
import time
import tty
from pathlib import Path

from kofn.controller.core.errors import InputError
from kofn.hardware.drivers import create2, serial_text
from kofn.hardware.fakes.wheels import Wheels


class PtyDevice:
    """A device at the far end of a pty, in a thread of its own.

    Parameters
    ----------
    path
        What a driver opens: a link to the pty, there while the device is plugged in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wheels = Wheels()
        self.answers = True
        self.stop_pressed = False
        self.received = b""
        self._master = self._slave = -1
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def plug(self) -> None:
        """Be there; `InputError` where `path` is something else than a link, or cannot be made."""
        if self.path.exists() and not self.path.is_symlink():
            raise InputError(f"{self.path} exists already: a fake device never takes its place")
        self._master, self._slave = os.openpty()
        try:
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            self.path.unlink(missing_ok=True)
            self.path.symlink_to(os.ttyname(self._slave))
        except OSError as error:
            os.close(self._master)
            os.close(self._slave)
            raise InputError(f"cannot make {self.path}: {error.strerror}") from error
        self._end.clear()
        self._thread = threading.Thread(target=self._serve, name="pty-device")
        self._thread.start()

    def unplug(self) -> None:
        """Pull the cable: the device lives on without commands; idempotent."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            os.close(self._master)
            os.close(self._slave)
            self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._end.wait(0.001):
            self.on_time()
            try:
                data = os.read(self._master, 4096)
            except (BlockingIOError, OSError):
                continue
            self.received += data
            for answer in self.take(data):
                if self.answers:
                    os.write(self._master, answer)

    def on_time(self) -> None:
        """Do what the device does by itself."""

    def take(self, data: bytes) -> list[bytes]:
        """Take bytes as they come; return what it answers."""
        raise NotImplementedError


class TextBoard(PtyDevice):
    """A board with the lines of `serial_text`; the reference sketch in Python, dead-man and all."""

    TICK_M = 2 * math.pi * 0.0325 / 1440
    DEADMAN_S, MOST = 0.5, 4000
    LEAST = 0
    """Ticks a second below which the motors only hum."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._line = b""
        self._commanded_s = float("-inf")
        self.millivolts, self.flags = 7400, 0

    def on_time(self) -> None:
        """Stop when commands have ended."""
        if time.monotonic() - self._commanded_s >= self.DEADMAN_S and not self.wheels.still:
            self.wheels.set(0, 0)

    def take(self, data: bytes) -> list[bytes]:
        """Answer each whole line that has a right checksum."""
        answers = []
        self._line += data
        while b"\n" in self._line:
            line, _, self._line = self._line.partition(b"\n")
            fields = serial_text.unframed(line)
            if fields:
                answers.append(serial_text.framed(self.answer(fields)))
        return answers

    def answer(self, fields: list[str]) -> str:
        """Do what a line says; return the line that answers it."""
        if fields[0] == "I":
            return f"i kofn1 fake {self.MOST} 500"
        if fields[0] == "Q":
            left, right = (round(way / self.TICK_M) % 2**32 for way in self.wheels.ways())
            flags = self.flags | (serial_text.STOP_INPUT if self.stop_pressed else 0)
            return f"q {left} {right} {self.millivolts} {flags}"
        if fields[0] == "V" and len(fields) == 3 and not self.stop_pressed:
            left, right = (max(-self.MOST, min(self.MOST, int(field))) for field in fields[1:])
            self._commanded_s = time.monotonic()
            speeds = (0 if abs(way) < self.LEAST else way for way in (left, right))
            self.wheels.set(*(way * self.TICK_M for way in speeds))
            return f"v {left} {right}"
        self.wheels.set(0, 0)
        return "v 0 0"


class FakeCreate2(PtyDevice):
    """A Create 2: no time-out of its own, as the real one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._bytes = b""
        self.mode, self.bumps = 0, 0

    def take(self, data: bytes) -> list[bytes]:
        """Do each whole command; a query is answered."""
        self._bytes += data
        answers = []
        while self._bytes:
            code = self._bytes[0]
            length = {create2.DRIVE_DIRECT: 5}.get(code, 1)
            if code == create2.QUERY:
                length = 2 + self._bytes[1] if len(self._bytes) > 1 else 2
            if len(self._bytes) < length:
                break
            command, self._bytes = self._bytes[:length], self._bytes[length:]
            answers += self._do(code, command)
        return answers

    def _do(self, code: int, command: bytes) -> list[bytes]:
        if code == create2.START:
            self.mode = 1
        elif code == create2.SAFE:
            self.mode = create2.MODE_SAFE
        elif code == create2.DRIVE_DIRECT and self.mode >= create2.MODE_SAFE:
            _, right, left = struct.unpack(">Bhh", command)
            self.wheels.set(left / 1000, right / 1000)
        elif code == create2.QUERY:
            left, right = (round(way / create2.M_PER_COUNT) % 2**16 for way in self.wheels.ways())
            return [create2.ANSWER.pack(self.bumps, 0, 15_000, self.mode, left, right)]
        return []
