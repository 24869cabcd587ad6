# SPDX-License-Identifier: MIT
"""What the fleet says: every message parsed, recorded, and handed on, or refused and counted.

Parsing goes from cheap to dear and has no effect before its end: topic, retain flag, host name,
allow-list, how much this host may say, size and types, ownership, freshness. Answers go to their
poll round, presence to the roster, `done` takes a host off the list of those that are awaited. A
halt, or another controller, ends the run. A host that floods or contradicts itself is out of the
frame, and nothing from it counts, until its quarantine is over.
"""

import logging
from collections import Counter, deque
from typing import Protocol

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.audit import AuditLog, one_line
from kofn.controller.link.limits import HostGate
from kofn.controller.link.messages import (
    Ack,
    Conn,
    Ctl,
    Done,
    Event,
    Halt,
    Message,
    Reply,
    Roster,
    decode,
)
from kofn.controller.link.topics import NAME_PATTERN, Topics
from kofn.controller.link.transport import Inbound
from kofn.controller.orders import Orders
from kofn.controller.poll_round import PollRound, RoundKey
from kofn.controller.roster import RosterBook

log = logging.getLogger(__name__)

ROUNDS_KEPT = 8
"""Late answers to so many past rounds are told from forged ones."""

CODES = 64
"""Codes of events that are told apart."""

_RETAINED_KINDS = frozenset({"conn", "roster", "halt", "ctl"})
_HOST_KINDS = frozenset({"rep", "done", "conn", "roster", "ack", "evt"})
_NAMELESS_KINDS = frozenset({"halt", "ctl"})


class HaltError(RunError):
    """Motion is forbidden for the epoch of this controller."""

    def __init__(self, halt: Halt) -> None:
        reason = f": {halt.why}" if halt.why else ""
        super().__init__(f"{halt.by} halted the fleet up to epoch {halt.ep}{reason}")
        self.halt = halt


class Record(Protocol):
    """Where messages are kept; `record.Recorder` is one."""

    def write(self, kind: str, message: Message, host: str = "") -> None:
        """Append one message that came from or went to `host`."""
        ...

    def flush(self) -> None:
        """Make what was written safe from the end of this process."""
        ...


