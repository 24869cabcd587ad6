# SPDX-License-Identifier: MIT
"""The controller's end of the wire: what it announces, sends, hears, and keeps on record.

Every message goes through here once: parsed in the order topic, retain flag, size and types,
ownership, freshness; counted when refused; recorded; and handed to the roster, the poll round or
the list of hosts that are not done yet. Decides nothing about the game.
"""

import logging
import secrets
from collections import Counter, deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock
from kofn.controller.link.messages import (
    Ack,
    Cmd,
    Conn,
    Ctl,
    Done,
    Event,
    Halt,
    Message,
    Pace,
    Presence,
    Reply,
    Roster,
    Step,
    decode,
    encode,
)
from kofn.controller.link.policies import pack_policy, spaces_of
from kofn.controller.link.topics import NAME_PATTERN, Topics
from kofn.controller.link.transport import Inbound, Outbound, Session, Transport
from kofn.controller.poll_round import PollRound, RoundKey, Tally
from kofn.controller.roster import Frame, RosterBook

log = logging.getLogger(__name__)

CLIENT_ID = "controller"
COMMAND_TTL_MS = 10_000
ROUNDS_KEPT = 8
"""Late answers to so many past rounds are told from forged ones."""

_RETAINED_KINDS = frozenset({"conn", "roster", "halt", "ctl"})
_NAMELESS_KINDS = frozenset({"halt", "ctl"})


class Record(Protocol):
    """Where messages are kept; `record.Recorder` is one."""

    def write(self, kind: str, message: Message, host: str = "") -> None:
        """Append one message that came from or went to `host`."""
        ...


