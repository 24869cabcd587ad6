# SPDX-License-Identifier: MIT
"""Plain clients that try everything, and the table of rights written down a second time."""

import ssl
import time
from collections.abc import Iterable
from threading import Lock

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from wires import ROOT, until

from kofn.controller.link.address import BrokerAddress

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
        case "localiser":
            return kind == "pose"
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
            return kind in {"ctl", "conn", "evt", "halt"}  # evt: who answered a halt
        case "observer":
            return kind in {"ctl", "step", "halt", "conn", "roster", "evt"}
        case "localiser":
            return kind in {"ctl", "conn"}
    return user == "auditor"


class Peer:
    """A plain client, as somebody with stolen credentials would use."""

    def __init__(
        self,
        name: str,
        address: BrokerAddress,
        *,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        client_id: str = "",
    ) -> None:
        self.name = name
        self.got: list[tuple[str, str]] = []
        self.acknowledged = 0
        self._lock = Lock()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=client_id or name)
        if password is not None:
            self.client.username_pw_set(name, password)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.connect(*address.tcp)
        self.client.loop_start()
        until(self.client.is_connected)

    def _on_message(self, _: object, __: object, message: MQTTMessage) -> None:
        with self._lock:
            self.got.append((message.topic.removeprefix(ROOT), message.payload[:100].decode()))

    def _on_subscribe(self, *_: object) -> None:
        self.acknowledged += 1

    def subscribe(self, *filters: str) -> None:
        for topic in filters:
            self.client.subscribe(ROOT + topic, 0)
        until(lambda: self.acknowledged >= len(filters))

    def publish(self, topic: str, payload: bytes | None = None, *, retain: bool = False) -> None:
        self.client.publish(ROOT + topic, payload or self.name.encode(), retain=retain)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()


def settle(peers: Iterable[Peer]) -> None:
    """Wait until nothing has arrived anywhere for a while."""
    before = -1
    while before != (now := sum(len(peer.got) for peer in peers)):
        before = now
        time.sleep(0.3)


def check_rights(peers: dict[str, Peer]) -> None:
    """Everybody publishes everything; each must get what it may read of what may be written."""
    for name, peer in peers.items():
        if name == "auditor":
            peer.subscribe("#")
        else:
            peer.subscribe(*TOPICS)
    settle(peers.values())
    for peer in peers.values():
        peer.got.clear()  # what was retained before
    for peer in peers.values():
        for topic in TOPICS:
            peer.publish(topic)
    settle(peers.values())
    delivered = {
        (topic, writer) for topic in TOPICS for writer in peers if may_write(writer, topic)
    }
    for name, peer in peers.items():
        wanted = {(topic, writer) for topic, writer in delivered if may_read(name, topic)}
        assert set(peer.got) == wanted, name
        assert len(peer.got) == len(wanted), name
