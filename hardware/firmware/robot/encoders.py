# SPDX-License-Identifier: MIT
"""Wheel encoders, counted by interrupts: each edge of A adds or subtracts one, by the level of B.

Odometry since the last read:  d = (left + right) / 2,  dyaw = (right - left) / track.
"""

import math

import machine


class _Wheel:
    def __init__(self, a, b, flip):
        self.count = 0
        self._a = machine.Pin(a, machine.Pin.IN)
        self._b = machine.Pin(b, machine.Pin.IN)
        self._sign = -1 if flip else 1
        self._a.irq(handler=self._edge, trigger=machine.Pin.IRQ_RISING | machine.Pin.IRQ_FALLING)

    def _edge(self, _pin):
        # A differs from B: forward. Two edges a line, so twice the lines of the disc per turn.
        self.count += self._sign if self._a.value() != self._b.value() else -self._sign


class Encoders:
    """Odometry of a differential drive."""

    def __init__(self, pins, cal):
        self._left = _Wheel(pins["enc_left_a"], pins["enc_left_b"], cal.get("flip_left", False))
        self._right = _Wheel(pins["enc_right_a"], pins["enc_right_b"], cal.get("flip_right", False))
        turn = 2 * math.pi * cal.get("wheel_radius_m", 0.035)
        self._metres = turn / cal.get("ticks_per_rev", 720)
        self._track = cal.get("track_m", 0.16)
        self._seen = (0, 0)

    def counts(self):
        """Both counts, from one instant."""
        state = machine.disable_irq()
        counts = (self._left.count, self._right.count)
        machine.enable_irq(state)
        return counts

    def read(self):
        """(forward m, turn rad) since the last read."""
        counts = self.counts()
        left = (counts[0] - self._seen[0]) * self._metres
        right = (counts[1] - self._seen[1]) * self._metres
        self._seen = counts
        return (left + right) / 2, (right - left) / self._track
