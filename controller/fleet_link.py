# SPDX-License-Identifier: MIT
"""The controller's end of the wire: what it announces and sends, and whether it is connected.

What it hears goes through `intake`. Everything sent is recorded. Decides nothing about the game.
"""

import logging
import secrets
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import RunError
from kofn.controller.echo import MESSAGES, Echo
from kofn.controller.intake import Intake, Record
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.audit import AuditLog, one_line
from kofn.controller.link.clock import Clock
from kofn.controller.link.limits import HostGate, Limits
from kofn.controller.link.messages import Cmd, Ctl, Halt, Pace, Poll, Presence, Step, encode
from kofn.controller.link.policies import PolicyFile, pack_file, spaces_of
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Bundling, Outbound, Session, Transport
from kofn.controller.metrics import LinkState
from kofn.controller.orders import Orders, Result
from kofn.controller.poll_round import Answer, PollRound
from kofn.controller.roster import Frame, RosterBook

log = logging.getLogger(__name__)

CLIENT_ID = "controller"
COMMAND_TTL_MS = 10_000
HALT_ANSWER_WALL_S = 5.0
"""How long a halt is repeated for hosts that have not answered it, wall seconds."""
HALT_REPEAT_WALL_S = 1.0
ECHO_WALL_S = 1.0
"""How long a round trip of the self-test may take, wall seconds."""
RESULTS_KEPT = 1000
"""Results of commands that nobody has taken are forgotten beyond that."""

Op = Literal["HOLD", "RESUME", "LEAVE", "REFUSED"]
ROWS_PER_REPLY = 500
"""A host answers one poll in messages of at most so many rows."""


