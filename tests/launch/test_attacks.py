# SPDX-License-Identifier: MIT
"""Attacks on a fleet that is being steered, on the files of `kofn ca` and a real mosquitto.

One broker, one controller and two hosts for all of them. An attack ends refused, is counted, is
one line in the log however often it comes, and the loop goes on. What TLS and the broker's rights
refuse, in every combination: tests/link/test_tls_broker.py.
"""

import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_rig import FLEET, ROBOTS, TlsRig
from kofn_process import Kofn, wait_for
from peers import Peer

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import BrokerAddress, parse_url
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import (
    Cmd,
    Conn,
    Flag,
    Halt,
    Message,
    Poll,
    Reply,
    Roster,
    Row,
    Step,
    encode,
)
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.tls import make_context
from kofn.controller.link.transport import Session
from kofn.controller.record import read_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
]

ROOT = f"kofn1/{FLEET}/"
ROBOTS_OF_A = [f"a.r{i}" for i in range(ROBOTS)]
COUNTED = ("malformed", "conflict", "overflow", "unlisted", "quarantined", "foreign")
MINUTE_S = 60.0


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, policy_file: Path) -> Iterator[TlsRig]:
    """A fleet that is being steered; `thief` is enrolled, and does not take part."""
    kofn = Kofn(tmp_path_factory.mktemp("attacks"))
    made = TlsRig(kofn, policy_file, guests=("thief",))
    try:
        made.start()
        yield made
    finally:
        for process in kofn.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        made.close()


@dataclass
class Thief:
    """A client with the certificate of an enrolled host, and no manners."""

    peer: Peer

    def say(self, topic: str, payload: bytes | Message, *, retain: bool = False) -> None:
        body = encode(payload) if isinstance(payload, Message) else payload
        self.peer.client.publish(ROOT + topic, body, retain=retain)


@contextmanager
def connected(rig: TlsRig, name: str = "thief", client_id: str = "") -> Iterator[Thief]:
    parsed = parse_url(rig.broker.url)
    address = BrokerAddress(parsed.host, parsed.port, tls=True)
    peer = Peer(name, address, tls=make_context(rig.files(name)), client_id=client_id)
    yield Thief(peer)
    peer.close()


@contextmanager
def attack(rig: TlsRig, **expected: int) -> Iterator[None]:
    """What happens inside is counted as `expected` and as nothing else; the loop goes on.

    Only `foreign` may be more: on a busy machine an honest answer can be eight steps late.
    """
    before = len(rig.decisions())
    yield

    def counted() -> Counter[str]:
        decisions = rig.decisions()[before:]
        return Counter({kind: sum(getattr(d, kind) for d in decisions) for kind in COUNTED})

    wait_for(lambda: counted() >= Counter(expected), f"{expected} to be counted")
    rig.steers()
    found = counted()
    assert found.pop("foreign") >= expected.pop("foreign", 0)
    assert +found == Counter(expected)
    log = rig.errors("controller")
    assert "broker connection lost" not in log
    assert "another controller" not in log


def lines(rig: TlsRig, reason: str) -> int:
    """How many lines the controller has logged about one class of refusal."""
    return rig.errors("controller").count(f"class={reason} host=")


def overheard(rig: TlsRig) -> tuple[Step, Poll, Roster]:
    """A step, the newest poll of host a and its roster, as an attacker may have recorded them."""
    found: dict[type, Message] = {}
    for entry in read_run(rig.folders[-1]):
        if isinstance(entry.message, Step | Poll | Roster) and entry.host in ("", "a"):
            found[type(entry.message)] = entry.message
    step, poll, roster = found[Step], found[Poll], found[Roster]
    assert isinstance(step, Step)
    assert isinstance(poll, Poll)
    assert isinstance(roster, Roster)
    return step, poll, roster


def forged(poll: Poll) -> Reply:
    """An answer for all robots of host a: the true epoch, step and nonce, and a zone of choice."""
    rows = [Row(robot, 0, Flag.OK, 0) for robot in ROBOTS_OF_A]
    return Reply(ep=poll.ep, t=poll.t, q=poll.q, b="evil", n=ROBOTS, r=rows)


MALFORMED = [
    b"{",
    b"\xff\xfe",
    b"null",
    b'{"v":' + b"[" * 20_000,
    b'{"v":1,"ep":1e400}',
    b'{"v":1,"ep":1,"t":NaN,"q":"0000000000000000","b":"x","n":1,"r":[]}',
]


