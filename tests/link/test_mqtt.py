# SPDX-License-Identifier: MIT
"""`MqttTransport` against real brokers and against peers that are none."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from wires import ROOT, MqttWire, collect, launch, login, mute, payloads, presence, until

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.broker import Broker
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport, Protocol
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Outbound, Session


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _client(broker: Broker, name: str, password: str | None = None) -> MqttTransport:
    return MqttTransport(
        broker.url,
        MonotonicClock(),
        username=name,
        password=password or f"secret-{name}",
        protocol=broker.protocol,
    )


def test_nagles_algorithm_is_off_at_each_connection(mqtt_wire: MqttWire) -> None:
    def no_delay(transport: MqttTransport) -> int:
        assert transport._client is not None
        sock = transport._client.socket()
        assert isinstance(sock, socket.socket)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    h1 = mqtt_wire.transport("h1")
    h1.open(mute("h1"))
    assert no_delay(h1)
    mqtt_wire.cut(h1)
    assert no_delay(h1)


def test_five_polls_and_replies_go_round_well_below_a_delayed_acknowledgement(
    mqtt_wire: MqttWire,
) -> None:
    """With Nagle's algorithm on at either end of the broker this takes over 40 ms."""
    controller, h1 = mqtt_wire.transport("controller"), mqtt_wire.transport("h1")
    controller.open(mute("controller", "rep/+"))
    h1.open(mute("h1", "poll/h1"))
    rounds = []
    for _ in range(30):
        start_s = time.perf_counter()
        for _ in range(5):
            controller.publish(ROOT + "poll/h1", b"p" * 100)
        for _ in range(5):
            assert h1.receive(5.0)
            h1.publish(ROOT + "rep/h1", b"r" * 100)
        for _ in range(5):
            assert controller.receive(5.0)
        rounds.append(time.perf_counter() - start_s)
    assert statistics.median(rounds) < 0.035


def test_a_wrong_password_is_one_sentence_at_once(mqtt_wire: MqttWire) -> None:
    intruder = _client(mqtt_wire.broker, "h1", "guess")
    start_s = time.monotonic()
    with pytest.raises(RunError, match=r"^MQTT broker 127\.0\.0\.1:\d+ refused the login of 'h1'"):
        intruder.open(presence("h1"), 20.0)
    assert time.monotonic() - start_s < 3.0
    assert not intruder.connected


def test_a_client_without_a_name_is_refused(mqtt_wire: MqttWire) -> None:
    broker = mqtt_wire.broker
    anonymous = MqttTransport(broker.url, MonotonicClock(), protocol=broker.protocol)
    with pytest.raises(RunError, match="refused the login of None"):
        anonymous.open(presence("h1"))


@pytest.mark.broker
def test_fleets_on_one_broker_without_logins_do_not_evict_each_other(open_broker: str) -> None:
    fleets = [Topics(name) for name in ("red", "blue")]
    transports = [MqttTransport(open_broker, MonotonicClock(), protocol="5") for _ in fleets]
    for transport, topics in zip(transports, fleets, strict=True):
        filters = topics.controller_filters()
        session = Session("controller", filters, lambda _: None, lambda _: (), fleet=topics.fleet)
        transport.open(session)
    for transport, topics in zip(transports, fleets, strict=True):
        transport.publish(topics.halt, topics.fleet.encode())  # subscribed to: it comes back
        message = transport.receive(5.0)
        assert message is not None
        assert message.payload == topics.fleet.encode()
    assert [transport.statistics["connections"] for transport in transports] == [1, 1]
    for transport in transports:
        transport.close()


def test_no_broker_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    transport = MqttTransport(f"mqtt://127.0.0.1:{port}", MonotonicClock(), protocol="3.1.1")
    with pytest.raises(RunError, match=rf"^MQTT broker 127.0.0.1:{port} did not answer .* 0.5 s$"):
        transport.open(presence("h1"), 0.5)


@pytest.mark.parametrize("protocol", ["auto", "5", "3.1.1"])
def test_a_peer_that_is_no_broker_is_one_sentence(silent_port: int, protocol: Protocol) -> None:
    transport = MqttTransport(
        f"mqtt://127.0.0.1:{silent_port}", MonotonicClock(), protocol=protocol
    )
    with pytest.raises(RunError, match=r"did not answer as an MQTT broker within 0\.5 s$"):
        transport.open(presence("h1"), 0.5)


