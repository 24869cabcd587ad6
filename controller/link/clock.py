# SPDX-License-Identifier: MIT
"""Clocks that are handed to everything that waits.

All durations of a fleet (period, ttl, hold, option length) are *fleet seconds*. On physical robots
a fleet second is a second. A simulated fleet may run `speed` times faster; then every process of
the fleet uses the same factor, and no duration on the wire has to change.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock in fleet seconds."""

    def now(self) -> float:
        """Fleet seconds since an arbitrary start; never goes back."""
        ...

    def to_wall_s(self, duration_s: float) -> float:
        """How many seconds of the operating system's clock `duration_s` fleet seconds take."""
        ...


class MonotonicClock:
    """The operating system's monotonic clock, `speed` fleet seconds a second."""

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            msg = f"clock speed {speed} must be above 0"
            raise ValueError(msg)
        self.speed = speed

    def now(self) -> float:
        """Fleet seconds since an arbitrary start."""
        return time.monotonic() * self.speed

    def to_wall_s(self, duration_s: float) -> float:
        """Wall seconds of `duration_s` fleet seconds."""
        return duration_s / self.speed


class FakeClock:
    """A clock that moves only when told to: by a test, or by the memory bus."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now(self) -> float:
        """Fleet seconds as last set."""
        return self._now_s

    def to_wall_s(self, duration_s: float) -> float:  # noqa: ARG002  nothing waits on a fake clock
        """Return zero: nobody waits."""
        return 0.0

    def advance_to(self, time_s: float) -> None:
        """Move forward to `time_s`; a time in the past leaves the clock where it is."""
        self._now_s = max(self._now_s, time_s)
