# SPDX-License-Identifier: MIT
"""What a host must do with any driver: messages in, motors seen from outside out.

    from kofn.hardware.conformance_host import HOST_CHECKS, run_host_check

A `Stage` is a host agent, its safety, a bank and a driver with its device (`conformance.Bench`), in
real time and with their real threads; only the broker is replaced, by a queue that can fall silent.
Checks follow the rows of the safety table: dead-man and link, stale commands, halt, wired stop,
local arming, one controller.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Ctl, Halt, Message, Step, encode
from kofn.controller.link.policies import pack_policy
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.hardware.agent import HostAgent
from kofn.hardware.conformance import Bench
from kofn.hardware.driver_bank import DriverBank
from kofn.hardware.ring import N_ACTIONS, RingLayout
from kofn.hardware.safety_memory import SafetyMemory
from kofn.hardware.safety_states import Mode
from kofn.hardware.safety_task import Safety, SafetySettings

Result = TypeVar("Result")

PATIENCE_WALL_S = 10.0
MARGIN_S = 0.5
"""A loaded machine may be that late in these checks; the benchmark measures how late it is."""
OPTION_S = 20.0


class Pipe:
    """A transport to nobody: a test puts messages in, and may let the broker fall silent."""

    def __init__(self) -> None:
        self._in: queue.Queue[Inbound] = queue.Queue()
        self.sent: list[tuple[str, bytes]] = []
        self.silent = False
        self._heard_wall_s = time.monotonic()

    def put(self, topic: str, payload: bytes, *, retained: bool = False) -> None:
        """Let the agent have a message."""
        self._in.put(Inbound(topic, payload, retained, time.monotonic()))

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Announce."""
        del timeout_s
        self.sent += [(out.topic, out.payload) for out in session.birth(1)]

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Keep what was said."""
        del qos, retain
        self.sent.append((topic, payload))
        return True

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message."""
        try:
            return self._in.get(timeout=max(timeout_s, 0.0005))
        except queue.Empty:
            return None

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Nothing to do."""
        del farewell

    def ping(self) -> None:
        """Hear the broker, unless it is silent."""
        if not self.silent:
            self._heard_wall_s = time.monotonic()

    @property
    def heard_wall_s(self) -> float:
        """When the broker was heard."""
        return self._heard_wall_s

    @property
    def connected(self) -> bool:
        """A frozen broker keeps its connections."""
        return True

    @property
    def statistics(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}


class Stage:
    """One host of one robot; a context manager.

    Parameters
    ----------
    make
        Makes the bench; its driver and clock run in real time.
    state
        Folder of what the robot remembers.
    settings
        Time limits.
    """

    def __init__(
        self, make: Callable[[], Bench], state: Path, settings: SafetySettings | None = None
    ) -> None:
        self._make, self._state = make, state
        self.settings = settings or SafetySettings(deadman_s=0.3, link_s=0.6)
        self._end = threading.Event()
        self.stuck = threading.Event()
        self._newest: dict[int, int] = {}  # epoch -> greatest step said
        self.topics = Topics("yard")
        pi_l = np.zeros((5, 5, N_ACTIONS))
        pi_l[:, :, 1] = 1.0  # always on to the next zone
        self.policy, self._payload = pack_policy(pi_l)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._device = threading.Thread(target=self._loop.run_forever, name="bench")
        self._device.start()
        self.bench = self.call(self._made())
        self.call(self.bench.start())
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()
        self.call(self.bench.finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._device.join()
        self._loop.close()

    def boot(self, *, wait: bool = True) -> None:
        """Start the host, as after its power came back."""
        self._end.clear()
        self.pipe = Pipe()
        clock = MonotonicClock()
        self.safety = Safety(("r0",), clock, self.settings, memory=SafetyMemory(self._state))
        self.bank = DriverBank(
            self.bench.driver,
            robot="r0",
            layout=RingLayout(),
            clock=clock,
            option_s=OPTION_S,
            safety=self.safety,
        )
        self.agent = HostAgent(
            fleet="yard",
            host="host",
            bank=self.bank,
            transport=self.pipe,
            clock=clock,
            seed=0,
            guard=self.safety,
        )
        self.trouble: Exception | None = None
        self._agent_thread = threading.Thread(target=self._serve, name="agent")
        self._agent_thread.start()
        if wait:
            self.until(lambda: self.safety.mode() is not Mode.BOOT, "leaves BOOT")
            self.pipe.put(self.topics.of("pol", self.policy), self._payload, retained=True)

    def shut_down(self) -> None:
        """End the host as a process ends: motors, then everything else."""
        self._end.set()
        self.stuck.clear()
        self._agent_thread.join()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do something in the device's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_WALL_S)

    def say(self, message: Message, *, retained: bool = False) -> None:
        """Let the host have a message of the controller or the operator."""
        topic = {Step: self.topics.step, Ctl: self.topics.ctl, Halt: self.topics.halt}
        self.pipe.put(topic[type(message)], encode(message), retained=retained)

    def step(self, t: int, ep: int = 1, *, retained: bool = False) -> None:
        """Let it have step t of an epoch."""
        message = Step(
            ep=ep,
            t=t,
            up=round(time.monotonic() * 1000),
            g=0,
            u=0,
            ttl=int(1000 * OPTION_S),
            pol=f"sha256:{self.policy}",
            k=1,
            m=(0, 0, 0, 0),
        )
        self.say(message, retained=retained)
        if not retained:
            self._newest[ep] = max(t, self._newest.get(ep, -1))

    @property
    def moving(self) -> bool:
        """Whether the motors turn, seen from outside."""
        v, w = self.bench.motors()
        return abs(v) > 1e-3 or abs(w) > 1e-3

    def until(
        self, condition: Callable[[], bool], what: str, within_s: float = PATIENCE_WALL_S
    ) -> float:
        """Wait until a condition holds; return how long that took, s."""
        began_s = time.monotonic()
        while not condition():
            if self.trouble is not None:
                raise AssertionError(f"the host failed: {self.trouble}") from self.trouble
            if time.monotonic() - began_s > within_s:
                raise AssertionError(f"not within {within_s:.2f} s: it {what}")
            time.sleep(0.002)
        return time.monotonic() - began_s

    def arm(self) -> None:
        """Arm it as its operator does."""
        self.until(lambda: self.safety.arm() == [], f"arms ({self.safety.objections()})")

    def start_moving(self, t: int = 0, ep: int = 1) -> None:
        """Act on a step, and see the motors turn.

        On a busy machine a device may answer so late that the dead-man ends the option before its
        first command: then the robot rightly waits for the next step, which it gets, once.
        """
        ends = self.safety.counts.get("deadman", 0)
        self._next_step(t, ep)
        self.until(lambda: self.moving or self._deadman_after(ends), "moves on a step")
        if not self.moving:
            self._next_step(t, ep)
            self.until(lambda: self.moving, "moves on the step after the dead-man's")

    def _next_step(self, t: int, ep: int) -> None:
        self.step(max(t, self._newest.get(ep, -1) + 1), ep)

    def _deadman_after(self, ends: int) -> bool:
        return self.safety.counts.get("deadman", 0) > ends

    def stops(self, within_s: float = MARGIN_S) -> None:
        """See the motors at zero in time."""
        self.until(lambda: not self.moving, "stops", within_s)

    def stays_still(self, duration_s: float = 0.3) -> None:
        """See the motors at zero for a while."""
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            if self.moving:
                raise AssertionError("motors turn that must not")
            time.sleep(0.002)

    async def _made(self) -> Bench:
        return self._make()

    def _serve(self) -> None:
        try:
            self.agent.open()
        except Exception as error:  # noqa: BLE001  told to whoever waits
            self.trouble = error
            return
        try:
            self.agent.run(self._stop_or_hang)
        finally:
            self.agent.close()

    def _stop_or_hang(self) -> bool:
        while self.stuck.is_set() and not self._end.is_set():
            time.sleep(0.001)
        return self._end.is_set()


HostCheck = Callable[[Stage], None]


def run_host_check(check: HostCheck, make: Callable[[], Bench], state: Path) -> None:
    """Run one check on a new stage; raises `AssertionError` with what is wrong."""
    with Stage(make, state) as stage:
        check(stage)


def boots_disarmed_and_arming_alone_moves_nothing(stage: Stage) -> None:
    """Steps before arming move nothing, nor does arming; a new step does."""
    stage.step(0)
    stage.stays_still()
    stage.arm()
    stage.stays_still()
    stage.start_moving(1)
    stage.shut_down()
    stage.stops()


def a_silent_agent_stops_within_the_dead_man(stage: Stage) -> None:
    """Row 1: an agent that hangs loses its robot's motors, and its awakening starts nothing."""
    stage.arm()
    stage.start_moving()
    stage.stuck.set()
    stage.stops(stage.settings.deadman_s + MARGIN_S)
    stage.stuck.clear()
    stage.stays_still()
    stage.start_moving(1)


