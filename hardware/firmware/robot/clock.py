# SPDX-License-Identifier: MIT
"""Monotonic time in whole milliseconds that does not wrap while the robot is on."""

import asyncio
import time

try:
    _ticks_ms, _ticks_diff = time.ticks_ms, time.ticks_diff
except AttributeError:  # CPython, in tests

    def _ticks_ms():
        return time.monotonic_ns() // 1000000

    def _ticks_diff(a, b):
        return a - b


class Clock:
    """`speed` above 1 is for the bench only: everything, timers too, runs that much faster."""

    def __init__(self, speed=1):
        self.speed = speed
        self._last = _ticks_ms()
        self._sum = 0

    def now(self):
        """Milliseconds since the start; asked at least once in the six minutes of a half wrap."""
        ticks = _ticks_ms()
        self._sum += _ticks_diff(ticks, self._last)
        self._last = ticks
        return int(self._sum * self.speed)

    async def sleep(self, ms):
        """Let the others work for `ms`."""
        await asyncio.sleep(ms / 1000 / self.speed)
