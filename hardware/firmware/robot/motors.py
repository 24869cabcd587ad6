# SPDX-License-Identifier: MIT
"""Two wheels behind an H-bridge with two PWM pins a side (IN1 forward, IN2 backward).

    left = v - w track / 2,   right = v + w track / 2   (m/s at the rim)
    duty = sign * (deadband + (1 - deadband) |speed| / full speed) * scale,  0 at speed 0
"""

import machine

FULL = 65535


class Motors:
    """`drive` is called by the safety gate alone; `off` may be called by anybody, also in IRQs."""

    def __init__(self, pins, cal):
        freq = pins.get("pwm_hz", 20000)
        self._pwm = [
            machine.PWM(machine.Pin(pins[name]), freq=freq, duty_u16=0)
            for name in ("left_1", "left_2", "right_1", "right_2")
        ]
        self._track = cal.get("track_m", 0.16)
        self._full = cal.get("full_speed_mps", 0.6)
        self._deadband = cal.get("deadband", 0.0)
        self._scale = (cal.get("left_scale", 1.0), cal.get("right_scale", 1.0))
        self._flip = (cal.get("flip_left", False), cal.get("flip_right", False))
        self.applied = (0.0, 0.0)
        self.off()

    def drive(self, v, w):
        """Turn the wheels; return the speeds that the duties stand for."""
        half = w * self._track / 2
        left = self._side(0, v - half)
        right = self._side(1, v + half)
        self.applied = ((left + right) / 2, (right - left) / self._track)
        return self.applied

    def off(self):
        """All duties to zero: idempotent, raises nothing, allocates nothing."""
        a, b, c, d = self._pwm
        a.duty_u16(0)
        b.duty_u16(0)
        c.duty_u16(0)
        d.duty_u16(0)

    def _side(self, side, speed):
        ratio = max(-1.0, min(1.0, speed / self._full))
        size = 0.0
        if ratio != 0:
            size = self._deadband + (1 - self._deadband) * abs(ratio)
        duty = int(min(1.0, size * self._scale[side]) * FULL)
        forward = (ratio > 0) != self._flip[side]
        first, second = self._pwm[2 * side], self._pwm[2 * side + 1]
        if forward:
            second.duty_u16(0)
            first.duty_u16(duty)
        else:
            first.duty_u16(0)
            second.duty_u16(duty)
        return ratio * self._full