def a_silent_broker_stops_within_link_s(stage: Stage) -> None:
    """Row 1: a robot that cannot hear a halt does not move, however alive its connection looks."""
    stage.arm()
    stage.start_moving()
    stage.pipe.silent = True
    stage.stops(stage.settings.link_s + MARGIN_S)
    stage.pipe.silent = False
    stage.stays_still()
    stage.start_moving(1)


def a_lost_controller_stops_it(stage: Stage) -> None:
    """Row 14: the last will of the controller ends the option; a kept copy of it starts nothing."""
    stage.arm()
    stage.start_moving()
    stage.say(_ctl(1, "CONNECTION_BROKEN"))
    stage.stops()
    stage.say(_ctl(1, "ONLINE"), retained=True)
    stage.stays_still()
    stage.start_moving(1)


def old_steps_start_nothing(stage: Stage) -> None:
    """Rows 2 and 13: retained, repeated, older, and of an older epoch."""
    stage.step(5, ep=3)
    stage.until(lambda: stage.agent.counters.get("steps_taken", 0) > 0, "takes a step, disarmed")
    stage.arm()
    stage.step(6, ep=3, retained=True)
    stage.step(5, ep=3)
    stage.step(4, ep=3)
    stage.step(9, ep=2)
    stage.stays_still()
    stage.start_moving(6, ep=3)