def test_a_refused_subscription_is_one_sentence(mqtt_wire: MqttWire) -> None:
    if mqtt_wire.kind == "mosquitto":
        pytest.skip("mosquitto grants every subscription and filters on delivery")
    h1 = mqtt_wire.transport("h1")
    with pytest.raises(RunError, match=r"does not let 'h1' subscribe to kofn1/f/poll/h2$"):
        h1.open(presence("h1", "poll/h1", "poll/h2"))


def test_the_automatic_protocol_finds_a_version_that_the_broker_speaks(
    mqtt_wire: MqttWire,
) -> None:
    transport = MqttTransport(mqtt_wire.broker.url, MonotonicClock(), **login("h1"))
    start_s = time.monotonic()
    transport.open(mute("h1", "step"))
    took_s = time.monotonic() - start_s
    assert transport.connected
    assert took_s < 2.0 if mqtt_wire.kind == "mosquitto" else 2.5 < took_s < 6.0
    transport.close()


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1", "http://x:1", "mqtt://", "mqtt://u:p@x", "mqtt://x:99999", "mqtt://x/y"],
)
def test_a_bad_url_is_one_sentence_without_credentials(url: str) -> None:
    with pytest.raises(InputError, match="must have the form") as caught:
        MqttTransport(url, MonotonicClock())
    assert "u:p" not in str(caught.value)


def test_fleet_seconds_of_a_fast_fleet_are_short(mqtt_wire: MqttWire) -> None:
    h1 = MqttTransport(
        mqtt_wire.broker.url,
        MonotonicClock(20.0),
        **login("h1"),
        protocol=mqtt_wire.broker.protocol,
    )
    h1.open(mute("h1", "step"))
    start_s = time.monotonic()
    assert h1.receive(4.0) is None
    assert 0.15 < time.monotonic() - start_s < 1.0
    h1.close()


def test_after_a_broker_restart_the_session_is_restored_with_a_larger_number(
    kind: str, tmp_path: Path
) -> None:
    first = launch(kind, tmp_path)
    port = int(first.url.rpartition(":")[2])
    controller, h1 = _client(first, "controller"), _client(first, "h1")
    try:
        controller.open(mute("controller", "conn/+", "rep/+"))
        h1.open(presence("h1", "poll/h1"))
        online = collect(controller, lambda got: len(got) == 1)[0].payload
        assert first.process is not None
        os.kill(first.process.pid, signal.SIGKILL)
        until(lambda: not h1.connected and not controller.connected)
        assert not h1.publish(ROOT + "rep/h1", b"lost", qos=1)
        first.close()
        with launch(kind, tmp_path, port=port):
            got = collect(
                controller, lambda got: any(b"online" in m.payload for m in got), timeout_s=20.0
            )
            number = int(payloads(got)[-1].removeprefix(b"online "))
            assert number > int(online.removeprefix(b"online "))
            until(lambda: controller.connected and h1.connected)
            controller.publish(ROOT + "poll/h1", b"poll")
            assert payloads(collect(h1, lambda got: len(got) == 1)) == [b"poll"]
            h1.publish(ROOT + "rep/h1", b"reply", qos=1)
            # A QoS 1 message that was refused while offline must not appear now.
            after = collect(controller, lambda got: b"reply" in payloads(got))
            assert b"lost" not in payloads(after)
            controller.close()
            h1.close()
    finally:
        controller.close()
        h1.close()
        first.close()


def test_clients_of_a_restarted_broker_come_back_at_times_of_their_own() -> None:
    clients = [
        MqttTransport("mqtt://127.0.0.1:9", MonotonicClock())._make_client(
            MQTTProtocolVersion.MQTTv5, mute("h1")
        )
        for _ in range(50)
    ]
    first = {client._reconnect_min_delay for client in clients}
    last = {client._reconnect_max_delay for client in clients}
    assert len(first) == len(last) == 50
    assert 0.5 <= min(first) < 0.75
    assert 1.25 < max(first) <= 1.5
    assert 20.0 <= min(last) < 22.5
    assert 27.5 < max(last) <= 30.0


def test_close_while_the_broker_is_gone_is_quick_and_quiet(kind: str, tmp_path: Path) -> None:
    broker = launch(kind, tmp_path)
    h1 = _client(broker, "h1")
    h1.open(presence("h1"))
    broker.close()
    until(lambda: not h1.connected)
    start_s = time.monotonic()
    h1.close([Outbound(ROOT + "conn/h1", b"bye", 1, True)])
    assert time.monotonic() - start_s < 3.0


