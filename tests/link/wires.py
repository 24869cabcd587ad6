# SPDX-License-Identifier: MIT
"""Brokers and transports for tests that need a wire."""

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import pytest

from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.clock import FakeClock, MonotonicClock
from kofn.controller.link.credentials import Role
from kofn.controller.link.memory import MemoryBus, MemoryTransport
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Inbound, Outbound, Session, Transport

BROKER_KINDS = [
    pytest.param("mosquitto", marks=pytest.mark.broker),
    pytest.param("amqtt", marks=pytest.mark.broker),
]

WIRE_KINDS = [*BROKER_KINDS, pytest.param("mosquitto over 3.1.1", marks=pytest.mark.broker)]

FLEET = "f"
ROOT = f"kofn1/{FLEET}/"
NAMES: dict[str, Role] = {
    "controller": "controller",
    "h1": "host",
    "h2": "host",
    "operator": "operator",
    "observer": "observer",
    "localiser": "localiser",
    "auditor": "auditor",
}
USERS = [BrokerUser(name, f"secret-{name}", role) for name, role in NAMES.items()]


class Login(TypedDict):
    username: str
    password: str


def login(name: str) -> Login:
    """User name and password of a user of the test fleet."""
    return {"username": name, "password": f"secret-{name}"}


def presence(
    name: str, *filters: str, newest_only: frozenset[str] = frozenset(), queue: int = 4096
) -> Session:
    """A session that announces itself on `conn/<name>` as `online <c>` and `broken <c>`."""
    return Session(
        client_id=name,
        filters=[(ROOT + pattern, 1) for pattern in filters],
        will=lambda c: Outbound(f"{ROOT}conn/{name}", b"broken %d" % c, 1, True),
        birth=lambda c: [Outbound(f"{ROOT}conn/{name}", b"online %d" % c, 1, True)],
        newest_only=frozenset(ROOT + topic for topic in newest_only),
        queue=queue,
    )


def mute(name: str, *filters: str) -> Session:
    """A session that publishes nothing by itself."""
    return presence(name, *filters)._replace(will=lambda c: None, birth=lambda c: ())


def collect(
    transport: Transport, wanted: Callable[[list[Inbound]], bool], timeout_s: float = 10.0
) -> list[Inbound]:
    """Receive until `wanted(messages so far)`; fails the test when that never comes."""
    got: list[Inbound] = []
    deadline_s = time.monotonic() + timeout_s
    while not wanted(got):
        message = transport.receive(0.2)
        if message is not None:
            got.append(message)
        assert time.monotonic() < deadline_s, f"only got {got}"
    return got


def payloads(messages: list[Inbound], topic: str = "") -> list[bytes]:
    return [m.payload for m in messages if m.topic.endswith(topic)]


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.01)


class Wire:
    """A broker of some kind, and transports of it that are closed at the end of a test."""

    kind = "memory"

    def __init__(self) -> None:
        self.bus = MemoryBus(FakeClock())

    def transport(self, name: str) -> Transport:
        return self.bus.transport()

    def cut(self, transport: Transport) -> None:
        """Break the connection without a farewell; the transport lives on."""
        assert isinstance(transport, MemoryTransport)
        self.bus.break_connection(transport, reconnect=True)

    def close(self) -> None: ...


class MqttWire(Wire):
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.kind = broker.kind
        self.opened: list[MqttTransport] = []

    def transport(self, name: str) -> MqttTransport:
        transport = MqttTransport(
            self.broker.url,
            MonotonicClock(),
            **login(name),
            protocol=self.broker.protocol,
        )
        self.opened.append(transport)
        return transport

    def cut(self, transport: Transport) -> None:
        assert isinstance(transport, MqttTransport)
        assert transport._client is not None
        sock = transport._client.socket()
        assert isinstance(sock, socket.socket)
        before = transport.statistics["connections"]
        sock.shutdown(socket.SHUT_RDWR)
        until(lambda: transport.statistics["connections"] > before)

    def close(self) -> None:
        for transport in self.opened:
            transport.close()


def launch(kind: str, workdir: Path, port: int | None = None) -> Broker:
    if kind == "mosquitto" and shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not on PATH")
    return start_broker(kind, fleet=FLEET, users=USERS, workdir=workdir, port=port)