def test_malformed_and_deeply_nested_messages_are_counted_and_logged_once(rig: TlsRig) -> None:
    began_s = time.monotonic()
    before = lines(rig, "malformed")
    with connected(rig) as thief, attack(rig, malformed=2 * len(MALFORMED)):
        for payload in MALFORMED * 2:
            thief.say("rep/thief", payload)
    assert 1 <= lines(rig, "malformed") - before <= 1 + (time.monotonic() - began_s) // MINUTE_S


def test_an_unknown_major_version_is_refused(rig: TlsRig) -> None:
    _, poll, _ = overheard(rig)
    with connected(rig) as thief, attack(rig, malformed=1):
        thief.say("rep/thief", encode(forged(poll)).replace(b'"v":1', b'"v":2'))
    assert lines(rig, "malformed") >= 1


def test_a_reply_for_robots_of_another_host_is_foreign(rig: TlsRig) -> None:
    """Under its own name; with the true nonce, which it cannot see, and twice, as a replay."""
    _, poll, _ = overheard(rig)
    began_s, before = time.monotonic(), lines(rig, "foreign")
    with connected(rig) as thief, attack(rig, foreign=2 * ROBOTS):
        thief.say("rep/thief", forged(poll))
        thief.say("rep/thief", forged(poll))
    assert lines(rig, "foreign") - before <= 1 + (time.monotonic() - began_s) // MINUTE_S
    assert lines(rig, "foreign") >= 1


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
def test_nothing_under_another_name_is_delivered_or_kept(rig: TlsRig, *, retain: bool) -> None:
    """A spoofed reply, a replayed or retained step and poll, a halt, a command, a presence."""
    step, poll, roster = overheard(rig)
    later = Step(ep=10**6, t=0, up=0, g=0, u=0, ttl=60_000, pol=step.pol, k=step.k, m=(0, 0, 0, 0))
    lies: list[tuple[str, Message]] = [
        ("rep/a", forged(poll)),
        ("conn/a", Conn(b="evil", c=99, st="OFFLINE", n=0)),
        ("roster/a", roster),
        ("step", step),
        ("step", later),
        ("poll/a", poll),
        ("cmd/a", Cmd(ep=10**6, id="0" * 16, op="LEAVE", ttl=60_000, why="thief")),
        ("halt", Halt(ep=10**6, by="thief", why="")),
    ]
    with connected(rig) as thief, attack(rig):
        for topic, message in lies:
            thief.say(topic, message, retain=retain)
    with connected(rig, "observer") as late:  # who comes later gets what is kept
        late.peer.client.subscribe([(ROOT + topic, 0) for topic in ("step", "halt", "conn/+")])
        wait_for(lambda: any(f"{ROOT}conn/b" == topic for topic, _ in late.peer.got), "presence")
        kept = "".join(payload for _, payload in late.peer.got)
    assert "evil" not in kept
    assert '"ep":1000000' not in kept
    taken = [entry.ep for host in "ab" for entry in rig.taken(host)]
    assert set(taken) == {1}


def test_a_roster_with_robots_of_another_host_is_refused(rig: TlsRig) -> None:
    _, _, roster = overheard(rig)
    claim = Roster(
        b="evil",
        pace=roster.pace,
        robots=ROBOTS_OF_A,
        S=roster.S,
        G=roster.G,
        A=roster.A,
        have=roster.have,
    )
    with connected(rig) as thief, attack(rig):
        thief.peer.client.subscribe(f"{ROOT}cmd/thief")
        for _ in range(3):
            thief.say("conn/thief", Conn(b="evil", c=1, st="ONLINE", n=ROBOTS))
            thief.say("roster/thief", claim)
        wait_for(lambda: any('"REFUSED"' in payload for _, payload in thief.peer.got), "REFUSED")
    assert rig.errors("controller").count("host refused host=thief reason=") == 1
    assert rig.decisions()[-1].frame == 2 * ROBOTS


def test_nobody_loses_its_connection_to_a_stolen_client_id(rig: TlsRig) -> None:
    with attack(rig):
        for victim in ("controller", "a"):
            with connected(rig, client_id=victim) as thief:
                thief.say("rep/a", b"{}")
    log = rig.broker_log.read_text()
    assert log.count("as thief (") >= 2  # what the broker made of the names
    for victim in ("controller", "a"):
        assert log.count(f" as {victim} (") == 1
        assert f"Client {victim} " not in log


