# SPDX-License-Identifier: MIT
"""Battery voltage through a divider: volts = 3.3 * raw / 65535 * divider, smoothed over 8 reads."""

import machine


class Battery:
    """None as reading where there is no pin for it."""

    def __init__(self, pins):
        pin = pins.get("battery")
        self._adc = None if pin is None else machine.ADC(machine.Pin(pin))
        self._divider = pins.get("battery_divider", 2.0)
        self._volts = None

    def read(self):
        """Volts, or None."""
        if self._adc is None:
            return None
        volts = 3.3 * self._adc.read_u16() / 65535 * self._divider
        self._volts = volts if self._volts is None else self._volts + (volts - self._volts) / 8
        return self._volts