class Intake:
    """The receiving end of one epoch of a controller.

    Parameters
    ----------
    fleet
        Name of the fleet.
    epoch, boot
        Of this controller.
    roster
        Fed with presence.
    record
        Where messages are kept.
    gate
        How much one host may say.
    audit
        Which refusals become a line in the log.
    orders
        Told of acknowledgements.
    allow_list
        Nobody else is listened to; None: everybody is.
    """

    def __init__(
        self,
        fleet: str,
        epoch: int,
        boot: str,
        roster: RosterBook,
        record: Record,
        *,
        gate: HostGate,
        audit: AuditLog,
        orders: Orders,
        allow_list: AllowList | None = None,
    ) -> None:
        self.roster = roster
        self.rounds: deque[PollRound] = deque(maxlen=ROUNDS_KEPT)
        """The open round and some past ones."""
        self.awaiting: set[str] = set()
        """Lockstep hosts that have not announced the end of the present step."""
        self.step_t: int | None = None
        """The present step."""
        self.refused: Counter[str] = Counter()
        """Rows and messages that did not become an answer, by kind."""
        self.quarantines = 0
        """How often a host was put into quarantine."""
        self.events: Counter[str] = Counter()
        """Events of hosts, by code, with repeats; at most `CODES` codes."""
        self.own_ctl = 0
        """How often our own presence has come back."""
        self.halting: Halt | None = None
        """A halt that is being spread: it does not end the run a second time."""
        self.halted: set[str] = set()
        """Hosts that have said that they heard it."""
        self._orders = orders
        self._fleet = fleet
        self._epoch = epoch
        self._boot = boot
        self._topics = Topics(fleet)
        self._record = record
        self._announced = False
        self._gate = gate
        self._audit = audit
        self._allow_list = allow_list
        self._isolated: set[str] = set()

    def begin_step(self, t: int) -> None:
        """Note that step t goes out now: each host may answer it."""
        self.step_t = t
        self._gate.new_step()
        for line in self._audit.overdue():
            log.warning("%s", line)

    def release(self) -> None:
        """Bring back hosts whose quarantine is over."""
        for host in [host for host in self._isolated if not self._gate.is_quarantined(host)]:
            self._isolated.discard(host)
            self.roster.heard(host)
            log.info("host released host=%s", host)

    def take(self, inbound: Inbound) -> None:
        """Parse, record and hand on one message.

        Raises
        ------
        RunError
            The fleet was halted, or another controller has taken over.
        """
        address = self._topics.parse(inbound.topic)
        if address is None or not inbound.payload:
            return  # an empty payload means "unknown", not "offline"
        kind, host = address
        if inbound.retained and kind not in _RETAINED_KINDS:
            self._complain("retained", host, kind)
            return
        if kind in _HOST_KINDS:
            if not NAME_PATTERN.fullmatch(host):
                self._complain("host_name", host, kind)
                return
            if not self._may_speak(host, kind):
                return
        elif kind not in _NAMELESS_KINDS:
            return
        try:
            self._dispatch(kind, host, inbound)
        except InputError as error:
            self._complain("malformed", host, f"{kind}: {error}")

    def _may_speak(self, host: str, kind: str) -> bool:
        """Whether a message of this host is looked into at all."""
        if self._allow_list is not None and host not in self._allow_list.hosts:
            verdict = "unlisted"
        else:
            verdict = self._gate.admit(host, kind)
            if verdict == "ok":
                return True
        self.refused[verdict] += 1
        self._note(verdict, host, kind)
        self._isolate()
        return False

    def _isolate(self) -> None:
        """Take hosts that were put into quarantine out of the frame."""
        for host, why in self._gate.take_quarantined():
            self.quarantines += 1
            self._isolated.add(host)
            self.roster.drop(host, f"in quarantine, {why}")
            self.awaiting.discard(host)
            log.warning("host quarantined host=%s reason=%s", host, why)

    def _dispatch(self, kind: str, host: str, inbound: Inbound) -> None:
        payload = inbound.payload
        if kind == "rep":
            self._on_reply(host, decode(Reply, payload), inbound.at_s)
        elif kind == "done":
            self._on_done(host, decode(Done, payload))
        elif kind == "conn":
            conn = decode(Conn, payload)
            self._record.write("conn", conn, host)
            self.roster.on_conn(host, conn)
        elif kind == "roster":
            roster = decode(Roster, payload)
            self._record.write("roster", roster, host)
            self.roster.on_roster(host, roster)
        elif kind == "evt":
            event = decode(Event, payload)
            self._record.write("event", event, host)
            known = event.code in self.events or len(self.events) < CODES
            self.events[event.code if known else "other"] += event.n
            if self.halting is not None and event.code == "halted":
                self.halted.add(host)
            text = one_line(event.text)
            log.info("event host=%s code=%s n=%d text=%s", host, event.code, event.n, text)
        elif kind == "ack":
            ack = decode(Ack, payload)
            self._record.write("ack", ack, host)
            self._orders.acknowledge(host, ack)
        elif kind == "halt":
            self._on_halt(decode(Halt, payload))
        elif kind == "ctl":
            self._on_ctl(decode(Ctl, payload))

    def _on_reply(self, host: str, reply: Reply, at_s: float) -> None:
        self._record.write("reply", reply, host)
        key = RoundKey(reply.ep, reply.t, reply.q)
        asked = next((past for past in reversed(self.rounds) if past.key == key), None)
        if asked is None:
            self.refused["foreign"] += max(1, len(reply.r))
            self._note("foreign", host, "an answer to no poll of ours")
            return
        tally = asked.accept(host, reply, at_s)
        self.refused.update(tally)
        if tally["foreign"]:
            self._note("foreign", host, "an answer for robots that it was not asked for")
        if tally["conflict"]:
            self._note("conflict", host, "two zones for one robot and step")
            self._gate.conflict(host)
            self._isolate()

    def _on_done(self, host: str, done: Done) -> None:
        self._record.write("done", done, host)
        if done.ep != self._epoch:
            return
        if self.roster.heard(host):
            log.info("host back host=%s", host)
        if done.t == self.step_t:
            self.awaiting.discard(host)

    def _on_halt(self, halt: Halt) -> None:
        self._record.write("halt", halt)
        if halt.ep >= self._epoch and self.halting is None:
            raise HaltError(halt)

    def _on_ctl(self, ctl: Ctl) -> None:
        """Give way to another controller: two of them would evict each other from the broker.

        The retained presence of an earlier controller comes before our own first one; a foreign one
        after it belongs to a controller that has logged in since. Hosts obey the higher epoch.
        """
        if ctl.b == self._boot:
            self._announced = True
            self.own_ctl += 1
        elif ctl.ep >= self._epoch and self._announced:
            raise RunError(
                f"another controller, of epoch {ctl.ep}, has taken over fleet "
                f"{self._fleet!r}; this one has epoch {self._epoch}"
            )
        elif ctl.ep >= self._epoch:
            log.warning(
                "the fleet has had a controller of epoch %d, this one has %d: hosts that remember "
                "it will not obey (is this the epoch counter of that controller?)",
                ctl.ep,
                self._epoch,
            )

    def _complain(self, reason: str, host: str, what: str) -> None:
        """Count a message that is none of ours."""
        self.refused["malformed"] += 1
        self._note(reason, host, what)

    def _note(self, reason: str, host: str, what: str) -> None:
        """Log a refusal, at most once a minute and reason."""
        line = self._audit.note(reason, host, what)
        if line is not None:
            log.warning("%s", line)
