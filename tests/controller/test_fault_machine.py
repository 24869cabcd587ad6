# SPDX-License-Identifier: MIT
"""Controller and hosts on a faulty bus, in any order of events: what must hold whatever happens.

Real control loop, real host agents, memory bus, fake clock. Between steps hypothesis changes the
faults, cuts and restarts hosts, controller and broker, lets time pass, replays what went over the
wire and forges what did not. Checked all the time:

- a robot never acts on a step that is not newer than its last, nor on a halted epoch;
- every zone that counts was latched by that robot at that step, and it was asked: nothing forged,
  late or foreign counts, and no robot counts twice;
- a round ends by its deadline; its places add up to at most k, its estimate to 1;
- a realtime robot does not move longer than its hold time after its last step;
- the record is readable, and what was decided can be resumed.

The forger speaks in the name of honest hosts, as if the broker had no rights per login. With the
controller's own limits that puts the hosts into quarantine; half of the examples have none.
"""

import logging
import shutil
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from small_fleet import RingBank, small_policy

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.limits import HostGate, Limits
from kofn.controller.link.memory import Faults, MemoryBus, MemoryTransport
from kofn.controller.link.messages import Flag, Halt, Pace, Poll, Reply, Row, Step, decode, encode
from kofn.controller.link.transport import Inbound, Session
from kofn.controller.loop import ControlLoop
from kofn.controller.poll_round import Outcome
from kofn.controller.record import RunFolder, read_decisions
from kofn.controller.results import Decision
from kofn.controller.resume import read_checkpoint, read_settings
from kofn.controller.waiting import StopRequested
from kofn.hardware.agent import HostAgent

K = 3
PERIOD_S = 1.0
HOLD_S = 1.5
HOSTS = {"h0": ("a0", "a1", "a2"), "h1": ("b0", "b1", "b2", "b3")}
POLICY = small_policy()
STILL = Policy(
    POLICY.game,
    POLICY.grid,
    np.zeros_like(POLICY.action),
    np.broadcast_to(np.array([1.0, 0.0, 0.0]), POLICY.pi_l.shape).copy(),
    memory=POLICY.memory,
)
NO_LIMITS = Limits(
    replies_per_step=10**9, burst=10**9, overflows=10**9, conflicts=10**9, messages_per_s=1e9
)
Key = tuple[int, int]


class WatchedBank(RingBank):
    """Realtime robots go on moving until they are told otherwise."""

    moving = False

    def apply(self, actions: Any) -> None:
        super().apply(actions)
        self.moving = True

    def advance(self) -> bool:
        if self.pace == "realtime":
            return self.moving
        self.moving = super().advance()
        return self.moving

    def hold(self) -> None:
        super().hold()
        self.moving = False


class WatchedAgent(HostAgent):
    """Notes what it acts on; objects when that is not newer than the last."""

    last: Key = (-1, -1)
    taken_s = 0.0
    latched: dict[tuple[Key, str], set[int]]

    def _take(self, step: Step, received_s: float) -> None:
        key = (step.ep, step.t)
        assert key > self.last, f"acts on {key} after {self.last}"
        assert step.ep > self._core.halt_ep, f"acts on epoch {step.ep} in spite of a halt"
        assert step.ep > self._core._ordered_ep, f"acts on {key} in spite of an order"
        assert not self._core.left, f"acts on {key} after it has left"
        super()._take(step, received_s)
        self.last, self.taken_s = key, self._clock.now()
        assert self._core.latch is not None
        zones = self._core.latch.zones.tolist()
        for robot, zone in zip(self._bank.robots, zones, strict=True):
            self.latched.setdefault((key, robot), set()).add(zone)