HOST_CHECKS: list[HostCheck] = [
    boots_disarmed_and_arming_alone_moves_nothing,
    a_silent_agent_stops_within_the_dead_man,
    a_silent_broker_stops_within_link_s,
    a_lost_controller_stops_it,
    old_steps_start_nothing,
]


def _connected(stage: Stage) -> None:
    stage.arm()
    stage.start_moving()


def _disarmed(stage: Stage) -> None:
    stage.stays_still(0.05)


def _reconnecting(stage: Stage) -> None:
    stage.arm()
    stage.start_moving()
    stage.pipe.silent = True
    stage.stops(stage.settings.link_s + MARGIN_S)


def _fault(stage: Stage) -> None:
    stage.arm()
    stage.start_moving()
    if not stage.call(stage.bench.break_link()):
        from kofn.hardware.safety_states import Event

        stage.safety.fault(Event.TILT, 0, "tilt")
    stage.until(lambda: stage.safety.mode() is Mode.FAULT, "is in FAULT", 5.0)
    stage.call(stage.bench.mend_link())


def _opening(stage: Stage) -> None:
    """Start anew; the stop comes while the driver opens."""
    stage.shut_down()
    stage.boot(wait=False)


ESTOP_STATES: dict[str, Callable[[Stage], None]] = {
    "connected": _connected,
    "reconnecting": _reconnecting,
    "disarmed": _disarmed,
    "opening": _opening,
    "fault": _fault,
}
"""States in which an emergency stop must work, and how to get there."""


def check_estop(stage: Stage, state: str, way: str) -> None:
    """Check an emergency stop in a state, by `way` "halt" or "local", and what can end it.

    It stops; steps of the same epoch, retained and older ones start nothing; a restart of the
    robot changes nothing; a higher epoch alone changes nothing; release, arming and a new step of
    the higher epoch, in that order, do.
    """
    ESTOP_STATES[state](stage)
    if way == "halt":
        stage.say(Halt(ep=1, by="operator", why="test"))
    else:
        stage.safety.estop()
    stage.until(lambda: stage.safety.mode() is Mode.ESTOP, "is in ESTOP")
    stage.stops()
    stage.pipe.silent = False
    stage.step(50, ep=1)
    stage.step(51, ep=1, retained=True)
    stage.stays_still(0.15)
    stage.shut_down()
    stage.boot()
    if stage.safety.mode() is not Mode.ESTOP:
        raise AssertionError(f"after a restart it is in {stage.safety.mode().name}, not in ESTOP")
    stage.step(52, ep=1)
    stage.say(_ctl(2, "ONLINE"), retained=True)
    stage.step(0, ep=2)
    stage.until(lambda: stage.safety.floor()[0] == 2, "sees the higher epoch")
    stage.stays_still(0.15)
    if stage.safety.arm() == []:
        raise AssertionError("it can be armed without a release")
    if found := stage.safety.release():
        raise AssertionError(f"it cannot be released: {found}")
    stage.stays_still(0.1)
    stage.arm()
    stage.stays_still(0.1)
    stage.start_moving(1, ep=2)


def _ctl(ep: int, state: Any) -> Ctl:
    return Ctl(ep=ep, b="ctl", c=1, st=state, pace="realtime", period=6000, hold=18000)
