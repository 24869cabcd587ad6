# SPDX-License-Identifier: MIT
"""`VdaBank`: many VDA 5050 vehicles as one host; runs as an edge process beside their broker.

The shared local policy acts here: a local action becomes the node of a zone, released one at a
time. A step reads the newest state of each vehicle (that is the latch); a vehicle in another mode
than AUTOMATIC, with a safety stop or a severe error, is unavailable. The control period should be
several times the vehicles' `minimumStateInterval`, 2 s at least.
"""

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import HostLog, Poses
from kofn.controller.link.messages import Pace
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.tls import TlsFiles
from kofn.controller.link.transport import Session, Transport
from kofn.hardware.driver import HOLD, IntArray, Reading
from kofn.hardware.drivers.vda5050 import Out, Vehicle, check_vehicle
from kofn.hardware.drivers.vda5050_messages import Dialect, Node
from kofn.hardware.ring import N_ACTIONS
from kofn.hardware.safety_states import BoolArray, Event, Mode
from kofn.hardware.safety_task import Safety
from kofn.hardware.watchdog import Watchdog

_log = logging.getLogger(__name__)

KINDS = ("state", "connection", "factsheet")
POSE_LOG_S = 0.1


class VehicleName(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vehicle as the file names it; `robot` is its name in the fleet."""

    manufacturer: str
    serial: str
    dialect: Dialect = 2
    robot: str | None = None


class VdaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An edge process.

    Attributes
    ----------
    url
        The vehicles' broker.
    vehicles
        At least one.
    nodes
        Node of each zone, in the order of the zones round the ring.
    username, password_env
        Login at that broker; the password comes from the environment variable named.
    tls_ca, tls_cert, tls_key
        Certificates (PEM) for an `mqtts://` broker; a name of its own, not the host's.
    request_after_s
        A state older than that is asked for.
    oldest_s
        A vehicle whose state is older than that is unavailable.
    """

    url: str
    vehicles: list[VehicleName]
    nodes: list[Node]
    username: str | None = None
    password_env: str = "KOFN_VDA_PASSWORD"  # noqa: S105  the name of a variable
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    request_after_s: float = 2.0
    oldest_s: float = 35.0


def read_settings(settings: dict[str, Any]) -> VdaSettings:
    """Check the settings of a scenario or an option; raises `InputError`."""
    try:
        read = msgspec.convert(settings, VdaSettings)
    except msgspec.ValidationError as error:
        raise InputError(f"vda5050: {error}") from error
    if not read.vehicles:
        raise InputError("vda5050: vehicles names none, at least one is needed")
    if len(read.nodes) < 3:
        raise InputError(f"vda5050: {len(read.nodes)} nodes, a ring needs at least 3 zones")
    for vehicle in read.vehicles:
        check_vehicle(vehicle.manufacturer, vehicle.serial)
    if bool(read.tls_cert) != bool(read.tls_key):
        raise InputError("vda5050: tls_cert and tls_key belong together")
    if not 0 < read.request_after_s < read.oldest_s:
        raise InputError(
            f"vda5050: 0 < request_after_s = {read.request_after_s} < oldest_s = {read.oldest_s} "
            "must hold"
        )
    return read


class VdaBank:
    """Vehicles of one edge process.

    Parameters
    ----------
    settings
        Checked.
    clock
        Fleet time; at speed 1.
    safety
        Of all its robots, in the order of `settings.vehicles`.
    option_s
        Length of an option.
    transport
        To the vehicles' broker; not open yet.
    log
        Where to write poses; its header is somebody else's.
    """

    pace: Pace = "realtime"

    def __init__(
        self,
        settings: VdaSettings,
        *,
        clock: Clock,
        safety: Safety,
        option_s: float = 6.0,
        transport: Transport,
        log: HostLog | None = None,
    ) -> None:
        self._log, self._logged_s = log, -np.inf
        self.robots = robot_names(settings)
        self.n_zones, self.n_actions, self.option_s = len(settings.nodes), N_ACTIONS, option_s
        self.safety = safety
        self._settings, self._clock, self._transport = settings, clock, transport
        self.vehicles = [
            Vehicle(one.dialect, one.manufacturer, one.serial, settings.nodes)
            for one in settings.vehicles
        ]
        self._by_topic = {
            vehicle.topic(kind): (i, kind)
            for i, vehicle in enumerate(self.vehicles)
            for kind in KINDS
        }
        self._lock = threading.Lock()
        self._until_s = self._opened_s = -np.inf
        safety.on_stop.append(self._stop)
        self._watchdog = Watchdog(
            safety.check, lambda: False, lambda: None, lambda: None, name="watchdog-vda5050"
        )

    def open(self) -> None:
        """Connect, stop every vehicle, ask each for its state; then they are DISARMED.

        Raises
        ------
        RunError
            The vehicles' broker does not answer.
        """
        topics = [
            (topic, 1 if kind == "connection" else 0) for topic, (_, kind) in self._by_topic.items()
        ]
        client = f"kofn-edge-{self.robots[0]}"
        session = Session(client, topics, lambda _: None, lambda _: (), fleet="vda5050")
        self._transport.open(session)
        self._opened_s = self._clock.now()
        self._watchdog.start()
        for vehicle in self.vehicles:
            self._send(vehicle.stop(self._opened_s))
            self._send(vehicle.request_state(self._opened_s))
        self.safety.self_check()

    def read(self) -> Reading:
        """Return zones and availability by the newest states."""
        self._pump()
        now_s, oldest_s = self._clock.now(), self._settings.oldest_s
        zones = np.array([vehicle.zone() for vehicle in self.vehicles], dtype=np.int64)
        free = np.array([not vehicle.unavailable(now_s, oldest_s) for vehicle in self.vehicles])
        return Reading(zones, free & self.safety.ready() & (zones >= 0), now_s - self._opened_s)

    def apply(self, actions: IntArray) -> None:
        """Release a node to each robot that may move; stop the others."""
        now_s = self._clock.now()
        self._until_s = now_s + self.option_s
        for i, (vehicle, action) in enumerate(zip(self.vehicles, actions.tolist(), strict=True)):
            if not HOLD <= action < self.n_actions:
                raise ValueError(f"local action {action} must be -1 (hold) to {self.n_actions - 1}")
            here = vehicle.zone()
            if action == HOLD or here < 0:
                self._pause(i)
                continue
            self.safety.step(i)
            if self.safety.permits(i):
                target = (here + (0, 1, -1)[action]) % self.n_zones
                if target != here:
                    with self._lock:
                        self._send(vehicle.go(target, now_s))

    def advance(self) -> bool:
        """Read what vehicles say, send what is due; True while the option is under way."""
        self._pump()
        now_s = self._clock.now()
        with self._lock:
            for i, vehicle in enumerate(self.vehicles):
                self.safety.command(i)  # the beat: whoever calls this is alive
                if self._fresh(vehicle, now_s):
                    self.safety.see_pose(i)
                if self.safety.permits(i) or vehicle.target is None:
                    self._send(vehicle.due(now_s))
                if now_s - vehicle.state_s > self._settings.request_after_s:
                    self._send(vehicle.request_state(now_s))
        if now_s - self._logged_s >= POSE_LOG_S:
            self._logged_s = now_s
            self._log_poses(now_s)
        if now_s < self._until_s:
            return True
        self.safety.pause()
        return False

    def idle(self) -> None:
        """Hear what vehicles say of themselves: who is disarmed can be armed by that only."""
        self._pump()
        now_s = self._clock.now()
        with self._lock:
            for i, vehicle in enumerate(self.vehicles):
                if self._fresh(vehicle, now_s):
                    self.safety.see_pose(i)
                if now_s - vehicle.state_s > self._settings.request_after_s:
                    self._send(vehicle.request_state(now_s))

    def hold(self) -> None:
        """Stop all; idempotent, never raises."""
        self._until_s = -np.inf
        self.safety.pause()
        self._stop(np.ones(len(self.robots), dtype=np.bool_))

    def close(self) -> None:
        """Stop all, disconnect; idempotent."""
        self.safety.end()
        self.hold()
        self._watchdog.close()
        self._transport.close()

    def why_unavailable(self, robot: int) -> str:
        """Say why a vehicle cannot take part now; "" when it can."""
        return self.vehicles[robot].unavailable(self._clock.now(), self._settings.oldest_s)

    def _pause(self, i: int) -> None:
        self.safety.pause(i)
        self._stop(np.arange(len(self.robots)) == i)

    def _stop(self, which: BoolArray) -> None:
        now_s = self._clock.now()
        with suppress(Exception), self._lock:  # a stop must not raise
            for i in np.flatnonzero(which):
                again = self.safety.mode(int(i)) is Mode.ESTOP
                self._send(self.vehicles[i].stop(now_s, again=again))

    def _send(self, messages: Sequence[Out]) -> None:
        for message in messages:
            self._transport.publish(message.topic, message.payload)

    def _fresh(self, vehicle: Vehicle, now_s: float) -> bool:
        """Whether a vehicle's state is as new as it sends them.

        A vehicle knows where it is all the time, and says so seldom: asked after
        `request_after_s`, it has two of its own intervals to answer.
        """
        most_s = self._settings.request_after_s + 2 * vehicle.interval_s
        online = not vehicle.unavailable(now_s, self._settings.oldest_s)
        return online and now_s - vehicle.state_s <= most_s

    def _log_poses(self, now_s: float) -> None:
        states = [vehicle.state for vehicle in self.vehicles]
        if self._log is None or any(state is None or state.position is None for state in states):
            return
        rows = [
            (round(s.position[0], 3), round(s.position[1], 3), round(s.heading, 3))
            for s in states
            if s is not None and s.position is not None
        ]
        self._log.write(Poses(time_s=now_s - self._opened_s, p=rows))

    def _pump(self) -> None:
        while (inbound := self._transport.receive(0.0)) is not None:
            i, kind = self._by_topic.get(inbound.topic, (-1, ""))
            if i < 0 or (inbound.retained and kind == "state"):
                continue
            vehicle = self.vehicles[i]
            try:
                vehicle.take(kind, inbound.payload, inbound.at_s)
            except InputError as error:
                _log.warning("vehicle=%s message=%s", self.robots[i], error)
                continue
            self._judge(i, vehicle)

    def _judge(self, i: int, vehicle: Vehicle) -> None:
        """Turn what a vehicle says of itself into events."""
        why = vehicle.unavailable(self._clock.now(), self._settings.oldest_s)
        self.safety.see_cause(i, gone=not why)
        if not why:
            self.safety.see_pose(i)
        stopped = vehicle.state.stopped_by if vehicle.state is not None else ""
        if stopped and self.safety.mode(i) is Mode.ARMED:
            severe = stopped.startswith(("FATAL", "CRITICAL"))
            if severe:
                self.safety.fault(Event.DRIVER_ERROR, i, stopped)
            else:
                self._pause(i)


def robot_names(settings: VdaSettings) -> tuple[str, ...]:
    """Names of the vehicles in the fleet."""
    return tuple(one.robot or f"{one.manufacturer}.{one.serial}" for one in settings.vehicles)


def make_bank(
    settings: VdaSettings,
    clock: Clock,
    safety: Safety,
    option_s: float,
    log: HostLog | None = None,
) -> VdaBank:
    """Return a bank with a transport of its own to the vehicles' broker.

    Raises
    ------
    InputError
        A user name without a password in the environment, or a URL that is none.
    """
    password = os.environ.get(settings.password_env)
    if settings.username is not None and password is None:
        raise InputError(
            f"the password of {settings.username!r} must be in {settings.password_env}"
        )
    tls = None
    if settings.tls_cert or settings.tls_ca:
        files = settings.tls_ca, settings.tls_cert, settings.tls_key
        tls = TlsFiles(*(Path(file) if file else None for file in files))
    transport = MqttTransport(
        settings.url,
        clock,
        username=settings.username,
        password=password if settings.username is not None else None,
        keepalive_s=5,
        tls=tls,
    )
    return VdaBank(
        settings, clock=clock, safety=safety, option_s=option_s, transport=transport, log=log
    )