class Forger:
    """Hears all, and answers polls of others at once: under a wrong name or with a wrong nonce."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=40)
        self.active = False
        self._transport = transport

    def on_time(self) -> float | None:
        return None

    def on_message(self, message: Inbound) -> None:
        self.heard.append((message.topic, message.payload))
        if not self.active or "/poll/" not in message.topic:
            return
        try:
            poll = decode(Poll, message.payload)
        except InputError:  # its own rubbish
            return
        host = message.topic.rpartition("/")[2]
        other = "h1" if host == "h0" else "h0"
        for name, nonce in ((other, poll.q), ("stranger", poll.q), (host, poll.q[::-1])):
            for zone in range(4):
                rows = [Row(robot, zone, Flag.OK, 0) for robot in poll.ids]
                reply = Reply(ep=poll.ep, t=poll.t, q=nonce, b="x", n=9, r=rows)
                self._transport.publish(f"kofn1/machine/rep/{name}", encode(reply))


chances = st.sampled_from([0.0, 0.0, 0.3, 1.0])
delays = st.sampled_from([(0.0, 0.0), (0.0, 0.4), (0.3, 1.5), (0.0, 5.0)])
kinds = st.sampled_from(["rep", "poll", "step", "done", "conn", "roster", "pol", "ctl"])
hosts = st.sampled_from(sorted(HOSTS))


class FaultMachine(RuleBasedStateMachine):
    """The fleet and its tormentor."""

    played = 0

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kofn-machine-"))
        self.clock = FakeClock()
        self.bus = MemoryBus(self.clock)
        self.latched: dict[tuple[Key, str], set[int]] = {}
        self.agents: dict[str, WatchedAgent] = {}
        self.transports: dict[str, MemoryTransport] = {}
        self.boots = self.epoch = 0
        self.loop: Any = None
        self.patience_s = 0.0
        self.folder: RunFolder | None = None
        self.rogue, self.driver = self.bus.transport(), self.bus.transport()
        self.driver.open(Session("driver", [], lambda c: None, lambda c: []))
        topics = ("step", "poll/+", "rep/+", "done/+", "cmd/+")
        filters = [(f"kofn1/machine/{topic}", 0) for topic in topics]
        self.rogue.open(Session("rogue", filters, lambda c: None, lambda c: []))
        self.forger = Forger(self.rogue)
        self.bus.attach(self.forger, self.rogue)

    def teardown(self) -> None:
        if self.loop is not None:
            self.end_controller()
        shutil.rmtree(self.root)

    @initialize(
        pace=st.sampled_from(["lockstep", "lockstep", "realtime"]),
        fill=st.sampled_from(["topup-first", "known-first"]),
        estimator=st.sampled_from(["plain", "plain", "weighted"]),
        limited=st.booleans(),
        seed=st.integers(0, 99),
    )
    def begin(self, pace: Pace, fill: Any, estimator: Any, limited: bool, seed: int) -> None:
        self.pace, self.limited = pace, limited
        self.config = ControllerConfig(
            fleet="machine",
            k=K,
            steps=100_000,
            robots=sum(map(len, HOSTS.values())),
            period_s=PERIOD_S,
            hold_s=HOLD_S,
            seed=seed,
            fill=fill,
            estimator=estimator,
            wait_s=8.0,
            done_timeout_s=4.0,
        )
        for host in HOSTS:
            self.start_host(host)
        self.start_controller()

    def start_host(self, host: str) -> None:
        self.boots += 1
        bank, transport = WatchedBank(HOSTS[host], self.pace), self.bus.transport()
        agent = WatchedAgent(
            fleet="machine",
            host=host,
            bank=bank,
            transport=transport,
            clock=self.clock,
            seed=1,
            boot=f"boot{self.boots}",
        )
        agent.latched = self.latched
        agent.open()
        self.bus.attach(agent, transport)
        self.agents[host], self.transports[host] = agent, transport

    def start_controller(self) -> None:
        self.epoch += 1
        old, self.folder = self.folder, RunFolder.create(self.root, "run")
        checkpoint = None
        if old is not None:
            decided = read_decisions(old.path)
            try:
                checkpoint = read_checkpoint(old.path)
            except InputError:
                assert not decided
            if decided:
                assert checkpoint is not None
                assert checkpoint.t == decided[-1].t
        self.loop = ControlLoop(
            self.config,
            POLICY if checkpoint is None else read_settings(old.path)[1],  # type: ignore[union-attr]
            self.bus.transport(),
            self.clock,
            self.folder,
            self.epoch,
            resume_from=checkpoint,
            should_stop=lambda: self.clock.now() > self.patience_s,
        )
        self.loop._recorder = self.folder.recorder()
        self.loop._prepare()
        if not self.limited:
            self.loop._link._intake._gate = HostGate(self.clock, NO_LIMITS)
        estimate = self.loop._estimator.estimate

        def watched(t: int, first_wave: Any, outcome: Outcome, belief: Any) -> Any:
            self.check_outcome(t, outcome)
            return estimate(t, first_wave, outcome, belief)

        self.loop._estimator.estimate = watched
        self.steps = self.loop._steps()
        self.last_t = -1

    def end_controller(self) -> None:
        """What `kill -9` does."""
        self.steps.close()
        self.loop._recorder._file.close()
        self.bus.break_connection(self.loop._transport)
        self.loop = None

    def check_outcome(self, t: int, outcome: Outcome) -> None:
        poll_round = self.loop._link._intake.rounds[-1]
        assert self.clock.now() <= poll_round.deadline_s + 1e-9
        answers = [*outcome.fresh, *outcome.topped_up]
        assert len({robot for robot, *_ in answers}) == len(answers)
        assert len(poll_round.asked) == len(set(poll_round.asked)) <= 2 * K
        for robot, zone, _ in answers:
            assert robot in poll_round.asked
            assert zone in self.latched[(self.epoch, t), robot]

    def check_decision(self, decision: Decision) -> None:
        fresh, topped_up, remembered, padded = decision.m
        assert decision.t > self.last_t
        self.last_t = decision.t
        assert sum(decision.counts) == fresh + topped_up
        assert sum(decision.m) <= min(K, decision.frame)
        assert sum(decision.padded) == padded
        asked = {*decision.asked, *decision.asked_instead}
        assert {*decision.remembered} <= asked
        assert len(decision.remembered) == remembered
        gate, frame = self.loop._link._intake._gate, self.loop._link.frame
        assert not [host for host in frame.paces if gate.is_quarantined(host)]
        assert not decision.share or sum(decision.share) == pytest.approx(1.0)
        assert np.isfinite(decision.belief).all()
        cap = POLICY.memory_cap(K)
        assert sum(decision.belief) <= max(cap, K) + 1e-6

    @rule(count=st.sampled_from([1, 2, 5, 20, 100]))
    def play(self, count: int) -> None:
        """Let the controller work; where there is none, repair the fleet and start one."""
        if self.loop is None:
            self.heal()
            self.start_controller()
        for _ in range(count):
            self.patience_s = self.clock.now() + 100.0
            try:
                decision = next(self.steps)
            except (RunError, StopRequested):
                # The fleet or the broker was gone for too long, or it was halted, or the operator
                # holds all that is left of it.
                self.end_controller()
                return
            type(self).played += 1
            self.check_decision(decision)

    @rule(count=st.sampled_from([20, 100, 300]))
    def play_on(self, count: int) -> None:
        """Long runs between the troubles, with what they left behind."""
        self.heal()
        for host in HOSTS:
            self.order(host, "resume")
        self.play(count)

    @precondition(lambda self: self.loop is not None)
    @rule()
    def kill_controller(self) -> None:
        self.end_controller()

    @precondition(lambda self: self.loop is not None)
    @rule()
    def cut_controller(self) -> None:
        self.bus.break_connection(self.loop._transport, reconnect=True)

    @rule(host=hosts)
    def kill_host(self, host: str) -> None:
        self.bus.break_connection(self.transports[host])

    @rule(host=hosts)
    def restart_host(self, host: str) -> None:
        self.bus.break_connection(self.transports[host])
        self.start_host(host)

    @rule(host=hosts)
    def cut_host(self, host: str) -> None:
        self.bus.break_connection(self.transports[host], reconnect=True)

    @rule()
    def restart_broker(self) -> None:
        self.bus.restart()

    @rule(host=hosts)
    def partition_host(self, host: str) -> None:
        self.bus.partitioned.add(self.transports[host])

    @precondition(lambda self: self.loop is not None)
    @rule()
    def partition_controller(self) -> None:
        self.bus.partitioned.add(self.loop._transport)

    @rule()
    def end_partitions(self) -> None:
        self.bus.partitioned.clear()

    @precondition(lambda self: self.loop is not None)
    @rule(host=hosts, op=st.sampled_from(["hold", "resume", "resume", "leave"]))
    def order(self, host: str, op: Any) -> None:
        if self.loop is None:
            return
        with suppress(InputError):  # not heard of, refused, or gone
            self.loop._link.order(host, op, "machine")

    @precondition(lambda self: self.loop is not None)
    @rule(policy=st.sampled_from([POLICY, STILL]))
    def change_policy(self, policy: Policy) -> None:
        self.loop.change_policy(policy)

    @rule(
        drop=st.dictionaries(kinds, chances, max_size=3),
        duplicate=st.dictionaries(kinds, chances, max_size=3),
        corrupt=st.dictionaries(kinds, chances, max_size=2),
        delay_s=st.dictionaries(kinds, delays, max_size=3),
        seed=st.integers(0, 99),
    )
    def worsen(self, drop: Any, duplicate: Any, corrupt: Any, delay_s: Any, seed: int) -> None:
        self.bus.faults = Faults(
            seed=seed, drop=drop, duplicate=duplicate, corrupt=corrupt, delay_s=delay_s
        )

    @rule()
    def heal(self) -> None:
        self.bus.faults = None
        self.bus.partitioned.clear()
        for host, transport in self.transports.items():
            if not transport.connected:
                self.start_host(host)

    @rule(host=hosts, up=st.lists(st.booleans(), min_size=4, max_size=4))
    def change_availability(self, host: str, up: list[bool]) -> None:
        bank = self.agents[host]._bank
        assert isinstance(bank, WatchedBank)
        bank.up[:] = up[: len(bank.robots)]

    @rule(duration_s=st.sampled_from([0.3, 1.0, 4.0]))
    def pass_time(self, duration_s: float) -> None:
        """The controller's process is stopped for a while, the others are not."""
        end_s = self.clock.now() + duration_s
        while self.clock.now() < end_s:
            self.driver.receive(end_s - self.clock.now())

    @precondition(lambda self: self.forger.heard)
    @rule(which=st.integers(0, 39), retain=st.booleans(), torn=st.booleans())
    def replay(self, which: int, retain: bool, torn: bool) -> None:
        topic, payload = self.forger.heard[which % len(self.forger.heard)]
        self.rogue.publish(topic, payload[:-2] if torn else payload, retain=retain)

    @rule(host=st.sampled_from([*HOSTS, "stranger"]), zone=st.integers(0, 9), t=st.integers(0, 60))
    def forge_reply(self, host: str, zone: int, t: int) -> None:
        rows = [Row(robot, zone, Flag.OK, 0) for robots in HOSTS.values() for robot in robots]
        reply = Reply(ep=self.epoch, t=t, q="0" * 16, b="x", n=9, r=rows)
        self.rogue.publish(f"kofn1/machine/rep/{host}", encode(reply))

    @rule(active=st.booleans())
    def forge_replies_while_rounds_are_open(self, active: bool) -> None:
        self.forger.active = active

    @rule(depth=st.sampled_from([1, 50, 5000]))
    def send_rubbish(self, depth: int) -> None:
        for topic in ("rep/h0", "step", "poll/h1", "ctl", "roster/h0", "conn/h0"):
            self.rogue.publish(f"kofn1/machine/{topic}", b"[" * depth)

    @rule()
    def halt(self) -> None:
        order = encode(Halt(ep=self.epoch, by="operator"))
        self.rogue.publish("kofn1/machine/halt", order, retain=True)

    @invariant()
    def no_robot_moves_longer_than_its_hold_time(self) -> None:
        if getattr(self, "pace", "lockstep") != "realtime":
            return
        for host, agent in self.agents.items():
            bank = agent._bank
            alive = self.transports[host] in self.bus._actors
            if alive and isinstance(bank, WatchedBank) and bank.moving:
                assert self.clock.now() <= agent.taken_s + HOLD_S + 1e-6


SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def run(examples: int, rules: int) -> int:
    """Run the machine; return how many steps of the loop were decided."""
    FaultMachine.played = 0
    run_state_machine_as_test(
        FaultMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=rules,
            deadline=None,
            suppress_health_check=SUPPRESSED,
            print_blob=True,
        ),
    )
    return FaultMachine.played


def play_at_least(steps: int) -> None:
    logging.disable(logging.CRITICAL)  # thousands of warnings, each of them meant
    try:
        played = 0
        while played < steps:
            played += run(examples=15, rules=40)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(900)  # some 15 s on a quiet machine
def test_whatever_happens_the_fleet_obeys_its_rules() -> None:
    play_at_least(10_000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_whatever_happens_for_long_the_fleet_obeys_its_rules() -> None:
    play_at_least(100_000)