def test_ten_megabytes_end_their_sender_only(rig: TlsRig) -> None:
    before = rig.broker_log.read_text().count("Client thief ")
    with attack(rig), connected(rig) as thief:
        thief.say("rep/thief", b"x" * 10_000_000)
        said = rig.broker_log.read_text
        wait_for(lambda: said().count("Client thief ") > before, "the broker's line")
    assert "Client a " not in rig.broker_log.read_text()


def test_a_wildcard_shows_only_what_the_host_may_read(rig: TlsRig) -> None:
    with attack(rig), connected(rig) as thief:
        for wide in ("#", f"{ROOT}#", "+/+/+/+", f"{ROOT}poll/+"):
            thief.peer.client.subscribe(wide)
        rig.steers()
        topics = {topic.removeprefix(ROOT) for topic, _ in thief.peer.got}
    assert {topic.partition("/")[0] for topic in topics} <= {"step", "ctl", "pol", "halt", "cmd"}
    assert {topic for topic in topics if topic.startswith("cmd/")} <= {"cmd/thief"}


def refusal(rig: TlsRig, name: str, url: str) -> str:
    """The sentence with which a connection with the certificate of `name` fails."""
    transport = MqttTransport(url, MonotonicClock(), protocol="5", tls=rig.files(name))
    session = Session(client_id=name, filters=(), will=lambda _: None, birth=lambda _: ())
    with pytest.raises(RunError) as caught:
        transport.open(session, 20.0)
    return str(caught.value)


def test_an_expired_certificate_and_a_wrong_name_end_in_the_handshake(rig: TlsRig) -> None:
    with attack(rig):
        before = rig.broker_log.read_text().count("certificate")
        assert "certificate expired" in refusal(rig, "expired", rig.broker.url)
        elsewhere = rig.broker.url.replace("127.0.0.1", "localhost")
        assert "has a certificate that is not" in refusal(rig, "a", elsewhere)
        assert rig.broker_log.read_text().count("certificate") > before


LINE = re.compile(
    r"level=(INFO|WARNING|ERROR) logger=kofn(\.\w+)+ [^\s=].*|step=\d+ target=\d+ next=\d+ .*"
)
REFUSED = re.compile(
    r'.* refused class=\w+ (host=\S+( detail=".*")?)?( ?unlogged=\d+ hosts=\d+ most=\S+)?'
)


def test_every_line_of_the_log_can_be_taken_apart(rig: TlsRig) -> None:
    """What a log collector relies on: level, logger, then words and key=value pairs."""
    with connected(rig) as thief, attack(rig, malformed=1):
        thief.say("rep/thief", b"{\n level=ERROR")
    # The end of a command is a sentence for people.
    said = [line for line in rig.errors("controller").splitlines() if not line.startswith("kofn: ")]
    assert [line for line in said if not LINE.fullmatch(line)] == []
    refusals = [line for line in said if " refused class=" in line]
    assert refusals
    assert [line for line in refusals if not REFUSED.fullmatch(line)] == []


def test_a_host_that_floods_is_in_quarantine_and_nobody_waits_for_it(rig: TlsRig) -> None:
    """Late: its quarantine outlives this module."""
    before = len(rig.decisions())
    with connected(rig) as thief:
        for _ in range(400):
            thief.say("evt/thief", b"{")
        wait_for(lambda: "host quarantined host=thief" in rig.errors("controller"), "quarantine")
        rig.steers()
    dropped = sum(d.overflow + d.quarantined + d.malformed for d in rig.decisions()[before:])
    assert 200 < dropped <= 400
    assert lines(rig, "overflow") >= 1
    assert rig.errors("controller").count("host quarantined host=thief") == 1


def test_row_13_a_second_controller_of_the_fleet_ends_the_first_by_its_epoch(rig: TlsRig) -> None:
    """Both have the controller's certificate, hence one name at the broker. The last test."""
    first = rig.processes["controller"]
    rig.start_new_controller()
    wait_for(lambda: first.poll() is not None, "the first controller to give way")
    assert first.returncode == 1
    assert "another controller, of epoch 2, has taken over fleet" in rig.errors("controller")
    rig.steers()
    assert {entry.ep for host in "ab" for entry in rig.taken(host)} == {1, 2}
    rig.finish()
