# SPDX-License-Identifier: MIT
"""A host agent on a memory bus with a bank that can be looked into."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import HostLog
from kofn.controller.link.memory import MemoryBus
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
    Poll,
    Reply,
    Roster,
    Row,
    Step,
    decode,
    encode,
)
from kofn.controller.link.policies import pack_policy
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.hardware.agent import HostAgent
from kofn.hardware.driver import Reading
from kofn.hardware.guard import HostGuard

ZONES, ACTIONS, OPTION_S, SLICES = 5, 3, 6.0, 4
MOVES = np.array([0, 1, -1, 0])
NONCE = "0123456789abcdef"


class FakeBank:
    """Robots that hop in the middle of an option; every call is written down."""

    def __init__(self, n: int, pace: Pace, clock: FakeClock, seed: int = 0) -> None:
        self.robots: tuple[str, ...] = tuple(f"r-{i}" for i in range(n))
        self.n_zones, self.n_actions, self.option_s = ZONES, ACTIONS, OPTION_S
        self.pace: Pace = pace
        self.clock = clock
        self.zones = np.random.default_rng(seed).integers(0, ZONES, n)
        self.up = np.ones(n, dtype=np.bool_)
        self.altered: npt.NDArray[np.bool_] | None = None
        self.actions = np.full(n, -1)
        self.moving = self.hopped = False
        self.left = 0
        self.until_s = 0.0
        self.world_s = 0.0
        self.applied: list[npt.NDArray[np.int64]] = []
        self.calls: list[str] = []

    def open(self) -> None:
        self.calls.append("open")

    def read(self) -> Reading:
        return Reading(self.zones.copy(), self.up.copy(), self.world_s, self.altered)

    def apply(self, actions: npt.NDArray[np.int64]) -> None:
        self.calls.append("apply")
        self.applied.append(actions.copy())
        self.actions = actions.copy()
        self.moving, self.hopped, self.left = True, False, SLICES
        self.until_s = self.clock.now() + OPTION_S

    def advance(self) -> bool:
        if not self.moving:
            return False
        self.left -= 1
        if self.pace == "lockstep":
            share = 1 - self.left / SLICES
        else:
            share = 1 - (self.until_s - self.clock.now()) / OPTION_S
        if share >= 0.5 and not self.hopped:
            self.zones = (self.zones + MOVES[self.actions]) % ZONES
            self.hopped = True
        if share >= 1:
            self.world_s += OPTION_S
            self.moving = False
        return self.moving

    def hold(self) -> None:
        self.calls.append("hold")
        self.moving = False

    def close(self) -> None:
        self.calls.append("close")
        self.moving = False


class Rig:
    """One agent, its bank, and a controller's connection that hears everything it says."""

    def __init__(
        self,
        n: int = 6,
        pace: Pace = "realtime",
        *,
        seed: int = 1,
        pi_l: npt.NDArray[np.float64] | None = None,
        host: str = "host-a",
        log: HostLog | None = None,
        make_bank: Callable[[int, Pace, FakeClock], "FakeBank"] | None = None,
        guard: HostGuard | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.bus = MemoryBus(self.clock)
        self.topics = Topics("yard")
        self.host = host
        self.controller = self.bus.transport()
        filters = (*self.topics.controller_filters(), (self.topics.of("conn", host), 1))
        will = Outbound(self.topics.of("nobody", "x"), b"")
        self.controller.open(Session("controller", filters, lambda _: will, lambda _: ()))
        self.bank = (make_bank or FakeBank)(n, pace, self.clock)
        self.transport = self.bus.transport()
        self.agent = HostAgent(
            fleet="yard",
            host=host,
            bank=self.bank,
            transport=self.transport,
            clock=self.clock,
            seed=seed,
            log=log,
            boot="boot-1",
            guard=guard,
        )
        self.bus.attach(self.agent, self.transport)
        self.heard: list[Message] = []
        self.agent.open()
        if pi_l is None:
            pi_l = np.full((ZONES, ZONES, ACTIONS), 1 / 3)
        self.policy, self.policy_payload = pack_policy(pi_l)
        self.publish_policy(self.policy, self.policy_payload)
        self.run(0.0)

    def publish_policy(self, digest: str, payload: bytes) -> None:
        self.controller.publish(self.topics.of("pol", digest), payload, qos=1, retain=True)

    def step_message(self, t: int, ep: int = 1, **changes: Any) -> Step:
        fields: dict[str, Any] = {
            "ep": ep,
            "t": t,
            "up": round(self.clock.now() * 1000),
            "g": 2,
            "u": 0,
            "ttl": 6000,
            "pol": f"sha256:{self.policy}",
            "k": 3,
            "m": (0, 0, 0, 0),
        }
        return Step(**{**fields, **changes})

    def poll_message(self, t: int, ep: int = 1, **changes: Any) -> Poll:
        fields: dict[str, Any] = {
            "ep": ep,
            "t": t,
            "up": 0,
            "q": NONCE,
            "w": 1,
            "ttl": 2000,
            "ids": list(self.bank.robots),
        }
        return Poll(**{**fields, **changes})

    def topic(self, message: Message) -> str:
        kinds: dict[type[Message], str] = {Poll: "poll", Cmd: "cmd"}
        if type(message) in kinds:
            return self.topics.of(kinds[type(message)], self.host)
        names = {Step: self.topics.step, Ctl: self.topics.ctl, Halt: self.topics.halt}
        return names[type(message)]

    def send(self, message: Message, *, retained: bool = False, run_s: float = 0.0) -> None:
        """Let the agent have a message, as live or as a copy that the broker kept."""
        topic = self.topic(message)
        if retained:
            at_s = self.clock.now()
            self.agent.on_message(Inbound(topic, encode(message), retained=True, at_s=at_s))
        else:
            self.controller.publish(topic, encode(message))
        self.run(run_s)

    def step(self, t: int, ep: int = 1, *, run_s: float = 0.0, **changes: Any) -> Step:
        message = self.step_message(t, ep, **changes)
        self.send(message, run_s=run_s)
        return message

    def poll(self, t: int, ep: int = 1, **changes: Any) -> list[Row]:
        """Rows of the answers that come at once."""
        before = len(self.heard)
        self.send(self.poll_message(t, ep, **changes))
        new = self.heard[before:]
        return [row for reply in new if isinstance(reply, Reply) for row in reply.r]

    def run(self, duration_s: float) -> None:
        """Let `duration_s` pass; everything the agent says is kept in `heard`."""
        kinds: dict[str, type[Message]] = {
            "rep": Reply,
            "done": Done,
            "conn": Conn,
            "roster": Roster,
            "ack": Ack,
            "evt": Event,
        }
        until_s = self.clock.now() + duration_s
        while True:
            inbound = self.controller.receive(max(0.0, until_s - self.clock.now()))
            if inbound is None:
                return
            address = self.topics.parse(inbound.topic)
            assert address is not None
            if address.kind in kinds:
                self.heard.append(decode(kinds[address.kind], inbound.payload))

    def all(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    @property
    def counters(self) -> dict[str, int]:
        return self.agent.counters


@pytest.fixture(name="rig_class")
def _rig_class() -> type[Rig]:
    return Rig


@pytest.fixture(name="rig")
def _rig() -> Rig:
    """A realtime host of six robots."""
    return Rig()


@pytest.fixture(name="lockstep")
def _lockstep() -> Rig:
    """A lockstep host of six robots."""
    return Rig(pace="lockstep")
