# SPDX-License-Identifier: MIT
"""`GpioDriver`: H-bridge, encoders, stop input and bumper on the pins of a Linux board (gpiozero).

    PWM value of a wheel = sign * (deadband + (1 - deadband) * |speed| / wheel_max),   0 for speed 0

The stop input is wired as a normally closed contact to ground: pressed, and a broken wire, read
high. It stops the motors in gpiozero's own thread, before any loop looks at it. Without encoders
the robot has no odometry and needs poses from a localiser.
"""

import contextlib
import math
from typing import Any

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Capabilities, DriverError, Observation
from kofn.hardware.drivers.speeds import (
    check_positive,
    checked_speeds,
    slowed,
    speeds_of,
    way_of,
    wheels_of,
)
from kofn.hardware.lock_file import PortLock
from kofn.hardware.safety import Limits, check_limits

Pins = tuple[int, int]


class GpioDriver:
    """A differential-drive robot on GPIO pins (BCM numbers).

    Parameters
    ----------
    clock
        Stamps readings.
    left, right
        Pins (forward, back) of each motor's half-bridges.
    left_encoder, right_encoder
        Pins (a, b) of quadrature encoders; both or neither.
    estop, bumper
        Pins of a stop contact (normally closed to ground) and a bumper (closes to ground).
    wheel_max_mps
        Speed of a wheel at full power.
    deadband
        Share of full power below which a wheel does not turn, 0 to 0.9.
    wheel_radius_m, track_m, ticks_per_rev, left_scale, right_scale, flip_left, flip_right
        Of the calibration.
    v_max_mps, w_max_radps
        Greatest speeds asked for.
    pin_factory
        gpiozero's; None chooses the board's.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        left: Pins,
        right: Pins,
        left_encoder: Pins | None = None,
        right_encoder: Pins | None = None,
        estop: int | None = None,
        bumper: int | None = None,
        wheel_max_mps: float = 0.4,
        deadband: float = 0.0,
        wheel_radius_m: float = 0.0325,
        track_m: float = 0.15,
        ticks_per_rev: float = 360.0,
        left_scale: float = 1.0,
        right_scale: float = 1.0,
        flip_left: bool = False,
        flip_right: bool = False,
        v_max_mps: float = 0.3,
        w_max_radps: float = 3.0,
        pin_factory: Any = None,
    ) -> None:
        check_positive(
            wheel_max_mps=wheel_max_mps,
            wheel_radius_m=wheel_radius_m,
            track_m=track_m,
            ticks_per_rev=ticks_per_rev,
            left_scale=left_scale,
            right_scale=right_scale,
        )
        if not 0 <= deadband <= 0.9:
            raise InputError(f"deadband = {deadband} must lie in 0..0.9")
        if (left_encoder is None) != (right_encoder is None):
            raise InputError("left_encoder and right_encoder belong together")
        pins = [*left, *right, *(left_encoder or ()), *(right_encoder or ())]
        pins += [pin for pin in (estop, bumper) if pin is not None]
        doubled = {pin for pin in pins if pins.count(pin) > 1}
        if doubled:
            raise InputError(f"pin {min(doubled)} is used twice")
        self._limits = check_limits(Limits(v_max_mps, w_max_radps))
        self._clock, self._factory = clock, pin_factory
        self._motors = (left[::-1] if flip_left else left, right[::-1] if flip_right else right)
        self._encoders, self._estop, self._bumper = (left_encoder, right_encoder), estop, bumper
        self._wheel_max, self._deadband, self._track_m = wheel_max_mps, deadband, track_m
        tick_m = 2 * math.pi * wheel_radius_m / ticks_per_rev
        self._left_m = tick_m * left_scale * (-1 if flip_left else 1)
        self._right_m = tick_m * right_scale * (-1 if flip_right else 1)
        self._lock = PortLock("gpio-" + "-".join(map(str, sorted(pins))))
        self._devices: list[Any] = []
        self._wheels: tuple[Any, Any] | None = None
        self._counters: tuple[Any, Any] | None = None
        self._steps = (0, 0)
        self._stop_contact: Any = None
        self._bumper_contact: Any = None

    def capabilities(self) -> Capabilities:
        """Return what the pins given make possible."""
        return Capabilities(
            kind="gpio",
            v_max=self._limits.v_max,
            w_max=self._limits.w_max,
            has_odometry=self._encoders[0] is not None,
            has_battery=False,
            has_estop_input=self._estop is not None,
        )

    async def open(self) -> None:
        """Take the pins; motors are at zero."""
        if self._wheels is not None:
            raise DriverError("the pins are open already", "close them first")
        try:
            import gpiozero
        except ImportError as error:
            raise RunError("pins need gpiozero: pip install kofn[hardware]") from error
        self._lock.take()
        try:
            wheels = [
                self._keep(gpiozero.Motor(*pins, pwm=True, pin_factory=self._factory))
                for pins in self._motors
            ]
            self._wheels = wheels[0], wheels[1]
            self._open_senses(gpiozero)
        except Exception as error:
            self._release()
            raise DriverError(
                f"cannot take the pins: {type(error).__name__}: {error}",
                "on a Raspberry Pi install the distribution's packages: "
                "sudo apt install python3-gpiozero python3-lgpio",
            ) from error
        self._halt()

    async def read(self) -> Observation:
        """Return steps since the last read and the contacts."""
        self._checked()
        dx = dy = dyaw = 0.0
        if self._counters is not None:
            steps = self._counters[0].steps, self._counters[1].steps
            left, right = steps[0] - self._steps[0], steps[1] - self._steps[1]
            self._steps = steps
            dx, dy, dyaw = way_of(left * self._left_m, right * self._right_m, self._track_m)
        return Observation(
            dx_m=dx,
            dy_m=dy,
            dyaw_rad=dyaw,
            battery_v=None,
            bumper=self._bumper_contact is not None and self._bumper_contact.is_active,
            estop_input=self._pressed(),
            faults=(),
            stamp_s=self._clock.now(),
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Set the PWM of both wheels; zero while the stop contact is open."""
        v, w = checked_speeds(v, w, self._limits)
        wheels = self._checked()
        left, right = slowed(*wheels_of(v, w, self._track_m), self._wheel_max)
        if self._pressed():
            left = right = 0.0
        for wheel, speed in zip(wheels, (left, right), strict=True):
            wheel.value = self._power(speed)
        return Applied(*speeds_of(left, right, self._track_m))

    async def stop(self) -> None:
        """PWM to zero; never raises."""
        self._halt()

    async def close(self) -> None:
        """Stop and give the pins back."""
        self._halt()
        failures = self._release()
        if failures:
            raise ExceptionGroup("closing the pins", failures)

    def _open_senses(self, gpiozero: Any) -> None:
        factory = self._factory
        first, second = self._encoders
        if first is not None and second is not None:
            counters = [
                self._keep(gpiozero.RotaryEncoder(*pins, max_steps=0, pin_factory=factory))
                for pins in (first, second)
            ]
            self._counters = counters[0], counters[1]
            self._steps = counters[0].steps, counters[1].steps
        if self._estop is not None:
            contact = gpiozero.DigitalInputDevice(self._estop, pull_up=True, pin_factory=factory)
            self._stop_contact = self._keep(contact)
            contact.when_deactivated = self._halt  # high: opened
        if self._bumper is not None:
            contact = gpiozero.DigitalInputDevice(self._bumper, pull_up=True, pin_factory=factory)
            self._bumper_contact = self._keep(contact)

    def _keep(self, device: Any) -> Any:
        self._devices.append(device)
        return device

    def _pressed(self) -> bool:
        return self._stop_contact is not None and not self._stop_contact.is_active

    def _halt(self) -> None:
        for wheel in self._wheels or ():
            with contextlib.suppress(Exception):
                wheel.value = 0

    def _power(self, speed: float) -> float:
        if speed == 0:
            return 0.0
        share = self._deadband + (1 - self._deadband) * min(abs(speed) / self._wheel_max, 1.0)
        return share if speed > 0 else -share

    def _checked(self) -> tuple[Any, Any]:
        if self._wheels is None:
            raise DriverError("the pins are not open", "open them first")
        return self._wheels

    def _release(self) -> list[Exception]:
        failures: list[Exception] = []
        for device in reversed(self._devices):
            try:
                device.close()
            except Exception as error:  # noqa: BLE001  every pin is given back, then it is told
                failures.append(error)
        self._devices.clear()
        self._wheels = self._counters = self._stop_contact = self._bumper_contact = None
        self._lock.free()
        return failures
