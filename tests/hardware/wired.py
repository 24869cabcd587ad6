# SPDX-License-Identifier: MIT
"""Connections of hosts and of a controller to a broker with logins, for tests."""

from contextlib import ExitStack
from pathlib import Path

from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Outbound, Session

FLEET = "f"
TOPICS = Topics(FLEET)


def broker_for(hosts: tuple[str, ...], folder: Path, stack: ExitStack) -> Broker:
    """Start a broker that knows a controller and these hosts; it ends with `stack`."""
    users = [BrokerUser("controller", "secret-controller", "controller")]
    users += [BrokerUser(name, f"secret-{name}", "host") for name in hosts]
    return stack.enter_context(
        start_broker("auto", fleet=FLEET, users=users, workdir=folder / "broker")
    )


def connection(broker: Broker, name: str, clock: MonotonicClock) -> MqttTransport:
    """Return the transport of a user of `broker_for`, not open yet."""
    return MqttTransport(
        broker.url, clock, username=name, password=f"secret-{name}", protocol=broker.protocol
    )


def open_controller(broker: Broker, clock: MonotonicClock, stack: ExitStack) -> MqttTransport:
    """Open a controller's connection that announces nothing; it is closed with `stack`."""
    controller = connection(broker, "controller", clock)
    nobody = Outbound(TOPICS.ctl, b"", 1, True)
    filters = TOPICS.controller_filters()
    controller.open(Session("controller", filters, lambda _: nobody, lambda _: ()))
    stack.callback(controller.close)
    return controller
