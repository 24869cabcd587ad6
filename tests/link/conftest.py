# SPDX-License-Identifier: MIT
"""Fixtures: brokers, and wires over the memory bus and over the brokers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from plain_broker import plain_broker
from wires import BROKER_KINDS, WIRE_KINDS, MqttWire, Wire, launch

from kofn.controller.link.broker import Broker


class Brokers:
    """Brokers started on first use and shared by all tests of a module."""

    def __init__(self, factory: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._factory, self._stack = factory, stack
        self._started: dict[str, Broker] = {}

    def get(self, kind: str) -> Broker:
        """Return a broker; "mosquitto over 3.1.1" is the same one, to be spoken to like that."""
        kind, _, protocol = kind.partition(" over ")
        if kind not in self._started:
            broker = launch(kind, self._factory.mktemp(kind))
            self._started[kind] = self._stack.enter_context(broker)
        found = self._started[kind]
        return Broker(found.kind, found.url, "3.1.1") if protocol else found


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """Retained messages stay on a broker from test to test."""
    with ExitStack() as stack:
        yield Brokers(tmp_path_factory, stack)


@pytest.fixture(params=BROKER_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of a kind of broker that the test starts itself."""
    return str(request.param)


@pytest.fixture(params=WIRE_KINDS)
def mqtt_wire(request: pytest.FixtureRequest, brokers: Brokers) -> Iterator[MqttWire]:
    """A wire over each kind of broker, and over each version of MQTT that it speaks."""
    wire = MqttWire(brokers.get(str(request.param)))
    yield wire
    wire.close()


@pytest.fixture(params=["memory", *WIRE_KINDS])
def wire(request: pytest.FixtureRequest, brokers: Brokers) -> Iterator[Wire]:
    """A wire of each kind, memory included."""
    made = Wire() if request.param == "memory" else MqttWire(brokers.get(request.param))
    yield made
    made.close()


@pytest.fixture
def open_broker(tmp_path: Path) -> Iterator[str]:
    """A mosquitto that asks for no login, as somebody's own may; its URL."""
    with plain_broker(tmp_path) as broker:
        yield broker.url