class FleetLink:
    """One epoch of a controller on the wire.

    Parameters
    ----------
    config
        Settings of the run.
    epoch
        Number of this controller start.
    pi_l
        The local policy to distribute, shape (S_g, S_l, A_l).
    transport
        Not open yet.
    clock
        Fleet seconds.
    record
        Where messages are kept.
    """

    def __init__(
        self,
        config: ControllerConfig,
        epoch: int,
        pi_l: npt.NDArray[np.float64],
        *,
        transport: Transport,
        clock: Clock,
        record: Record,
    ) -> None:
        n_targets, n_zones, n_actions = pi_l.shape
        self.policy_digest, self._policy_payload = pack_policy(pi_l)
        self.roster = RosterBook(spaces_of(n_zones, n_targets, n_actions), self.policy_digest)
        self.awaiting: set[str] = set()
        """Lockstep hosts that have not announced the end of the present step."""
        self._config = config
        self._epoch = epoch
        self._boot = secrets.token_hex(8)
        self._connection = 0
        self._pace: Pace = "lockstep"
        self._topics = Topics(config.fleet)
        self._transport = transport
        self._clock = clock
        self._record = record
        self._began_s = clock.now()
        self._lost_at_s: float | None = None
        self._rounds: deque[PollRound] = deque(maxlen=ROUNDS_KEPT)
        self._step: Step | None = None
        self._step_unsent = False
        self._announced = False
        self._refused: Tally = Counter()
        self._complained: set[tuple[str, str]] = set()

    def open(self, timeout_s: float) -> None:
        """Connect, subscribe, announce the epoch, and publish the local policy."""
        self._began_s = self._clock.now()
        self._transport.open(
            Session(
                client_id=CLIENT_ID,
                filters=self._topics.controller_filters(),
                will=lambda c: self._presence("CONNECTION_BROKEN", c),
                birth=self._birth,
                queue=4096 + 8 * self._config.robots,
                fleet=self._config.fleet,
            ),
            timeout_s,
        )
        self._record.write("ctl", self._ctl("ONLINE", self._connection))

    def close(self) -> None:
        """Say goodbye: the policy is withdrawn and the presence is OFFLINE. Does not raise."""
        policy = Outbound(self._topics.of("pol", self.policy_digest), b"", qos=1, retain=True)
        self._transport.close([policy, self._presence("OFFLINE", self._connection)])

    @property
    def frame(self) -> Frame:
        """Robots that may be polled now; whoever may not is told so."""
        frame = self.roster.frame
        for host, why in self.roster.take_refusals():
            self._refuse(host, why)
        return frame

    @property
    def up_ms(self) -> int:
        """Milliseconds since this epoch began."""
        return int(1000 * (self._clock.now() - self._began_s))

    def announce(self, pace: Pace) -> None:
        """Tell the fleet the pace of the run when it has changed."""
        if pace != self._pace:
            self._pace = pace
            self._record.write("ctl", self._ctl("ONLINE", self._connection))
            message = self._presence("ONLINE", self._connection)
            self._transport.publish(message.topic, message.payload, qos=1, retain=True)

    def send_step(self, step: Step) -> None:
        """Publish a step and begin to wait for the lockstep hosts of the frame."""
        self._step = step
        self.awaiting = set(self.frame.lockstep_hosts)
        self._record.write("step", step)
        self._publish_step(step)

    def repeat_step(self) -> None:
        """Lockstep: publish the present step again; who has finished it says `done` again.

        In real time an old step must not move anybody later than it was meant to: the next one
        repairs the loss.
        """
        if self._step is not None and self._pace == "lockstep":
            self._publish_step(self._step)

    def send_polls(self, poll_round: PollRound, ttl_s: float) -> int:
        """Publish the polls of a round; return how many messages that took."""
        self._rounds.append(poll_round)
        polls = poll_round.polls(up_ms=self.up_ms, ttl_ms=max(1, round(1000 * ttl_s)))
        for host, poll in polls.items():
            self._record.write("poll", poll, host)
            self._transport.publish(self._topics.of("poll", host), encode(poll))
        return len(polls)

    def drop(self, host: str) -> None:
        """Take a silent host out of the frame until it is heard of again."""
        log.warning("host dropped host=%s reason=silent", host)
        self.roster.drop(host)
        self.awaiting.discard(host)

    def take_refused(self) -> dict[str, int]:
        """Return and clear the count of rows that did not become a fresh answer, by kind."""
        refused: dict[str, int] = dict(self._refused.items())
        self._refused.clear()
        return refused

    def receive(self, timeout_s: float) -> bool:
        """Take in at most one message, waiting at most `timeout_s` fleet seconds.

        Returns whether one came.

        Raises
        ------
        RunError
            The fleet was halted, another controller has taken over, or the broker has been gone
            for longer than `wait_s`.
        """
        message = self._transport.receive(max(0.0, timeout_s))
        self._watch_connection()
        if message is not None:
            self._take(message)
        return message is not None

    def _publish_step(self, step: Step) -> None:
        self._step_unsent = not self._transport.publish(self._topics.step, encode(step))

    def _birth(self, connection: int) -> list[Outbound]:
        # May run in the transport's thread: it records nothing, and reads values replaced whole.
        self._connection = connection
        topic = self._topics.of("pol", self.policy_digest)
        return [
            self._presence("ONLINE", connection),
            Outbound(topic, self._policy_payload, qos=1, retain=True),
        ]

    def _presence(self, state: Presence, connection: int) -> Outbound:
        payload = encode(self._ctl(state, connection))
        return Outbound(self._topics.ctl, payload, qos=1, retain=True)

    def _ctl(self, state: Presence, connection: int) -> Ctl:
        config = self._config
        return Ctl(
            ep=self._epoch,
            b=self._boot,
            c=connection,
            st=state,
            pace=self._pace,
            period=max(1, round(1000 * config.period_s)),
            hold=config.hold_ms,
        )

    def _watch_connection(self) -> None:
        """Repeat a step that a broken connection swallowed; give up after `wait_s`."""
        if self._transport.connected:
            self._lost_at_s = None
            if self._step_unsent:
                self.repeat_step()
            return
        now_s = self._clock.now()
        if self._lost_at_s is None:
            self._lost_at_s = now_s
            log.warning("broker connection lost")
        elif now_s - self._lost_at_s > self._config.wait_s:
            raise RunError(f"the broker has been gone for {self._config.wait_s:g} s")

    def _take(self, inbound: Inbound) -> None:
        """Parse, record and hand on one message."""
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
        asked = next((past for past in reversed(self._rounds) if past.key == key), None)
        if asked is None:
            self._refused["foreign"] += max(1, len(reply.r))
        else:
            self._refused.update(asked.accept(host, reply, at_s))

    def _on_done(self, host: str, done: Done) -> None:
        self._record.write("done", done, host)
        if done.ep != self._epoch:
            return
        if self.roster.heard(host):
            log.info("host back host=%s", host)
        if self._step is not None and done.t == self._step.t:
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
                f"{self._config.fleet!r}; this one has epoch {self._epoch}"
            )
        elif ctl.ep >= self._epoch:
            log.warning(
                "the fleet has had a controller of epoch %d, this one has %d: hosts that remember "
                "it will not obey (is this the epoch counter of that controller?)",
                ctl.ep,
                self._epoch,
            )

    def _refuse(self, host: str, why: str) -> None:
        """Tell a host that it may not take part."""
        log.warning("host refused host=%s reason=%s", host, why)
        order = Cmd(
            ep=self._epoch,
            id=secrets.token_hex(8),
            op="REFUSED",
            ttl=COMMAND_TTL_MS,
            why=why[:200],
        )
        self._record.write("cmd", order, host)
        self._transport.publish(self._topics.of("cmd", host), encode(order), qos=1)

    def _complain(self, host: str, what: str) -> None:
        """Count a malformed message, and log the first of each host and kind."""
        self._refused["malformed"] += 1
        key = (host, what.partition(":")[0])
        if key not in self._complained and len(self._complained) < 1000:
            self._complained.add(key)
            log.warning("message refused host=%s reason=%s", host, what)
