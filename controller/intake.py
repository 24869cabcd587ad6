# SPDX-License-Identifier: MIT
"""What the fleet says: every message parsed, recorded, and handed on, or refused and counted.

Parsing goes from cheap to dear and has no effect before its end: topic, retain flag, host name,
size and types, ownership, freshness. Answers go to their poll round, presence to the roster, `done`
takes a host off the list of those that are awaited. A halt, or a newer controller, ends the run.
"""

import logging
from collections import Counter, deque
from typing import Protocol

from kofn.controller.core.errors import InputError, RunError
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
from kofn.controller.poll_round import PollRound, RoundKey, Tally
from kofn.controller.roster import RosterBook

log = logging.getLogger(__name__)

ROUNDS_KEPT = 8
"""Late answers to so many past rounds are told from forged ones."""

_RETAINED_KINDS = frozenset({"conn", "roster", "halt", "ctl"})
_NAMELESS_KINDS = frozenset({"halt", "ctl"})


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
    """

    def __init__(
        self, fleet: str, epoch: int, boot: str, roster: RosterBook, record: Record
    ) -> None:
        self.roster = roster
        self.rounds: deque[PollRound] = deque(maxlen=ROUNDS_KEPT)
        """The open round and some past ones."""
        self.awaiting: set[str] = set()
        """Lockstep hosts that have not announced the end of the present step."""
        self.step_t: int | None = None
        """The present step."""
        self.refused: Tally = Counter()
        """Rows and messages that did not become an answer, by kind."""
        self._fleet = fleet
        self._epoch = epoch
        self._boot = boot
        self._topics = Topics(fleet)
        self._record = record
        self._announced = False
        self._complained: set[tuple[str, str]] = set()

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
            self._complain(host, f"retained {kind}")
            return
        if kind not in _NAMELESS_KINDS and not NAME_PATTERN.fullmatch(host):
            self._complain(host[:64], f"{kind} under a bad host name")
            return
        try:
            self._dispatch(kind, host, inbound)
        except InputError as error:
            self._complain(host, f"{kind}: {error}")

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
            log.info("event host=%s code=%s n=%d text=%s", host, event.code, event.n, event.text)
        elif kind == "ack":
            self._record.write("ack", decode(Ack, payload), host)
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
            return
        tally = asked.accept(host, reply, at_s)
        self.refused.update(tally)
        if tally["conflict"]:
            self._warn(host, "two zones for one robot and step")

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
        if halt.ep >= self._epoch:
            reason = f": {halt.why}" if halt.why else ""
            raise RunError(f"{halt.by} halted the fleet up to epoch {halt.ep}{reason}")

    def _on_ctl(self, ctl: Ctl) -> None:
        """Give way to another controller: two of them would evict each other from the broker.

        The retained presence of an earlier controller comes before our own first one; a foreign one
        after it belongs to a controller that has logged in since. Hosts obey the higher epoch.
        """
        if ctl.b == self._boot:
            self._announced = True
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

    def _complain(self, host: str, what: str) -> None:
        """Count a malformed message."""
        self.refused["malformed"] += 1
        self._warn(host, what)

    def _warn(self, host: str, what: str) -> None:
        """Log the first refusal of each host and kind."""
        key = (host, what.partition(":")[0])
        if key not in self._complained and len(self._complained) < 1000:
            self._complained.add(key)
            log.warning("message refused host=%s reason=%s", host, what)
