# SPDX-License-Identifier: MIT
"""The rights of each role, tried out one by one on the brokers that enforce them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Lock

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from wires import NAMES, ROOT, MqttWire, login, until

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.transport import Outbound, Session

TOPICS = ["ctl", "step", "halt", "pol/abc"] + [
    f"{kind}/{host}"
    for kind in ("poll", "cmd", "pose", "rep", "done", "conn", "roster", "ack", "evt")
    for host in ("h1", "h2")
]
HOST_WRITES = {"rep", "done", "conn", "roster", "ack", "evt"}


def may_write(user: str, topic: str) -> bool:
    """Protocol section 7, written down a second time and independently of the code."""
    kind, _, name = topic.partition("/")
    match user:
        case "controller":
            return kind in {"ctl", "step", "halt", "poll", "cmd", "pol"}
        case "h1" | "h2":
            return kind in HOST_WRITES and name == user
        case "operator":
            return kind == "halt"
    return False


def may_read(user: str, topic: str) -> bool:
    kind, _, name = topic.partition("/")
    match user:
        case "controller":
            return kind in {*HOST_WRITES, "halt", "ctl"}
        case "h1" | "h2":
            return kind in {"step", "ctl", "halt", "pol"} or (
                kind in {"poll", "cmd", "pose"} and name == user
            )
        case "operator":
            return kind in {"ctl", "conn", "halt"}
        case "observer":
            return kind in {"ctl", "step", "halt", "conn", "roster", "evt"}
    return user == "auditor"


class Peer:
    """A plain client that tries everything, as somebody with stolen credentials would."""

    def __init__(self, wire: MqttWire, name: str) -> None:
        self.name = name
        self.got: list[tuple[str, str]] = []
        self.acknowledged = 0
        self._lock = Lock()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=name)
        self.client.username_pw_set(**login(name))
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(*parse_url(wire.broker.url))
        self.client.loop_start()
        until(self.client.is_connected)

    def _on_message(self, _: object, __: object, message: MQTTMessage) -> None:
        with self._lock:
            self.got.append((message.topic.removeprefix(ROOT), message.payload.decode()))

    def _on_subscribe(self, *_: object) -> None:
        self.acknowledged += 1

    def subscribe(self, *filters: str) -> None:
        for topic in filters:
            self.client.subscribe(ROOT + topic, 0)
        until(lambda: self.acknowledged >= len(filters))

    def publish(self, topic: str) -> None:
        self.client.publish(ROOT + topic, self.name)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()


@pytest.fixture
def peers(mqtt_wire: MqttWire) -> Iterator[dict[str, Peer]]:
    with ExitStack() as stack:
        made = {}
        for name in NAMES:
            made[name] = Peer(mqtt_wire, name)
            stack.callback(made[name].close)
        yield made


def settle(peers: dict[str, Peer]) -> None:
    """Wait until nothing has arrived anywhere for a while."""
    before = -1
    while before != (now := sum(len(peer.got) for peer in peers.values())):
        before = now
        time.sleep(0.3)


def test_each_user_writes_and_reads_what_its_role_may_and_nothing_else(
    peers: dict[str, Peer],
) -> None:
    for name, peer in peers.items():
        if name == "auditor":
            peer.subscribe("#")
        else:
            peer.subscribe(*TOPICS)
    for peer in peers.values():
        for topic in TOPICS:
            peer.publish(topic)
    settle(peers)
    delivered = {
        (topic, writer) for topic in TOPICS for writer in NAMES if may_write(writer, topic)
    }
    for name, peer in peers.items():
        wanted = {(topic, writer) for topic, writer in delivered if may_read(name, topic)}
        assert set(peer.got) == wanted, name
        assert len(peer.got) == len(wanted), name


@pytest.mark.parametrize("wide", ["#", "+/+", "poll/+", "rep/#"])
def test_a_host_learns_nothing_by_a_wider_filter(peers: dict[str, Peer], wide: str) -> None:
    peers["h1"].subscribe(wide)
    for topic in ("poll/h2", "cmd/h2"):
        peers["controller"].publish(topic)
    peers["h2"].publish("rep/h2")
    settle(peers)
    assert peers["h1"].got == []


def test_the_last_will_of_a_host_cannot_speak_for_another(mqtt_wire: MqttWire) -> None:
    auditor = Peer(mqtt_wire, "auditor")
    auditor.subscribe("conn/h2")
    auditor.got.clear()
    forger = mqtt_wire.transport("h1")
    forged = Outbound(ROOT + "conn/h2", b"forged", 1, False)
    session = Session("h1", [], lambda c: forged, lambda c: ())
    if mqtt_wire.kind == "amqtt":
        with pytest.raises(RunError, match="refused the login"):
            forger.open(session)
    else:
        forger.open(session)
        mqtt_wire.cut(forger)
        time.sleep(0.3)
    assert auditor.got == []
    auditor.close()


def test_a_host_cannot_take_the_client_id_of_the_controller(mqtt_wire: MqttWire) -> None:
    controller, thief = mqtt_wire.transport("controller"), mqtt_wire.transport("h1")
    nothing = Outbound(ROOT + "evt/h1", b"", 0)
    controller.open(
        Session(
            "controller", [(ROOT + "rep/+", 0)], lambda c: Outbound(ROOT + "ctl", b""), lambda c: ()
        )
    )
    session = Session("controller", [], lambda c: nothing, lambda c: ())
    if mqtt_wire.kind == "amqtt":
        with pytest.raises(RunError, match="refused the login"):
            thief.open(session)
    else:
        thief.open(session)  # its client id is replaced by its user name
    time.sleep(0.2)
    assert controller.connected
    assert controller.statistics["connections"] == 1
