# SPDX-License-Identifier: MIT
"""Reading without paho's detours: the same messages come out, and nobody need be waiting."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import ROOT, MqttWire, collect, mute, payloads, until

from kofn.controller.link.direct_client import BufferedSocket, DirectClient, Published

NAMES = st.text(alphabet="abz/+é", max_size=9)
MESSAGES = st.tuples(NAMES, st.binary(max_size=300), st.booleans())


def varint(number: int) -> bytes:
    """MQTT 5, 1.5.5."""
    out = bytearray()
    while True:
        number, digit = divmod(number, 128)
        out.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(out)


def publish(topic: str, payload: bytes, *, retain: bool, properties: bytes, qos: int = 0) -> bytes:
    """A PUBLISH packet (MQTT 5, 3.3; `properties` empty for MQTT 3.1.1)."""
    name = topic.encode()
    identifier = b"\0\1" if qos else b""
    body = struct.pack("!H", len(name)) + name + identifier + properties + payload
    return bytes([0x30 | qos << 1 | retain]) + varint(len(body)) + body


class Pipe:
    """A buffered socket and its other end."""

    def __init__(self) -> None:
        self.far, near = socket.socketpair()
        self.near = BufferedSocket(near)
        self.near.setblocking(False)

    def close(self) -> None:
        self.far.close()
        self.near.close()


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as made:
        yield made


@pytest.mark.parametrize("none", [b"\0", b""], ids=["5", "3.1.1"])
@given(messages=st.lists(MESSAGES, max_size=6))
def test_whole_messages_come_out_as_they_were_sent(
    pipe: Pipe, none: bytes, messages: list[tuple[str, bytes, bool]]
) -> None:
    pipe.far.sendall(
        b"".join(publish(t, p, retain=r, properties=none) for t, p, r in messages) + b"\xd0\0"
    )
    for topic, payload, retained in messages:
        assert pipe.near.take_published(none) == Published(topic, payload, retained)
    assert pipe.near.take_published(none) is None
    assert pipe.near.recv(2) == b"\xd0\0"  # the answer to a ping is left to paho
    with pytest.raises(BlockingIOError):
        pipe.near.take_published(none)


@given(message=MESSAGES, data=st.data())
def test_half_a_message_is_left_until_paho_has_read_it(
    pipe: Pipe, message: tuple[str, bytes, bool], data: st.DataObject
) -> None:
    packet = publish(message[0], message[1], retain=message[2], properties=b"\0")
    part = packet[: data.draw(st.integers(1, len(packet) - 1))]
    pipe.far.sendall(part)
    assert pipe.near.take_published(b"\0") is None
    assert pipe.near.recv(len(packet)) == part


@pytest.mark.parametrize(
    "packet",
    [
        publish("t", b"x", retain=False, properties=b"\0", qos=1),
        publish("t", b"x", retain=False, properties=b"\x02\x01\x01"),  # payload format indicator
        b"\x30\x03\0\x09t",  # a name that is longer than its packet
        b"\x30\x01\0",
        b"\x30\xff\xff\xff\xff\x01",  # five bytes of length
    ],
)
def test_what_is_not_plain_is_left_to_paho(pipe: Pipe, packet: bytes) -> None:
    pipe.far.sendall(packet)
    assert pipe.near.take_published(b"\0") is None
    assert pipe.near.recv(len(packet)) == packet


def test_a_closed_connection_is_seen(pipe: Pipe) -> None:
    with closing(Pipe()) as gone:
        gone.far.close()
        assert gone.near.take_published(b"\0") is None
        assert gone.near.recv(1) == b""


@pytest.mark.broker
def test_messages_come_whether_or_not_somebody_waits_for_them(mqtt_wire: MqttWire) -> None:
    """Who computes for long has its messages queued, and the broker its signs of life."""
    host, controller = mqtt_wire.transport("h1"), mqtt_wire.transport("controller")
    host.open(mute("h1", "step", "poll/h1"))
    controller.open(mute("controller"))
    assert host.receive(0.01) is None  # from now on the host's socket is read where it waits
    controller.publish(f"{ROOT}step", b"unattended")
    until(lambda: host.statistics["queued"] == 1)
    first = host.receive(0.0)
    assert first is not None
    assert first.payload == b"unattended"

    def later() -> None:
        until(lambda: host.statistics["queued"] == 0)
        controller.publish(f"{ROOT}step", b"awaited")

    began_s = time.monotonic()
    sender = threading.Thread(target=later)
    sender.start()
    second = host.receive(20.0)
    sender.join()
    assert second is not None
    assert second.payload == b"awaited"
    assert time.monotonic() - began_s < 15  # it did not wait for its time to be over
    assert host.statistics["connections"] == 1


@pytest.mark.broker
def test_a_message_that_comes_while_nobody_waits_is_not_taken_for_a_new_one(
    mqtt_wire: MqttWire,
) -> None:
    """A step that lay about for longer than its ttl must not look fresh."""
    host, controller = mqtt_wire.transport("h1"), mqtt_wire.transport("controller")
    host.open(mute("h1", "step"))
    controller.open(mute("controller"))
    assert host.receive(0.01) is None
    sent_s = time.monotonic()
    controller.publish(f"{ROOT}step", b"x")
    time.sleep(0.6)  # real time: the operating system keeps the message
    message = host.receive(0.0)
    assert message is not None
    assert message.at_s - sent_s < 0.25


@pytest.mark.broker
def test_who_reads_does_not_wait_beside_a_message_that_the_network_thread_has_read(
    mqtt_wire: MqttWire,
) -> None:
    host = mqtt_wire.transport("h1")
    host.open(mute("h1", "step"))
    client = host._client
    assert isinstance(client, DirectClient)
    began_s = time.monotonic()
    client.read(20.0, queue=[b"read by the other thread just now"])
    assert time.monotonic() - began_s < 10


@pytest.mark.broker
def test_what_is_sent_in_one_piece_comes_whole_and_in_order(mqtt_wire: MqttWire) -> None:
    host, controller = mqtt_wire.transport("h1"), mqtt_wire.transport("controller")
    host.open(mute("h1", "step", "poll/h1"))
    controller.open(mute("controller"))
    sent = [b"%d" % i * (1 + 500 * (i % 3)) for i in range(100)]
    with controller.in_one_segment():
        for i, payload in enumerate(sent):
            controller.publish(f"{ROOT}{'poll/h1' if i % 2 else 'step'}", payload)
        assert host.receive(0.05) is None  # nothing left before the end of the block
    got = collect(host, lambda messages: len(messages) == len(sent))
    assert payloads(got) == sent


@pytest.mark.broker
def test_what_was_kept_for_a_connection_that_broke_is_lost_with_it(mqtt_wire: MqttWire) -> None:
    """A step of before must not come after the presence of the next connection."""
    host, controller = mqtt_wire.transport("h1"), mqtt_wire.transport("controller")
    host.open(mute("h1", "step"))
    controller.open(mute("controller"))
    with controller.in_one_segment():
        controller.publish(f"{ROOT}step", b"stale")
        mqtt_wire.cut(controller)
    controller.publish(f"{ROOT}step", b"fresh")
    assert payloads(collect(host, bool)) == [b"fresh"]
