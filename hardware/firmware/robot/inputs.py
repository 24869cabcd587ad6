# SPDX-License-Identifier: MIT
"""Stop input, bumper and arm button, with pull-ups; bumper and button are active low.

The stop input is wired normally closed to ground by default (`estop_nc`): pressing the button, or a
wire that breaks, lets the pull-up raise the pin, and the robot stops.
"""

import machine


class Inputs:
    """Levels of the inputs; absent pins never trigger."""

    def __init__(self, pins):
        self._estop = self._pin(pins.get("estop"))
        self._bumper = self._pin(pins.get("bumper"))
        self._button = self._pin(pins.get("arm_button"))
        self._stop_level = 1 if pins.get("estop_nc", True) else 0
        self._pressed_at = None

    @staticmethod
    def _pin(number):
        return None if number is None else machine.Pin(number, machine.Pin.IN, machine.Pin.PULL_UP)

    def stop(self):
        """Whether the stop input asks for a stop."""
        return self._estop is not None and self._estop.value() == self._stop_level

    def bumper(self):
        """Whether the bumper touches."""
        return self._bumper is not None and self._bumper.value() == 0

    def armed(self, now, ms=1500):
        """True once when the arm button was held for `ms`."""
        if self._button is None or self._button.value() != 0:
            self._pressed_at = None
            return False
        if self._pressed_at is None:
            self._pressed_at = now
        if self._pressed_at >= 0 and now - self._pressed_at >= ms:
            self._pressed_at = -1  # until it is let go
            return True
        return False
