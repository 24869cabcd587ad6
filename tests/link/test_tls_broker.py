# SPDX-License-Identifier: MIT
"""A real mosquitto with the generated configuration, under attack."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest
from peers import TOPICS, Peer, check_rights, may_read, settle
from wires import FLEET, ROOT, collect, mute, payloads, presence, until

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import BrokerAddress
from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.enrolment import create, open_office
from kofn.controller.link.messages import RobotRange
from kofn.controller.link.mqtt import MqttTransport, Protocol
from kofn.controller.link.tls import TlsContext, TlsFiles, make_context

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
]

NOW = datetime.now(UTC)
SERVICES = ("controller", "operator", "observer", "localiser")
MEMBERS = (*SERVICES, "h1", "h2")


class Plant:
    """An authority, and its broker as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        names = ["127.0.0.1"]
        create(folder, fleet=FLEET, broker_names=names, now=NOW, port=self.port, bind="127.0.0.1")
        with open_office(folder) as office:
            office.renew("localiser", now=NOW)
            office.enroll("h1", ("h1.r0",), now=NOW)
            office.enroll("h2", RobotRange(prefix="h2.r", count=3), now=NOW)
            office.enroll("expired", None, now=NOW - timedelta(days=400))
        with (folder / "broker" / "mosquitto.conf").open("a") as config:
            config.write("log_type information\n")  # says when it has read its files again
        self.start()

    def start(self) -> None:
        file = self.folder / "broker.log"
        before = file.read_text().count(" running") if file.exists() else 0
        with (self.folder / "broker.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["mosquitto", "-c", "mosquitto.conf"], cwd=self.folder / "broker", stderr=log
            )
        # It listens before it minds signals: until it says so, SIGHUP would end it.
        until(lambda: self.log().count(" running") > before)
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def reload(self) -> None:
        """As an operator does after `kofn ca enroll`."""
        before = self.log().count("Reloading config")
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.log().count("Reloading config") > before)
        time.sleep(0.1)

    def log(self) -> str:
        return (self.folder / "broker.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress("127.0.0.1", self.port, tls=True)

    def files(self, name: str) -> TlsFiles:
        own = self.folder / name if name in SERVICES else self.folder / "hosts" / name
        return TlsFiles(own / "ca.crt", own / f"{name}.crt", own / f"{name}.key")

    def transport(
        self, name: str, files: TlsFiles | None = None, *, protocol: Protocol = "5", host: str = ""
    ) -> MqttTransport:
        return MqttTransport(
            f"mqtts://{host or '127.0.0.1'}:{self.port}",
            MonotonicClock(),
            protocol=protocol,
            tls=files or self.files(name),
        )

    def peer(self, name: str, client_id: str = "") -> Peer:
        context = make_context(self.files(name))
        return Peer(name, self.address, tls=context, client_id=client_id)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant") / "ca")
    yield made
    made.stop()


@pytest.fixture
def own_plant(tmp_path: Path) -> Iterator[Plant]:
    """For tests that change the broker."""
    made = Plant(tmp_path / "ca")
    yield made
    if made.process.poll() is None:
        made.stop()


@pytest.fixture
def peers(plant: Plant) -> Iterator[dict[str, Peer]]:
    with ExitStack() as stack:
        made = {}
        for name in MEMBERS:
            made[name] = plant.peer(name)
            stack.callback(made[name].close)
        yield made


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody else's authority with members of the same names."""
    folder = tmp_path_factory.mktemp("foreign") / "ca"
    create(folder, fleet=FLEET, broker_names=["127.0.0.1"], now=NOW)
    return folder


def refused(transport: MqttTransport, name: str = "h1") -> str:
    """Open a transport that must be refused at once; return the sentence."""
    start_s = time.monotonic()
    with pytest.raises(RunError) as caught:
        transport.open(presence(name), 8.0)
    assert time.monotonic() - start_s < 5.0
    assert not transport.connected
    return str(caught.value)


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "auto"])
def test_enrolled_members_talk_both_ways(plant: Plant, protocol: Protocol) -> None:
    controller = plant.transport("controller", protocol=protocol)
    h1 = plant.transport("h1", protocol=protocol)
    try:
        controller.open(mute("controller", "rep/+", "conn/+"))
        h1.open(presence("h1", "step", "poll/h1"))
        controller.publish(ROOT + "step", b"step")
        controller.publish(ROOT + "poll/h1", b"poll")
        assert payloads(collect(h1, lambda got: len(got) == 2)) == [b"step", b"poll"]
        h1.publish(ROOT + "rep/h1", b"reply")
        got = collect(controller, lambda got: b"reply" in payloads(got))
        assert payloads(got, "conn/h1")[-1] == b"online 1"
        assert h1._client is not None
        sock = h1._client.socket()
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.version() == "TLSv1.3"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        h1.close()
        controller.close()


