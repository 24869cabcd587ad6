# SPDX-License-Identifier: MIT
"""The second dead-man: a hardware timer that stops the motors when the safety task is silent.

It needs nothing of the event loop, so it works while a sensor read, a TLS handshake or a look-up
blocks it. The watchdog behind it resets a board whose interpreter hangs; a reset stops the pins.
"""

import machine

from robot.clock import _ticks_diff, _ticks_ms


class Guard:
    """`beat` is called by the safety task only."""

    def __init__(self, off, limit, watchdog=8000):
        self._off = off
        self._beat = _ticks_ms()
        self.fired = 0
        self._timer = machine.Timer(-1)
        self._period = max(5, min(20, limit // 10))
        self._late = limit - self._period  # one that looks later than that looks after the limit
        self._wdt_ms = watchdog
        self._wdt = None

    def start(self):
        """Begin; from here on a silent safety task ends in a stop."""
        self._beat = _ticks_ms()
        self._timer.init(period=self._period, callback=self._look)
        if self._wdt_ms and hasattr(machine, "WDT"):
            self._wdt = machine.WDT(timeout=self._wdt_ms)

    def beat(self):
        """The safety task is alive."""
        self._beat = _ticks_ms()
        if self._wdt is not None:
            self._wdt.feed()

    def _look(self, _timer):
        # Runs in an interrupt: integers only, nothing is allocated.
        if _ticks_diff(_ticks_ms(), self._beat) > self._late:
            self.fired += 1
            self._off()

    def stop(self):
        """End of the process."""
        self._timer.deinit()
