# SPDX-License-Identifier: MIT
"""An enrolled host attacks a fleet that is being steered: the loop goes on, the log says it once.

What strangers meet, and what TLS refuses: tests/link/test_tls_broker.py, with the same rights.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_rig import FLEET, Rig
from kofn_process import Kofn
from peers import Peer

from kofn.controller.link.address import parse_url
from kofn.controller.link.messages import (
    Conn,
    Flag,
    Message,
    Poll,
    Reply,
    Roster,
    Row,
    Step,
    encode,
)
from kofn.controller.record import read_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
]

ROOT = f"kofn1/{FLEET}/"
DEEP = b'{"v":' + b"[" * 20_000


@pytest.fixture
def rig(kofn: Kofn, policy_file: Path) -> Iterator[Rig]:
    made = Rig(kofn, policy_file, guests=("thief",))
    try:
        yield made
    finally:
        made.close()


class Thief:
    """A client with the login of an enrolled host, and no manners."""

    def __init__(self, rig: Rig, client_id: str = "") -> None:
        address = parse_url(rig.broker.url)
        self.peer = Peer("thief", address, password="secret-thief", client_id=client_id)  # noqa: S106

    def say(self, topic: str, payload: bytes | Message, *, retain: bool = False) -> None:
        body = encode(payload) if isinstance(payload, Message) else payload
        self.peer.client.publish(ROOT + topic, body, retain=retain)


def test_no_attack_of_an_enrolled_host_stops_the_loop_or_enters_a_decision(rig: Rig) -> None:
    rig.start()
    robots = [f"a.r{i}" for i in range(4)]
    step, poll, roster = overheard(rig)
    thief = Thief(rig)
    # Its own topics: what it may write, and means ill.
    thief.say("conn/thief", Conn(b="evil", c=1, st="ONLINE", n=4))
    thief.say("roster/thief", replace_roster(roster, robots))
    for junk in (b"{", b"\xff\xfe", b"null", DEEP, b'{"v":1,"ep":1e400}'):
        thief.say("rep/thief", junk)
    rows = [Row(robot, 0, Flag.OK, 0) for robot in robots]
    forged = Reply(ep=poll.ep, t=poll.t, q=poll.q, b="evil", n=4, r=rows)
    thief.say("rep/thief", encode(forged).replace(b'"v":1', b'"v":2'))
    thief.say("rep/thief", forged)  # replayed: true epoch, step and nonce, and not its robots
    thief.say("rep/thief", forged, retain=True)
    # Topics of others: the broker keeps them away.
    for topic, message in (("rep/a", forged), ("step", step), ("poll/a", poll)):
        for retain in (False, True):
            thief.say(topic, message, retain=retain)
    thief.say("step", Step(ep=10**6, t=0, up=0, g=0, u=0, ttl=1, pol="x", k=1, m=(0, 0, 0, 0)))
    thief.say("halt", b'{"v":1,"ep":1000000,"by":"operator"}', retain=True)
    for wide in ("#", f"{ROOT}#", "+/+/+/+"):
        thief.peer.client.subscribe(wide)
    rig.steers()
    kinds = {topic.removeprefix(ROOT).partition("/")[0] for topic, _ in thief.peer.got}
    assert kinds <= {"step", "ctl", "pol", "halt", "cmd"}
    assert {topic for topic, _ in thief.peer.got if "/cmd/" in topic} <= {f"{ROOT}cmd/thief"}
    robbers = [Thief(rig, client_id=victim) for victim in ("controller", "a")]
    thief.say("rep/thief", b"x" * 10_000_000)
    rig.steers()
    for one in (thief, *robbers):
        one.peer.close()
    log = rig.errors("controller")
    counters = rig.finish()
    assert "broker connection lost" not in log, "its client id was taken"
    assert counters["a"].get("hold_timer", 0) == 0
    refused: Counter[str] = Counter()
    for decision in rig.decisions():
        refused.update({kind: getattr(decision, kind) for kind in ("malformed", "foreign")})
    assert refused["malformed"] == 6
    assert refused["foreign"] == 2 * len(robots)
    assert log.count("class=malformed") == 1
    assert log.count("class=foreign") == 1
    assert log.count("host=thief reason=") == 1, log  # its roster names robots of another
    assert max(step.ep for host in "ab" for step in rig.taken(host)) == 1


def overheard(rig: Rig) -> tuple[Step, Poll, Roster]:
    """A step, a poll of host a and its roster, as an attacker may have recorded them."""
    found: dict[type, Message] = {}
    for entry in read_run(rig.folders[-1]):
        if isinstance(entry.message, Step | Poll | Roster) and entry.host in ("", "a"):
            found[type(entry.message)] = entry.message
    step, poll, roster = found[Step], found[Poll], found[Roster]
    assert isinstance(step, Step)
    assert isinstance(poll, Poll)
    assert isinstance(roster, Roster)
    return step, poll, roster


def replace_roster(roster: Roster, robots: list[str]) -> Roster:
    return Roster(
        b="evil",
        pace=roster.pace,
        robots=robots,
        S=roster.S,
        G=roster.G,
        A=roster.A,
        have=roster.have,
    )
