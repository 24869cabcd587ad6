# SPDX-License-Identifier: MIT
"""Devices for tests: each answers on the far end of a real line and knows what its motors do."""

import asyncio
import contextlib
import json
import math
import os
import struct
import threading
import time
import tty
from pathlib import Path
from typing import Any

from kofn.controller.link.clock import Clock, FakeClock, MonotonicClock
from kofn.hardware.driver import Applied, Driver
from kofn.hardware.drivers import create2, rosbridge, serial_text, speeds
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.drivers.gpio import GpioDriver


class Wheels:
    """Two wheels that turn as told; every change is stamped."""

    def __init__(self) -> None:
        self.left = self.right = 0.0
        self.left_m = self.right_m = 0.0
        self._since_s = time.monotonic()
        self.changes: list[tuple[float, float, float]] = []
        self.lock = threading.Lock()

    def set(self, left: float, right: float) -> None:
        with self.lock:
            self._roll()
            if (left, right) != (self.left, self.right):
                self.changes.append((self._since_s, left, right))
            self.left, self.right = left, right

    def ways(self) -> tuple[float, float]:
        with self.lock:
            self._roll()
            return self.left_m, self.right_m

    def _roll(self) -> None:
        now_s = time.monotonic()
        dt_s, self._since_s = now_s - self._since_s, now_s
        self.left_m += self.left * dt_s
        self.right_m += self.right * dt_s

    @property
    def still(self) -> bool:
        return self.left == 0 and self.right == 0


class PtyDevice:
    """A device at the far end of a pty, in a thread of its own; `path` is what a driver opens."""

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
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))
        self._end.clear()
        self._thread = threading.Thread(target=self._serve, name="pty-device")
        self._thread.start()

    def unplug(self) -> None:
        """Pull the cable: the device lives on without commands."""
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
        raise NotImplementedError


class TextBoard(PtyDevice):
    """A board with the lines of `serial_text`; the reference sketch in Python, dead-man and all."""

    TICK_M = 2 * math.pi * 0.0325 / 1440
    DEADMAN_S, MOST = 0.5, 4000

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._line = b""
        self._commanded_s = float("-inf")
        self.millivolts, self.flags = 7400, 0

    def on_time(self) -> None:
        if time.monotonic() - self._commanded_s >= self.DEADMAN_S and not self.wheels.still:
            self.wheels.set(0, 0)

    def take(self, data: bytes) -> list[bytes]:
        answers = []
        self._line += data
        while b"\n" in self._line:
            line, _, self._line = self._line.partition(b"\n")
            fields = serial_text.unframed(line)
            if fields:
                answers.append(serial_text.framed(self.answer(fields)))
        return answers

    def answer(self, fields: list[str]) -> str:
        if fields[0] == "I":
            return f"i kofn1 fake {self.MOST} 500"
        if fields[0] == "Q":
            left, right = (round(way / self.TICK_M) % 2**32 for way in self.wheels.ways())
            flags = self.flags | (serial_text.STOP_INPUT if self.stop_pressed else 0)
            return f"q {left} {right} {self.millivolts} {flags}"
        if fields[0] == "V" and len(fields) == 3 and not self.stop_pressed:
            left, right = (max(-self.MOST, min(self.MOST, int(field))) for field in fields[1:])
            self._commanded_s = time.monotonic()
            self.wheels.set(left * self.TICK_M, right * self.TICK_M)
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


class FakeRosbridge:
    """A rosbridge server with one base: 40 lines, no ROS; odometry 20 times a second."""

    TRACK_M = 1.0

    def __init__(self, port: int = 0) -> None:
        self.port, self.wheels = port, Wheels()
        self.advertised: list[str] = []
        self.subscribed: list[str] = []
        self.answers = True
        self._pose = (0.0, 0.0, 0.0)
        self._ways = (0.0, 0.0)
        self._server: Any = None

    async def plug(self) -> None:
        from websockets.asyncio.server import serve

        self._server = await serve(self._talk, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def unplug(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def _talk(self, peer: Any) -> None:
        from websockets import ConnectionClosed

        telling = asyncio.create_task(self._tell(peer))
        with contextlib.suppress(ConnectionClosed):
            async for text in peer:
                message = json.loads(text)
                if message["op"] == "advertise":
                    self.advertised.append(message["topic"])
                elif message["op"] == "subscribe":
                    self.subscribed.append(message["topic"])
                elif message["op"] == "publish" and message["topic"] in self.advertised:
                    twist = message["msg"].get("twist", message["msg"])
                    v, w = twist["linear"]["x"], twist["angular"]["z"]
                    self.wheels.set(v - w * self.TRACK_M / 2, v + w * self.TRACK_M / 2)
        telling.cancel()
        self.advertised.clear()
        self.subscribed.clear()

    async def _tell(self, peer: Any) -> None:
        cos, sin = math.cos, math.sin
        while True:
            ways = self.wheels.ways()
            steps = ways[0] - self._ways[0], ways[1] - self._ways[1]
            self._ways = ways
            dx, dy, turn = speeds.way_of(*steps, self.TRACK_M)
            x, y, yaw = self._pose
            x, y = x + dx * cos(yaw) - dy * sin(yaw), y + dx * sin(yaw) + dy * cos(yaw)
            self._pose = x, y, yaw + turn
            q = {"x": 0.0, "y": 0.0, "z": sin(self._pose[2] / 2), "w": cos(self._pose[2] / 2)}
            pose = {"pose": {"position": {"x": x, "y": y, "z": 0.0}, "orientation": q}}
            if self.answers and "/odom" in self.subscribed:
                await peer.send(
                    json.dumps({"op": "publish", "topic": "/odom", "msg": {"pose": pose}})
                )
            await asyncio.sleep(0.02)


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