def host_limits(k: int) -> Limits:
    """How much one host may say when k robots are polled per step.

    All robots of a poll may be of one host, and two waves make two polls: an honest host answers a
    step in at most 2 ceil(k / 500) messages. Four times that, because a connection that stood
    still delivers the answers to many steps at once. A host announces itself twice per connection
    and says goodbye once, so 40 at once and 3 a second let it reconnect every second.
    """
    return Limits(
        replies_per_step=8 * -(-k // ROWS_PER_REPLY), messages_per_s=3.0, burst=40, overflows=200
    )


class Addressed(NamedTuple):
    """A poll, the host that it goes to, and its bytes."""

    host: str
    poll: Poll
    payload: bytes


class Late(NamedTuple):
    """Zones of step t that came too late to count, and by how many seconds each."""

    t: int
    answers: list[Answer]
    late_s: list[float]


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
    allow_list
        Which host may speak for which robots; None lets all speak.
    limits
        How much one host may say; None is `host_limits`.
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
        allow_list: AllowList | None = None,
        limits: Limits | None = None,
    ) -> None:
        n_targets, n_zones, n_actions = pi_l.shape
        self._policy = pack_file(pi_l)
        self._next_policy: PolicyFile | None = None
        self.roster = RosterBook(
            spaces_of(n_zones, n_targets, n_actions), self._policy.digest, allow_list
        )
        self._config = config
        self._epoch = epoch
        self._boot = secrets.token_hex(8)
        self._orders = Orders()
        self._results: list[Result] = []
        self._intake = Intake(
            config.fleet,
            epoch,
            self._boot,
            self.roster,
            record,
            gate=HostGate(clock, limits or host_limits(config.k)),
            audit=AuditLog(clock),
            orders=self._orders,
            allow_list=allow_list,
        )
        self._connection = 0
        self._pace: Pace = "lockstep"
        self._topics = Topics(config.fleet)
        self._transport = transport
        self.at_once = transport.in_one_segment if isinstance(transport, Bundling) else nullcontext
        """Context: what is sent in it goes out together at its end, where the transport can."""
        self._clock = clock
        self._record = record
        self._began_s = clock.now()
        self._lost_at_s: float | None = None
        self._beat_at_s = float("-inf")
        self._step: Step | None = None
        self._step_unsent = False

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
        self._transport.close(
            [
                *self._retained(self._policies, clear=True),
                self._presence("OFFLINE", self._connection),
            ]
        )

    @property
    def frame(self) -> Frame:
        """Robots that may be polled now; whoever may not is told so."""
        self._intake.release()
        frame = self.roster.frame
        for host, why in self.roster.take_refusals():
            log.warning("host refused host=%s reason=%s", host, why)
            self._command(host, "REFUSED", why)
        for host in self.roster.take_readmitted():
            self._command(host, "RESUME", "what it was refused for is over")
        for host in self.roster.take_held_anew():
            self._command(host, "HOLD", "held before it started anew")
        return frame

    def order(self, host: str, op: Literal["hold", "resume", "leave"], why: str = "") -> Cmd:
        """Give an order of the operator to one host; return the command that carries it.

        A host that is told to hold or to leave is out of the frame at once. The result comes by
        `take_results`.

        Raises
        ------
        InputError
            Nobody has heard of this host, or it is to resume though it was refused.
        """
        self.roster.check_order(host, op)
        self.roster.hold(host, "" if op == "resume" else op.upper())
        self._intake.awaiting.discard(host)
        commands: dict[str, Literal["HOLD", "RESUME", "LEAVE"]]
        commands = {"hold": "HOLD", "resume": "RESUME", "leave": "LEAVE"}
        return self._command(host, commands[op], why)

    def take_results(self) -> list[Result]:
        """Return and clear what has become of commands."""
        results, self._results = self._results, []
        return results

    def spread_halt(self, halt: Halt) -> list[str]:
        """Repeat a halt until every host that is online has answered; return who has not.

        Does not raise: a fleet that cannot be reached holds by its own timers.
        """
        intake, wall_of_one_s = self._intake, self._clock.to_wall_s(1.0)
        scale = 1.0 / wall_of_one_s if wall_of_one_s > 0 else 1.0
        intake.halting = halt
        log.error("halt ep=%d by=%s why=%s", halt.ep, halt.by, halt.why)
        self._record.write("halt", halt)
        give_up_s = self._clock.now() + HALT_ANSWER_WALL_S * scale
        repeat_s = self._clock.now()
        while (silent := self.roster.online - intake.halted) or repeat_s <= self._clock.now():
            now_s = self._clock.now()
            if now_s >= give_up_s:
                break
            if now_s >= repeat_s:
                repeat_s = now_s + HALT_REPEAT_WALL_S * scale
                self._transport.publish(self._topics.halt, encode(halt), qos=1, retain=True)
            message = self._transport.receive(min(repeat_s, give_up_s) - now_s)
            if message is not None:
                with suppress(RunError):  # another controller: the fleet must stop all the same
                    intake.take(message)
        if silent:
            log.error("halt unanswered n=%d hosts=%s", len(silent), ",".join(sorted(silent)))
        return sorted(silent)

    @property
    def policy_digest(self) -> str:
        """Hex hash of the local policy that steps name."""
        return self._policy.digest

    def stage_policy(self, pi_l: npt.NDArray[np.float64]) -> str:
        """Publish the next local policy, shape (S_g, S_l, A_l); return its hash (hex).

        It is retained beside the current one. One that was staged before is withdrawn.
        """
        self.drop_staged()
        staged = pack_file(pi_l)
        if staged.digest != self.policy_digest:
            self._next_policy = staged
            self._publish_all(self._retained(staged.messages))
        return staged.digest

    def drop_staged(self) -> None:
        """Withdraw the next local policy, if there is one."""
        staged, self._next_policy = self._next_policy, None
        self._clear(staged)

    def lacking(self, digest: str) -> frozenset[str]:
        """Hosts of the frame that do not hold a policy."""
        return self.roster.lacking(digest)

    def switch_policy(self) -> None:
        """Between two steps: go over to the next local policy, and withdraw the older one.

        Hosts that do not hold it are out of the frame until they do.
        """
        if self._next_policy is not None:
            older, self._policy, self._next_policy = self._policy, self._next_policy, None
            self.roster.change_policy(self._policy.digest)
            self._clear(older)

    def _clear(self, policy: PolicyFile | None) -> None:
        """Clear the retained messages of a policy that no other one needs."""
        if policy is not None:
            left = {d: p for d, p in policy.messages.items() if d not in self._policies}
            self._publish_all(self._retained(left, clear=True))

    @property
    def awaiting(self) -> frozenset[str]:
        """Lockstep hosts that have not announced the end of the present step."""
        return frozenset(self._intake.awaiting)

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

    def begin_step(self, step: Step) -> None:
        """Record a step that `send_step` is about to publish; wait for the hosts of its frame."""
        self._step = step
        self._intake.begin_step(step.t)
        self._intake.awaiting = set(self.frame.lockstep_hosts)
        self._record.write("step", step)
        self._record.flush()  # who resumes this run must know that the robots have moved

    def open_round(self, poll_round: PollRound) -> list[Addressed]:
        """Listen to the answers of a round; return the polls of its first wave, for `send_step`."""
        self._intake.rounds.append(poll_round)
        return self._polls(poll_round, 1)

    def send_step(self, step: Step, polls: Sequence[Addressed]) -> None:
        """Publish a step, and the polls of its round.

        Together, where the transport can: broker and hosts wake once for both.
        """
        with self.at_once():
            self._publish_step(step)
            self._publish_polls(polls)

    def repeat_step(self) -> None:
        """Lockstep: publish the present step again; who has finished it says `done` again.

        In real time an old step must not move anybody later than it was meant to: the next one
        repairs the loss.
        """
        if self._step is not None and self._pace == "lockstep":
            self._publish_step(self._step)

    def send_second_wave(self, poll_round: PollRound) -> int:
        """Publish the polls of the second wave of a round; return how many messages that took."""
        polls = self._polls(poll_round, 2)
        with self.at_once():
            self._publish_polls(polls)
        return len(polls)

    def _polls(self, poll_round: PollRound, wave: Literal[1, 2]) -> list[Addressed]:
        """The polls of one wave, made before anything is sent."""
        ttl_ms = max(1, round(1000 * (poll_round.deadline_s - self._clock.now())))
        polls = poll_round.polls(up_ms=self.up_ms, ttl_ms=ttl_ms, wave=wave)
        return [Addressed(host, poll, encode(poll)) for host, poll in polls.items()]

    def _publish_polls(self, polls: Sequence[Addressed]) -> None:
        for host, poll, payload in polls:
            self._transport.publish(self._topics.of("poll", host), payload)
            self._record.write("poll", poll, host)

    def drop(self, host: str) -> None:
        """Take a silent host out of the frame until it is heard of again."""
        log.warning("host dropped host=%s reason=silent", host)
        self.roster.drop(host)
        self._intake.awaiting.discard(host)

    def take_refused(self) -> dict[str, int]:
        """Return and clear the count of rows that did not become an answer, by kind."""
        refused: dict[str, int] = dict(self._intake.refused.items())
        self._intake.refused.clear()
        return refused

    @property
    def quarantines(self) -> int:
        """How often a host was put into quarantine."""
        return self._intake.quarantines

    @property
    def state(self) -> LinkState:
        """What the link says of itself, for `Metrics`."""
        roster, frame = self.roster, self.roster.frame
        online = roster.online
        return LinkState(
            transport=self._transport.statistics,
            hosts={
                "in_frame": len(frame.paces),
                "out_of_frame": len(online) - len(frame.paces),
                "held": len(roster.held),
                "offline": roster.heard_of - len(online),
            },
            events=dict(self._intake.events),
            commands_under_way=len(self._orders),
            quarantines=self._intake.quarantines,
        )

    def measure_echo(self) -> float | None:
        """Milliseconds that five messages to ourselves take through the broker; None: no answer.

        Warns of a broker that holds back small packets (`echo`). On a clock that does not move by
        itself there is nothing to measure.
        """
        wall_of_one_s = self._clock.to_wall_s(1.0)
        if wall_of_one_s <= 0:
            return None
        message = self._presence("ONLINE", self._connection)
        echo = Echo()
        while not echo.decided:
            began_s = self._clock.now()
            wanted = self._intake.own_ctl + MESSAGES
            with self.at_once():
                for _ in range(MESSAGES):
                    self._transport.publish(message.topic, message.payload)
            give_up_s = began_s + ECHO_WALL_S / wall_of_one_s
            while self._intake.own_ctl < wanted:
                if self._clock.now() >= give_up_s:
                    log.warning("echo=none: the broker did not answer within %g s", ECHO_WALL_S)
                    return None
                self.receive(give_up_s - self._clock.now())
            echo.add(1000 * wall_of_one_s * (self._clock.now() - began_s))
        log.log(logging.WARNING if echo.nagle else logging.INFO, "%s", echo)
        return echo.ms

    def take_late(self) -> list[Late]:
        """Return and clear the zones that came too late, by step."""
        found = []
        for past in self._intake.rounds:
            answers, late_s = past.take_late()
            if answers:
                found.append(Late(past.key.t, answers, late_s))
        return found

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
        self._beat()
        if message is not None:
            self._intake.take(message)
        self._send_commands()
        return message is not None

    def _beat(self) -> None:
        """Say that this loop is alive, where robots want to know. By the loop itself, no thread."""
        now_s = self._clock.now()
        if self._config.beat_s and now_s - self._beat_at_s >= self._config.beat_s:
            self._beat_at_s = now_s
            presence = self._presence("ONLINE", self._connection)
            self._transport.publish(presence.topic, presence.payload, qos=0, retain=True)

    def _publish_step(self, step: Step) -> None:
        self._step_unsent = not self._transport.publish(self._topics.step, encode(step))

    def _birth(self, connection: int) -> list[Outbound]:
        # May run in the transport's thread: it records nothing, and reads values replaced whole.
        self._connection = connection
        return [self._presence("ONLINE", connection), *self._retained(self._policies)]

    @property
    def _policies(self) -> dict[str, bytes]:
        """All messages of the current and the next policy."""
        staged = self._next_policy
        return self._policy.messages | (staged.messages if staged is not None else {})

    def _retained(self, messages: dict[str, bytes], *, clear: bool = False) -> list[Outbound]:
        return [
            Outbound(self._topics.of("pol", digest), b"" if clear else payload, qos=1, retain=True)
            for digest, payload in messages.items()
        ]

    def _publish_all(self, messages: list[Outbound]) -> None:
        for message in messages:
            self._transport.publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain
            )

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
            beat=round(1000 * config.beat_s),
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

    def _command(self, host: str, op: Op, why: str) -> Cmd:
        """Give a host a command, which is sent until it is acknowledged."""
        cmd = Cmd(ep=self._epoch, id=secrets.token_hex(8), op=op, ttl=COMMAND_TTL_MS, why=why[:200])
        self._record.write("cmd", cmd, host)
        self._orders.give(host, cmd, self._clock.now())
        self._send_commands()
        return cmd

    def _send_commands(self) -> None:
        """Send commands that are due; note what has become of others."""
        for host, cmd in self._orders.due(self._clock.now()):
            self._transport.publish(self._topics.of("cmd", host), encode(cmd), qos=1)
        for result in self._orders.take_results():
            level = logging.INFO if result.ok else logging.WARNING
            words = "command host=%s op=%s ok=%s why=%s"
            log.log(level, words, result.host, result.cmd.op, result.ok, one_line(result.why))
            self._results.append(result)
        del self._results[:-RESULTS_KEPT]
