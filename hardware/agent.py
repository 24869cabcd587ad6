# SPDX-License-Identifier: MIT
"""`HostAgent`: one process and one broker connection that speak for one or many robots.

The agent joins three parts and adds no rule of its own: `HostCore` says what a message means, a
`Bank` moves the robots, a `Transport` carries the bytes. A physical robot is a host of one, a
simulated swarm a host of n; topics and messages are the same.

Between two slices of `Bank.advance` the agent reads its messages, so a poll is answered while a
world is computing. Nothing that the broker keeps can move a robot: retained copies of steps, polls
and commands are dropped; a retained halt is obeyed.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import HostLog, StepTaken, logged
from kofn.controller.link.messages import (
    Ack,
    Cmd,
    Ctl,
    Done,
    Event,
    Halt,
    Message,
    MessageT,
    Poll,
    Pose,
    Reply,
    Step,
    decode,
    encode,
)
from kofn.controller.link.topics import Topics, check_host
from kofn.controller.link.transport import Inbound, Transport
from kofn.hardware.announce import Announcer
from kofn.hardware.driver import (
    Bank,
    IdleBank,
    LocalisedBank,
    Reading,
    SteppedBank,
    TimedBank,
)
from kofn.hardware.events import Reporter
from kofn.hardware.guard import HostGuard
from kofn.hardware.host_core import HostCore, Latch, Verdict, target_of
from kofn.hardware.link_watch import LinkWatch
from kofn.hardware.local_policy import PolicyShelf

_log = logging.getLogger(__name__)

REALTIME_SLICE_S = 0.01
"""Between two looks at a bank that moves by itself and is no `TimedBank`, fleet seconds."""
IDLE_S = 0.2
"""Between two looks at robots that do nothing and still have something to say, fleet seconds."""
PATIENCE_WALL_S = 0.2
"""Longest wait in `run` before `should_stop` is asked again, wall seconds."""
MESSAGES_PER_TURN = 64
"""Messages read in a row before the world gets its next slice."""
WHOLE_SHARE = 0.9
"""Share of an option after which a realtime robot counts as having acted it out."""

_LIVE_ONLY = frozenset({"step", "poll", "cmd", "pose"})


class HostAgent:
    """The robot's side of the wire; an actor of the memory bus, or a process of its own by `run`.

    Parameters
    ----------
    fleet, host
        Names on the wire.
    bank
        The robots.
    transport, clock
        The connection and the time.
    seed
        Seed of the local actions: they are a function of (seed, host, t).
    log
        Where to write the steps taken; never sent over the wire.
    n_targets
        S_g; None when targets are zones.
    software
        Name and version for the roster.
    boot
        Identity of this boot; None draws one.
    guard
        The robots' safety, which hears of epochs, halts and the link; None where nobody can be
        hurt.

    Raises
    ------
    InputError
        A name that cannot be on the wire, a robot named twice, or more names than a roster holds.
    """

    def __init__(
        self,
        *,
        fleet: str,
        host: str,
        bank: Bank,
        transport: Transport,
        clock: Clock,
        seed: int,
        log: HostLog | None = None,
        n_targets: int | None = None,
        software: str = "",
        boot: str | None = None,
        guard: HostGuard | None = None,
    ) -> None:
        self.topics = Topics(fleet)
        self.host = check_host(host)
        self._boot = boot if boot is not None else secrets.token_hex(8)
        self._bank, self._transport, self._clock, self._host_log = bank, transport, clock, log
        self._lockstep = bank.pace == "lockstep"
        targets = bank.n_zones if n_targets is None else n_targets
        self._announcer = Announcer(self.topics, self.host, self._boot, bank, targets, software)
        self._guard = guard
        self._link = None if guard is None else LinkWatch(transport, clock, guard.link_s)
        floor_ep, halt_ep = guard.floor() if guard is not None else (-1, -1)
        self._core = self._make_core(
            host=host,
            boot=self._boot,
            robots=bank.robots,
            shelf=PolicyShelf(targets, bank.n_zones, bank.n_actions),
            n_targets=targets,
            pace=bank.pace,
            hold_s=3 * bank.option_s,
            seed=seed,
            floor_ep=floor_ep,
            halt_ep=halt_ep,
            needs_controller=guard is not None,
        )
        # Asked once: the look at a Protocol costs as much as all the rest of a step.
        self._stepped = bank if isinstance(bank, SteppedBank) else None
        self._idle = bank.idle if isinstance(bank, IdleBank) else None
        self._localised = bank if isinstance(bank, LocalisedBank) else None
        self._timed = bank if isinstance(bank, TimedBank) else None
        self._busy = False
        self._owed: tuple[Step, Reading] | None = None  # taken, and not acted on yet
        self._controller_s = clock.now()
        self._started_s = 0.0
        self._done: Done | None = None
        self._reporter = Reporter(self._boot, lambda event: self._publish("evt", event))
        self._counts: Counter[str] = Counter()
        self._readers: dict[str, Callable[[Inbound], None]] = {
            "step": self._on_step,
            "poll": self._on_poll,
            "ctl": self._on_ctl,
            "halt": self._on_halt,
            "cmd": self._on_cmd,
            "pose": self._on_pose,
        }

    def _make_core(self, **settings: Any) -> HostCore:
        """Return the state between messages; parameters as for `HostCore`."""
        return HostCore(**settings)

    def open(self, timeout_s: float = 10.0) -> None:
        """Make the robots ready, motors stopped; then connect and announce them.

        Raises
        ------
        RunError
            The robots or the connection failed; robots are released again.
        """
        try:
            self._bank.open()
            self._bank.hold()
            self._transport.open(self._announcer.session(), timeout_s)
        except BaseException:
            self._bank.close()
            raise

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Work until `should_stop()`, asked at least every 0.2 s of wall time, or LEAVE."""
        wall_of_one_s = self._clock.to_wall_s(1.0)
        patience_s = PATIENCE_WALL_S / wall_of_one_s if wall_of_one_s > 0 else PATIENCE_WALL_S
        while not should_stop() and not self.left:
            wake_s = self.on_time()
            now_s = self._clock.now()
            wait_s = patience_s if wake_s is None else min(max(wake_s - now_s, 0.0), patience_s)
            message = self._transport.receive(wait_s)
            for _ in range(MESSAGES_PER_TURN):
                if message is None:
                    break
                self.on_message(message)
                message = self._transport.receive(0.0)
            else:
                if message is not None:
                    self.on_message(message)

    def close(self) -> None:
        """Motors first, then the farewell, then the connection; idempotent."""
        try:
            self._hold()
            self._bank.close()
        finally:
            self._transport.close(self._announcer.farewell())

    @property
    def counters(self) -> dict[str, int]:
        """What happened so often: steps and polls by fate, malformed and retained messages, .."""
        return {**self._core.counters, **self._counts}

    @property
    def left(self) -> bool:
        """Whether an order to leave was obeyed: there is nothing more to do."""
        return self._core.left

    @property
    def policies(self) -> tuple[str, ...]:
        """Local policies that robots act by, or may: of the newest step, before it all held."""
        return (self._core.policy,) if self._core.policy else tuple(self._core.shelf.have)

    @property
    def holding(self) -> str | None:
        """Why robots are kept from acting until a step is taken; None when they are not."""
        return self._core.refusal

    def on_message(self, message: Inbound) -> None:
        """Take one message; whatever its payload, it raises nothing."""
        address = self.topics.parse(message.topic)
        if address is None:
            self._counts["foreign_topic"] += 1
            return
        if message.retained and address.kind in _LIVE_ONLY:
            self._counts[f"{address.kind}_retained"] += 1
            return
        if not message.payload:  # a cleared retained message says nothing, and releases nothing
            self._counts["empty"] += 1
            return
        if address.kind == "pol":
            self._on_policy(address.name, message.payload)
        elif (reader := self._readers.get(address.kind)) is not None:
            reader(message)

    def _decoded(self, kind: type[MessageT], message: Inbound) -> MessageT | None:
        try:
            return decode(kind, message.payload)
        except InputError as error:
            self._malformed(kind.__name__.lower(), error)
            return None

    def _malformed(self, what: str, error: InputError) -> None:
        code = f"{what}_malformed"
        self._counts[code] += 1
        self._reporter.report(code, str(error), self._clock.now())

    def _on_step(self, message: Inbound) -> None:
        step = self._decoded(Step, message)
        if step is None:
            return
        now_s = self._clock.now()
        verdict, code, text = self._core.judge(step, message.at_s, now_s)
        if self._guard is not None:
            self._guard.see_epoch(step.ep)
            self._controller_s = now_s
        if verdict is Verdict.TAKE:
            self._take(step, message.at_s)
        elif verdict is Verdict.HOLD:
            self._hold()
            self._reporter.report(code, text, self._clock.now())
        elif verdict is Verdict.REPEAT and self._done is not None:
            self._publish("done", self._done)
        elif code == "step_old_epoch":  # a controller that nobody obeys should hear why
            self._reporter.report(code, text, now_s)

    def _take(self, step: Step, received_s: float) -> None:
        """Latch the state; simulated robots act once what came with the step is read (`_act`).

        Robots that can hurt act, or refuse to, at once: armed a moment later they must not move
        on a step of before.
        """
        self._act()  # on the step before, where two came at once
        core, bank = self._core, self._bank
        if self._busy and not self._acted_out():
            core.cut()
        if self._stepped is not None:
            self._stepped.see_step(step.t, target_of(step))
        reading = bank.read()
        now_s = self._clock.now()
        replies = core.see(step, reading, received_s=received_s, now_s=now_s)
        self._done = None
        self._owed = step, reading
        if self._guard is not None:
            self._act()
        self._send(replies)

    def _act(self) -> None:
        """Let the robots act on the step that was taken, if they do not yet."""
        if self._owed is None:
            return
        (step, reading), self._owed = self._owed, None
        latch = self._core.act()
        self._bank.apply(latch.actions)
        self._busy, self._started_s = True, latch.at_s
        self._note_step(step, reading, latch)

    def _note_step(self, step: Step, reading: Reading, latch: Latch) -> None:
        if self._stepped is not None:
            for code, text in self._stepped.news():
                self._reporter.report(code, text, latch.at_s)
        if self._host_log is not None:
            z, a, w = logged(latch.zones, latch.actions)
            self._host_log.write(
                StepTaken(
                    ep=step.ep,
                    t=step.t,
                    g=latch.g,
                    u=step.u,
                    time_s=reading.time_s,
                    z=z,
                    a=a,
                    w=w,
                    x=reading.digest,
                )
            )

    def _on_poll(self, message: Inbound) -> None:
        poll = self._decoded(Poll, message)
        if poll is None:
            return
        now_s = self._clock.now()
        self._send(self._core.answer(poll, received_s=message.at_s, now_s=now_s))

    def _on_ctl(self, message: Inbound) -> None:
        ctl = self._decoded(Ctl, message)
        if ctl is None:
            return
        if self._core.see_ctl(ctl):
            self._hold()
            self._reporter.report("controller_lost", "its connection broke", self._clock.now())
        if self._guard is not None:
            self._guard.see_epoch(ctl.ep)
            if not message.retained:
                self._controller_s = self._clock.now()

    def _watch_controller(self, now_s: float, link_s: float) -> None:
        """Hold when a controller that says how often it beats has fallen silent."""
        silent = self._busy and self._core.beat_s > 0 and now_s - self._controller_s > link_s
        if silent:
            self._core.stop("the controller is silent")
            self._hold()
            self._reporter.report("controller_silent", f"for {link_s:g} s", now_s)

    def _on_halt(self, message: Inbound) -> None:
        halt = self._decoded(Halt, message)
        if halt is None:
            return
        # Safety first: it stops the motors and writes the halt down.
        stopped = self._guard is not None and self._guard.see_halt(
            halt.ep, halt.by, halt.why, live=not message.retained
        )
        if self._core.see_halt(halt) or stopped:
            self._hold()
        # Answered at once and each time: the operator counts the hosts that heard it.
        in_force = self._core.highest_ep
        if in_force > self._core.halt_ep:  # who gave it did not know of this controller
            code, text = "halt_low", f"epoch {in_force} is in force, the halt is of epoch {halt.ep}"
        else:
            code, text = "halted", f"halt of epoch {halt.ep} by {halt.by}"
        self._publish("evt", Event(b=self._boot, code=code, n=1, text=text))

    def _on_cmd(self, message: Inbound) -> None:
        cmd = self._decoded(Cmd, message)
        if cmd is None:
            return
        ok, why, stops = self._core.see_command(cmd, self._clock.now() - message.at_s)
        if stops:
            self._hold()
            _log.warning("host=%s command=%s why=%s", self.host, cmd.op, cmd.why)
        self._publish("ack", Ack(b=self._boot, id=cmd.id, ok=ok, why=why), qos=1)
        if stops and self._core.left:
            goodbye = self._announcer.leave()
            self._transport.publish(goodbye.topic, goodbye.payload, qos=1, retain=True)

    def _on_pose(self, message: Inbound) -> None:
        """Hand a localiser's poses to robots that can use them; a pose moves nothing."""
        poses = self._decoded(Pose, message)
        if poses is None or self._localised is None:
            return
        known = set(self._bank.robots)
        for row in poses.r:
            if row.id in known:
                self._counts["poses"] += 1
                self._localised.fix((row.x, row.y, row.yaw), row.age_ms / 1000, row.wait)

    def _on_policy(self, digest: str, payload: bytes) -> None:
        try:
            changed = self._core.shelf.add(digest, payload)
        except InputError as error:
            self._malformed("pol", error)
            return
        self._counts["policies"] += 1
        if changed:
            roster = self._announcer.update(self._core.shelf.have)
            self._transport.publish(roster.topic, roster.payload, qos=1, retain=True)

    def on_time(self) -> float | None:
        """Do what is due and one slice of the option; return when to be called again."""
        now_s = self._clock.now()
        if self._guard is not None and self._link is not None:
            self._guard.see_link(self._link.silence_s())
            self._watch_controller(now_s, self._guard.link_s)
            for trouble in self._guard.take_troubles():
                self._reporter.report("robot_stopped", trouble, now_s)
        why, replies = self._core.expire(now_s)
        if why is not None:
            if why == "ttl_over" and self._busy and not self._acted_out():
                self._counts[why] += 1  # the end of an option at its full length is no incident
            self._hold()
            if why == "hold_timer":
                self._reporter.report(why, "no valid step for the hold time", self._clock.now())
        self._send(replies)
        self._act()  # on a step that has not expired meanwhile
        self._reporter.flush(now_s)
        if self._busy:
            self._advance()
        elif self._idle is not None:
            self._idle()
        if self._busy and self._lockstep:
            return now_s
        plans = [self._core.due_s(), self._reporter.due_s()]
        if self._busy:
            timed = self._timed
            plans.append(now_s + REALTIME_SLICE_S if timed is None else timed.due_s())
        if self._link is not None:
            plans.append(self._link.due_s())
        if self._idle is not None:
            plans.append(now_s + IDLE_S)
        return min((time_s for time_s in plans if time_s is not None), default=None)

    def _advance(self) -> None:
        if self._bank.advance():
            return
        self._busy = False
        if not self._acted_out():
            self._core.cut()
        latch = self._core.latch
        if not self._lockstep or latch is None:
            return
        reading = self._bank.read()
        self._done = Done(
            ep=latch.ep,
            t=latch.t,
            b=self._boot,
            n=int(reading.up.sum()),
            sim=round(reading.time_s * 1000),
        )
        self._publish("done", self._done)

    def _acted_out(self) -> bool:
        """Whether the option under way has run long enough to count as a transition."""
        if self._lockstep:
            return not self._busy
        return self._clock.now() - self._started_s >= WHOLE_SHARE * self._bank.option_s

    def _hold(self) -> None:
        self._bank.hold()
        if self._owed is not None:  # taken, and stopped before anybody moved
            (step, reading), self._owed = self._owed, None
            latch = self._core.latch
            assert latch is not None  # noqa: S101  it was taken
            self._note_step(step, reading, latch)
        if self._busy and not self._acted_out():
            self._core.cut()
        self._busy = False

    def _publish(self, kind: str, message: Message, *, qos: int = 0) -> None:
        self._transport.publish(self.topics.of(kind, self.host), encode(message), qos=qos)

    def _send(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            self._publish("rep", reply)