_HOST = """
import sys, time
from wires import mute, presence
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
url, protocol = sys.argv[1:]
h1 = MqttTransport(url, MonotonicClock(), username="h1", password="secret-h1", protocol=protocol)
h1.open(presence("h1"))
time.sleep(60)
"""


def test_row_14_a_host_process_killed_without_warning_leaves_its_will_at_once(
    mqtt_wire: MqttWire,
) -> None:
    controller = mqtt_wire.transport("controller")
    controller.open(mute("controller", "conn/+"))
    command = [sys.executable, "-c", _HOST, mqtt_wire.broker.url, mqtt_wire.broker.protocol]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    ) as host:
        online = collect(controller, lambda got: any(not m.retained for m in got))[-1]
        host.send_signal(signal.SIGKILL)
        start_s = time.monotonic()
        (will,) = collect(controller, lambda got: len(got) == 1)
    assert time.monotonic() - start_s < 1.0
    assert (online.payload, will.payload) == (b"online 1", b"broken 1")


def test_close_with_a_frozen_broker_ends_in_time(kind: str, tmp_path: Path) -> None:
    with launch(kind, tmp_path) as broker:
        h1 = _client(broker, "h1")
        h1.open(presence("h1"))
        assert broker.process is not None
        os.kill(broker.process.pid, signal.SIGSTOP)
        start_s = time.monotonic()
        h1.close([Outbound(ROOT + "conn/h1", b"bye", 1, True)])
        assert time.monotonic() - start_s < 4.0
        os.kill(broker.process.pid, signal.SIGCONT)


def test_open_and_close_leave_no_thread_and_no_open_file(mqtt_wire: MqttWire) -> None:
    h1 = mqtt_wire.transport("h1")
    h1.open(mute("h1", "step"))
    h1.close()
    files = psutil.Process().num_fds()
    for _ in range(10):
        h1.open(mute("h1", "step"))
        h1.close()
    assert psutil.Process().num_fds() == files
    assert [t for t in threading.enumerate() if "paho" in t.name] == []


def test_nothing_is_lost_while_others_subscribe(mqtt_wire: MqttWire) -> None:
    """The embedded broker, unmended, loses messages when its table of filters changes meanwhile."""
    controller, h1, auditor = (mqtt_wire.transport(n) for n in ("controller", "h1", "auditor"))
    h1.open(mute("h1", "step"))
    controller.open(mute("controller"))
    auditor.open(mute("auditor", "#"))
    assert auditor._client is not None
    auditor._client.on_subscribe = None
    for i in range(1000):
        controller.publish(ROOT + "step", b"%d" % i)
        auditor._client.subscribe(f"{ROOT}x/{i}")
    controller.publish(ROOT + "halt", b"end")
    got = collect(auditor, lambda got: b"end" in payloads(got))
    assert payloads(got, "step") == [b"%d" % i for i in range(1000)]


def test_messages_written_by_several_threads_arrive_whole_and_in_order(
    mqtt_wire: MqttWire,
) -> None:
    """More than a socket's buffer holds, so that packets are written in parts by two threads."""
    controller, h1 = mqtt_wire.transport("controller"), mqtt_wire.transport("h1")
    controller.open(mute("controller", "rep/+", "evt/+"))
    h1.open(mute("h1"))
    bulk = 40 if mqtt_wire.kind == "mosquitto" else 10

    def publish(kind: str, size: int, qos: int) -> None:
        for i in range(bulk):
            body = f"{kind}:{i}:".encode()
            assert h1.publish(topics.of(kind, "h1"), body + b"x" * size, qos=qos)
            if qos:
                time.sleep(0.001)  # the window of unacknowledged messages is 100

    topics = Topics("f")
    writers = [
        threading.Thread(target=publish, args=("rep", 60_000, 0)),
        threading.Thread(target=publish, args=("evt", 900, 1)),
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    h1.publish(topics.of("rep", "h1"), b"end")
    heard: dict[str, list[int]] = {"rep": [], "evt": []}
    while (message := controller.receive(10.0)) is not None and message.payload != b"end":
        kind, number, rest = message.payload.decode().split(":")
        assert set(rest) == {"x"}
        assert len(rest) == {"rep": 60_000, "evt": 900}[kind]
        heard[kind].append(int(number))
    assert message is not None
    for numbers in heard.values():  # a broker may drop QoS 0 of a slow reader, never reorder it
        assert numbers == sorted(set(numbers))
    assert len(heard["rep"]) > bulk / 2