def handshake(plant: Plant, context: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(plant.address.tcp, timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version()


def test_tls_1_2_is_spoken_and_nothing_older(plant: Plant) -> None:
    context = make_context(plant.files("h1"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(plant, context) == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        handshake(plant, context)


def test_an_expired_certificate_is_refused(plant: Plant) -> None:
    assert "certificate expired" in refused(plant.transport("expired"), "expired")


def test_no_certificate_is_refused(plant: Plant) -> None:
    nobody = plant.transport("h1", TlsFiles(plant.folder / "ca.crt"))
    assert "certificate required" in refused(nobody)


def test_a_password_does_not_replace_a_certificate(plant: Plant) -> None:
    guesser = MqttTransport(
        plant.address.url,
        MonotonicClock(),
        username="controller",
        password="guess",  # noqa: S106
        protocol="5",
        tls=TlsFiles(plant.folder / "ca.crt"),
    )
    assert "certificate required" in refused(guesser)


def test_a_name_signed_by_another_authority_is_refused(plant: Plant, foreign: Path) -> None:
    folder = foreign / "controller"
    forged = TlsFiles(plant.folder / "ca.crt", folder / "controller.crt", folder / "controller.key")
    assert "unknown ca" in refused(plant.transport("controller", forged), "controller")


def test_the_broker_certificate_is_none_of_a_client(plant: Plant) -> None:
    folder = plant.folder / "broker"
    stolen = TlsFiles(folder / "ca.crt", folder / "broker.crt", folder / "broker.key")
    assert "certificate" in refused(plant.transport("h1", stolen))


def test_a_broker_under_another_name_is_refused(plant: Plant) -> None:
    sentence = refused(plant.transport("h1", host="localhost"))
    assert sentence.startswith(f"MQTT broker localhost:{plant.port} has a certificate that is not")
    assert "localhost" in sentence.partition("accepted")[2]


def test_row_16_a_broker_of_another_authority_is_refused(plant: Plant, foreign: Path) -> None:
    own = plant.files("h1")
    misled = TlsFiles(foreign / "ca.crt", own.certificate, own.key)
    assert "not accepted" in refused(plant.transport("h1", misled))


@pytest.fixture
def posing(plant: Plant) -> Iterator[int]:
    """A server with the certificate of host h1; its port."""
    files = plant.files("h1")
    assert files.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve, args=[server])
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_host_that_poses_as_the_broker_is_refused(plant: Plant, posing: int) -> None:
    url = f"mqtts://127.0.0.1:{posing}"
    misled = MqttTransport(url, MonotonicClock(), protocol="5", tls=plant.files("h2"))
    assert "unsuitable certificate purpose" in refused(misled, "h2")


def test_a_broker_without_tls_is_one_sentence() -> None:
    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(b"\x20\x02\x00\x00")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=answer, args=[server])
        thread.start()
        url = f"mqtts://127.0.0.1:{server.getsockname()[1]}"
        lost = MqttTransport(url, MonotonicClock(), protocol="5", tls=TlsFiles())
        try:
            with pytest.raises(RunError, match=r"does not speak TLS \(.*\) within 0\.6 s$"):
                lost.open(presence("h1"), 0.6)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_plain_text_and_garbage_get_no_answer_and_do_no_harm(plant: Plant) -> None:
    connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02h1"
    for junk in (connect, b"GET / HTTP/1.0\r\n\r\n", os.urandom(3000)):
        connection = socket.create_connection(plant.address.tcp, timeout=5)
        with connection, suppress(ConnectionError):
            connection.sendall(junk)
            assert b"\x20\x02" not in connection.recv(100)  # no CONNACK
    h1 = plant.transport("h1")
    h1.open(presence("h1"))
    h1.close()


def test_the_generated_rights_hold_rule_by_rule(peers: dict[str, Peer]) -> None:
    check_rights(peers)


FORGERIES = [
    *("rep/h2", "done/h2", "conn/h2", "roster/h2", "ack/h2", "evt/h2"),
    *("step", "ctl", "halt", "pol/abc", "poll/h1", "poll/h2", "cmd/h2", "pose/h1"),
]


@pytest.mark.parametrize("retain", [False, True])
def test_row_16_nothing_that_a_host_forges_arrives_or_is_kept(
    plant: Plant, peers: dict[str, Peer], *, retain: bool
) -> None:
    """A spoofed reply, a foreign roster, a retained poll or step, a halt, a policy."""
    for name in ("controller", "h2", "observer"):
        peers[name].subscribe(*TOPICS)
        peers[name].got.clear()
    for topic in FORGERIES:
        peers["h1"].publish(topic, b"forged", retain=retain)
    peers["h1"].publish("rep/h1", b"true")  # behind them in the same connection
    until(lambda: ("rep/h1", "true") in peers["controller"].got)
    settle(peers.values())
    late = plant.peer("localiser")  # takes the place of the one that is there
    late.subscribe(*TOPICS)
    seen = [what for peer in (*peers.values(), late) for what in peer.got]
    late.close()
    assert [what for what in seen if what[1] == "forged"] == []


@pytest.mark.parametrize("wide", ["#", "kofn1/#", "+/+/+", "$SYS/#", "$share/x/#", f"{ROOT}poll/+"])
def test_a_wide_filter_shows_a_host_nothing_more(peers: dict[str, Peer], wide: str) -> None:
    spy = peers["h1"]
    spy.client.subscribe(wide)
    until(lambda: spy.acknowledged == 1)
    for topic in TOPICS:
        peers["controller"].publish(topic, b"wide")
        peers["h2"].publish(topic, b"wide")
    settle(peers.values())
    assert {topic for topic, payload in spy.got if not may_read("h1", topic)} == set()


def test_a_host_cannot_evict_another_by_its_client_id(plant: Plant) -> None:
    controller, h2 = plant.transport("controller"), plant.transport("h2")
    controller.open(mute("controller", "rep/+"))
    h2.open(mute("h2", "poll/h2"))
    thieves = [plant.peer("h1", client_id=victim) for victim in ("controller", "h2")]
    time.sleep(0.3)
    for transport in (controller, h2):
        assert transport.connected
        assert transport.statistics["connections"] == 1
    for thief in thieves:
        thief.close()
    h2.close()
    controller.close()


def test_a_payload_of_ten_megabytes_ends_its_sender_and_nothing_else(plant: Plant) -> None:
    controller, big = plant.transport("controller"), plant.transport("h1")
    controller.open(mute("controller", "rep/+"))
    big.open(mute("h1"))
    big.publish(ROOT + "rep/h1", b"x" * 10_000_000)
    until(lambda: big.statistics["connections"] > 1)  # it was cut off, and came back
    assert controller.statistics["connections"] == 1
    assert big.publish(ROOT + "rep/h1", b"small")
    (got,) = collect(controller, lambda got: len(got) == 1)
    assert got.payload == b"small"
    big.close()
    controller.close()


def test_a_revoked_host_loses_its_rights_at_once_and_cannot_return(own_plant: Plant) -> None:
    controller = own_plant.transport("controller")
    controller.open(mute("controller", "rep/+"))
    h1, h2 = own_plant.transport("h1"), own_plant.transport("h2")
    for host, name in ((h1, "h1"), (h2, "h2")):
        host.open(mute(name, "step"))
        host.publish(ROOT + f"rep/{name}", b"before")
    collect(controller, lambda got: len(got) == 2)
    kept = own_plant.transport("h1")  # has read its files: they are deleted below
    with open_office(own_plant.folder) as office:
        office.revoke("h1", now=NOW)
    own_plant.reload()
    h1.publish(ROOT + "rep/h1", b"after")
    h2.publish(ROOT + "rep/h2", b"after")
    (got,) = collect(controller, lambda got: len(got) >= 1)
    assert got.topic == ROOT + "rep/h2"
    controller.publish(ROOT + "step", b"step")
    assert h2.receive(5.0) is not None
    assert h1.receive(0.2) is None
    h1.close()
    assert "certificate revoked" in refused(kept)
    assert controller.statistics["connections"] == 1  # a reload disturbs nobody else
    h2.close()
    controller.close()


def test_a_host_refused_at_a_reconnection_says_so_in_the_log(
    own_plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    h2 = own_plant.transport("h2")
    h2.open(presence("h2"))
    with open_office(own_plant.folder) as office:
        office.revoke("h2", now=NOW)
    own_plant.stop()
    own_plant.start()
    until(lambda: "refused the TLS connection" in caplog.text)
    assert "certificate revoked" in caplog.text
    assert not h2.connected
    assert not h2.publish(ROOT + "rep/h2", b"lost")
    h2.close()


def test_a_host_enrolled_while_the_broker_runs_can_connect_after_a_reload(
    own_plant: Plant,
) -> None:
    with open_office(own_plant.folder) as office:
        office.enroll("h3", None, now=NOW)
    own_plant.reload()
    controller, h3 = own_plant.transport("controller"), own_plant.transport("h3")
    controller.open(mute("controller", "conn/+"))
    h3.open(presence("h3", "step"))
    assert payloads(collect(controller, lambda got: len(got) == 1)) == [b"online 1"]
    h3.close()
    controller.close()


def test_sessions_come_back_after_the_broker_was_killed(own_plant: Plant) -> None:
    controller, h1 = own_plant.transport("controller"), own_plant.transport("h1")
    try:
        controller.open(mute("controller", "conn/+"))
        h1.open(presence("h1", "poll/h1"))
        own_plant.stop(signal.SIGKILL)
        until(lambda: not h1.connected and not controller.connected)
        own_plant.start()
        until(lambda: h1.connected and controller.connected, 20.0)
        controller.publish(ROOT + "poll/h1", b"again")
        assert payloads(collect(h1, lambda got: len(got) == 1)) == [b"again"]
    finally:
        h1.close()
        controller.close()


def test_a_renewed_broker_certificate_is_used_after_a_reload(own_plant: Plant) -> None:
    def serial() -> str:
        context = make_context(own_plant.files("h1"))
        with (
            socket.create_connection(own_plant.address.tcp, timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            certificate = secured.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    before = serial()
    with open_office(own_plant.folder) as office:
        office.renew("broker", now=NOW, revoke=True)
    own_plant.reload()
    assert serial() != before


def test_the_broker_at_a_url_is_found_over_tls(plant: Plant, tmp_path: Path) -> None:
    users = [BrokerUser("observer", "unused", "observer")]
    found = start_broker(
        plant.address.url, fleet=FLEET, users=users, workdir=tmp_path, tls=plant.files("observer")
    )
    assert (found.kind, found.url) == ("url", plant.address.url)
    with pytest.raises(RunError, match=r"no MQTT broker answers at mqtts.*certificate required"):
        start_broker(
            plant.address.url,
            fleet=FLEET,
            users=users,
            workdir=tmp_path,
            tls=TlsFiles(plant.folder / "ca.crt"),
        )


def test_certificate_checks_are_on_in_every_context(plant: Plant) -> None:
    for files in (TlsFiles(), plant.files("h1")):
        context = make_context(files)
        assert isinstance(context, TlsContext)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
