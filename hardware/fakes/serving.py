# SPDX-License-Identifier: MIT
"""Devices without hardware as a process: they are there until told to end.

`kofn fake` and `python -m kofn.hardware.fakes DEVICE` (one device as JSON) start one. Once it is
there, it says what a driver needs to reach it: the driver's settings, as JSON.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.link.tls import TlsFiles
from kofn.controller.link.transport import Outbound, Session, Transport
from kofn.hardware.drivers.vda5050 import check_vehicle
from kofn.hardware.drivers.vda5050_messages import Dialect, Name
from kofn.hardware.fakes.rosbridge_server import FakeRosbridge
from kofn.hardware.fakes.serial_devices import FakeCreate2, PtyDevice, TextBoard
from kofn.hardware.fakes.vehicle import FakeVehicle

TICK_S = 0.05
STATE_S = 1.0
"""A vehicle says its state so often, and at once when there is something new."""
BASE_DEADMAN_S = 0.5

Ended = Callable[[float], bool]
"""Waits for at most so many seconds; says whether to end."""
Ready = Callable[[dict[str, Any]], None]


class Device(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    """One process of devices; `ready` is a file for the driver's settings ("": none)."""

    ready: str = ""


class SerialDevice(Device, frozen=True, kw_only=True, tag="serial"):
    """A board with text lines; `port` is the link to make."""

    port: str


class Create2Device(Device, frozen=True, kw_only=True, tag="create2"):
    """A Create 2; `port` is the link to make."""

    port: str


class RosbridgeDevice(Device, frozen=True, kw_only=True, tag="rosbridge"):
    """A rosbridge server with one base; `port` 0 takes a free one."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 0


class FakeVehicleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vehicle, the node that it stands on and where that is; certificates where TLS asks."""

    manufacturer: str = "acme"
    serial: str = "S1"
    dialect: Dialect = 2
    node: Name = "z0"
    x: float = 0.0
    y: float = 0.0
    speed_mps: Annotated[float, Meta(gt=0, le=3)] = 0.4
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


class VehiclesDevice(Device, frozen=True, kw_only=True, tag="vda5050"):
    """VDA 5050 vehicles on their broker."""

    url: str
    vehicles: Annotated[list[FakeVehicleSettings], Meta(min_length=1)]


AnyDevice = SerialDevice | Create2Device | RosbridgeDevice | VehiclesDevice


def read_device(text: str | bytes) -> AnyDevice:
    """Read a device from JSON; raises `InputError`."""
    try:
        device: AnyDevice = msgspec.json.decode(text, type=AnyDevice)
    except msgspec.MsgspecError as error:
        raise InputError(f"device: {error}") from error
    return device


def serve(
    device: AnyDevice, ended: Ended, tell: Callable[[dict[str, Any]], None] = lambda _: None
) -> None:
    """Be a device until `ended`; `tell` hears the driver's settings once it is there.

    Raises
    ------
    InputError, RunError
        A port that is somebody else's, or a broker that does not let a vehicle in.
    """

    def ready(settings: dict[str, Any]) -> None:
        if device.ready:
            write_atomic(Path(device.ready), msgspec.json.encode(settings))
        tell(settings)

    if isinstance(device, VehiclesDevice):
        _serve_vehicles(device, ended, ready)
    elif isinstance(device, RosbridgeDevice):
        asyncio.run(_serve_base(device, ended, ready))
    else:
        kind: type[PtyDevice] = TextBoard if isinstance(device, SerialDevice) else FakeCreate2
        board = kind(Path(device.port))
        board.plug()
        try:
            ready({"port": device.port})
            while not ended(1.0):
                board.received = b""  # kept for tests that look at it; nobody does here
        finally:
            board.unplug()


async def _serve_base(device: RosbridgeDevice, ended: Ended, ready: Ready) -> None:
    base = FakeRosbridge(device.port, deadman_s=BASE_DEADMAN_S)
    await base.plug()
    try:
        ready({"url": f"ws://127.0.0.1:{base.port}"})
        while not await asyncio.to_thread(ended, 1.0):
            pass
    finally:
        await base.unplug()


def _serve_vehicles(device: VehiclesDevice, ended: Ended, ready: Ready) -> None:
    online = [_Online(one, device.url) for one in device.vehicles]
    try:
        for one in online:
            one.open()
        names = [
            {"manufacturer": one.manufacturer, "serial": one.serial, "dialect": one.dialect}
            for one in device.vehicles
        ]
        ready({"url": device.url, "vehicles": names})
        before_s = time.monotonic()
        while not ended(TICK_S):
            now_s = time.monotonic()
            for one in online:
                one.turn(now_s, now_s - before_s)
            before_s = now_s
    finally:
        for one in online:
            one.close()


class _Online:
    """A vehicle and its own connection, with the last will that the standard asks for."""

    def __init__(self, settings: FakeVehicleSettings, url: str) -> None:
        check_vehicle(settings.manufacturer, settings.serial)
        self._vehicle = FakeVehicle(
            settings.dialect,
            settings.serial,
            settings.node,
            manufacturer=settings.manufacturer,
            place=(settings.x, settings.y),
            speed_mps=settings.speed_mps,
        )
        tls = None
        if settings.tls_cert:
            tls = TlsFiles(*map(Path, (settings.tls_ca, settings.tls_cert, settings.tls_key)))
        self._transport: Transport = MqttTransport(url, MonotonicClock(), tls=tls, keepalive_s=5)
        self._told_s = float("-inf")

    def open(self) -> None:
        vehicle = self._vehicle
        there = vehicle.topic("connection")
        session = Session(
            f"{vehicle.manufacturer}.{vehicle.serial}",
            [(vehicle.topic("order"), 0), (vehicle.topic("instantActions"), 0)],
            will=lambda _: Outbound(there, vehicle.broken, 1, retain=True),
            birth=lambda _: [Outbound(there, vehicle.connection("ONLINE"), 1, retain=True)],
            fleet="vda5050",
        )
        self._transport.open(session)

    def turn(self, now_s: float, dt_s: float) -> None:
        """Hear, drive, say what is new."""
        vehicle, transport = self._vehicle, self._transport
        while (inbound := transport.receive(0.0)) is not None:
            vehicle.take(inbound.topic.rsplit("/", 1)[1], inbound.payload)
        vehicle.roll(dt_s)
        if vehicle.news or now_s - self._told_s >= STATE_S:
            self._told_s = now_s
            transport.publish(vehicle.topic("state"), vehicle.state())

    def close(self) -> None:
        vehicle = self._vehicle
        away = Outbound(vehicle.topic("connection"), vehicle.connection("OFFLINE"), 1, retain=True)
        self._transport.close([away])


def end_on_signal() -> Ended:
    """Return an `Ended` that SIGTERM and Ctrl-C end; for the main thread."""
    end = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        end.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return end.wait
