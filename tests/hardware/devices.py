# SPDX-License-Identifier: MIT
"""Benches of the conformance suite: each driver of ours with a device without hardware."""

import asyncio
import math
from pathlib import Path
from typing import Any

from kofn.controller.link.clock import Clock, FakeClock, MonotonicClock
from kofn.hardware.driver import Applied, Driver
from kofn.hardware.drivers import rosbridge, speeds
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.drivers.gpio import GpioDriver
from kofn.hardware.fakes.rosbridge_server import FakeRosbridge
from kofn.hardware.fakes.serial_devices import FakeCreate2, PtyDevice, TextBoard

__all__ = ["DryRunBench", "FakeCreate2", "GpioBench", "PtyBench", "RosbridgeBench", "TextBoard"]


class DryRunBench:
    settle_s = 0.05

    def __init__(
        self, driver_class: type[DryRunDriver] = DryRunDriver, clock: Clock | None = None
    ) -> None:
        self.clock = clock or FakeClock()
        self._driver = driver_class(self.clock)
        self.driver: Driver = self._driver

    async def start(self) -> None:
        pass

    async def finish(self) -> None:
        pass

    async def wait(self, duration_s: float) -> None:
        if isinstance(self.clock, FakeClock):
            self.clock.advance_to(self.clock.now() + duration_s)
        else:
            await asyncio.sleep(duration_s)

    def motors(self) -> Applied:
        return self._driver.applied

    async def break_link(self) -> bool:
        return False

    async def mend_link(self) -> None:
        pass

    async def silence(self) -> bool:
        return False

    def rival(self) -> Driver | None:
        return None


class PtyBench:
    """A serial driver and its device."""

    settle_s = 0.05

    def __init__(self, folder: Path, device: type[PtyDevice], driver: Any, track_m: float) -> None:
        self.device = device(folder / "port")
        self._driver, self._track_m = driver, track_m
        self.driver = self._make()

    def _make(self) -> Driver:
        made: Driver = self._driver(
            MonotonicClock(), port=str(self.device.path), track_m=self._track_m, answer_s=0.3
        )
        return made

    async def start(self) -> None:
        self.device.plug()

    async def finish(self) -> None:
        self.device.unplug()

    async def wait(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def motors(self) -> Applied:
        wheels = self.device.wheels
        return Applied(*speeds.speeds_of(wheels.left, wheels.right, self._track_m))

    async def break_link(self) -> bool:
        self.device.unplug()
        self.device.wheels.set(0, 0)  # what becomes of the wheels is the board's affair
        return True

    async def mend_link(self) -> None:
        self.device.plug()

    async def silence(self) -> bool:
        self.device.answers = False
        return True

    def rival(self) -> Driver | None:
        return self._make()


class GpioBench:
    """Mock pins of gpiozero; encoders are turned by what the PWM pins do."""

    settle_s = 0.05

    LEFT, RIGHT, ENCODERS, ESTOP = (5, 6), (13, 19), ((17, 27), (22, 23)), 24
    MOST, TRACK_M = 0.4, 0.15

    def __init__(self) -> None:
        from gpiozero.pins.mock import MockFactory, MockPWMPin

        class Contact(MockPWMPin):  # type: ignore[misc]
            """A closed contact to ground is stronger than a pull-up."""

            def _set_pull(self, value: str) -> None:
                super()._set_pull(value)
                self._change_state(False)

        self.factory: Any = MockFactory(pin_class=MockPWMPin)
        self.contact = self.factory.pin(self.ESTOP, pin_class=Contact)
        self.driver: Driver = self._make()
        self._phase = [0.0, 0.0]
        self._at = [0, 0]

    def _make(self) -> Driver:
        return GpioDriver(
            MonotonicClock(),
            left=self.LEFT,
            right=self.RIGHT,
            left_encoder=self.ENCODERS[0],
            right_encoder=self.ENCODERS[1],
            estop=self.ESTOP,
            ticks_per_rev=360,
            pin_factory=self.factory,
        )

    async def start(self) -> None:
        self.contact.drive_low()  # closed: not pressed

    async def finish(self) -> None:
        self.factory.reset()
        self.factory.close()

    async def wait(self, duration_s: float) -> None:
        await asyncio.sleep(0)
        tick_m = 2 * math.pi * 0.0325 / 360
        for i, pins in enumerate((self.LEFT, self.RIGHT)):
            self._phase[i] += self._wheel(pins) * duration_s / tick_m
            while abs(self._phase[i] - self._at[i]) >= 1:
                self._turn(i, forward=self._phase[i] > self._at[i])

    def _turn(self, wheel: int, *, forward: bool) -> None:
        first, second = self.ENCODERS[wheel] if forward else self.ENCODERS[wheel][::-1]
        for pin, low in ((first, True), (second, True), (first, False), (second, False)):
            mock = self.factory.pin(pin)
            (mock.drive_low if low else mock.drive_high)()
        self._at[wheel] += 1 if forward else -1

    def _wheel(self, pins: tuple[int, int]) -> float:
        forward, back = (self.factory.pin(pin) for pin in pins)
        powers = [float(pin.state) if pin.function == "output" else 0.0 for pin in (forward, back)]
        return (powers[0] - powers[1]) * self.MOST

    def motors(self) -> Applied:
        return Applied(
            *speeds.speeds_of(self._wheel(self.LEFT), self._wheel(self.RIGHT), self.TRACK_M)
        )

    async def break_link(self) -> bool:
        return False

    async def mend_link(self) -> None:
        pass

    async def silence(self) -> bool:
        return False

    def rival(self) -> Driver | None:
        return self._make()


class RosbridgeBench:
    settle_s = 0.05

    def __init__(self) -> None:
        self.server = FakeRosbridge()

    def _make(self) -> Driver:
        return rosbridge.RosbridgeDriver(MonotonicClock(), url=f"ws://127.0.0.1:{self.server.port}")

    async def start(self) -> None:
        await self.server.plug()
        self.driver: Driver = self._make()

    async def finish(self) -> None:
        await self.server.unplug()

    async def wait(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def motors(self) -> Applied:
        wheels = self.server.wheels
        return Applied(*speeds.speeds_of(wheels.left, wheels.right, FakeRosbridge.TRACK_M))

    async def break_link(self) -> bool:
        await self.server.unplug()
        self.server.wheels.set(0, 0)  # what becomes of the wheels is the base's affair
        return True

    async def mend_link(self) -> None:
        await self.server.plug()

    async def silence(self) -> bool:
        self.server.answers = False
        return True

    def rival(self) -> Driver | None:
        return self._make()
