# SPDX-License-Identifier: MIT
"""A host of one with a driver, over a real broker: steered, asked, halted."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wired import FLEET, TOPICS, broker_for, connection, open_controller

from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import (
    Conn,
    Event,
    Flag,
    Halt,
    Message,
    Poll,
    Reply,
    Roster,
    Step,
    decode,
    encode,
)
from kofn.controller.link.policies import pack_policy
from kofn.hardware.agent import HostAgent
from kofn.hardware.driver import Applied
from kofn.hardware.driver_bank import DriverBank
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.ring import RingLayout

pytestmark = pytest.mark.broker

KINDS: dict[str, type[Message]] = {"rep": Reply, "roster": Roster, "evt": Event, "conn": Conn}
MOVE_ON = np.broadcast_to([0.0, 1.0, 0.0], (5, 5, 3))


class Yard:
    """A dry-run robot with its agent in a thread, and a controller's connection, on one broker."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        broker = broker_for(("hw",), folder, stack)
        self.clock = MonotonicClock(speed=4.0)
        self.driver = DryRunDriver(self.clock)
        self.agent = HostAgent(
            fleet=FLEET,
            host="hw",
            bank=DriverBank(
                self.driver, robot="hw.r00", layout=RingLayout(), clock=self.clock, deadman_s=2.0
            ),
            transport=connection(broker, "hw", self.clock),
            clock=self.clock,
            seed=1,
        )
        self.controller = open_controller(broker, self.clock, stack)
        self.agent.open()
        stopped = threading.Event()
        thread = threading.Thread(target=self.agent.run, args=(stopped.is_set,))
        stack.callback(self.agent.close)
        stack.callback(thread.join, 5.0)
        stack.callback(stopped.set)
        thread.start()

    def hear(self, wanted: type[Message], accept: Callable[[Any], bool] = lambda _: True) -> Any:
        """Wait for a message of a kind; at most 10 s of wall time."""
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            inbound = self.controller.receive(1.0)
            address = TOPICS.parse(inbound.topic) if inbound else None
            if inbound and address and KINDS.get(address.kind) is wanted:
                message = decode(wanted, inbound.payload)
                if accept(message):
                    return message
        raise AssertionError(f"no {wanted.__name__} came")

    def say(self, topic: str, message: Message, *, retain: bool = False) -> None:
        assert self.controller.publish(topic, encode(message), qos=int(retain), retain=retain)


@pytest.fixture(name="yard")
def _yard(tmp_path: Path) -> Iterator[Yard]:
    with ExitStack() as stack:
        yield Yard(tmp_path, stack)


def test_dry_run_robot_is_steered_asked_and_halted_over_a_broker(yard: Yard) -> None:
    digest, payload = pack_policy(np.ascontiguousarray(MOVE_ON))
    name = f"sha256:{digest}"
    yard.controller.publish(TOPICS.of("pol", digest), payload, qos=1, retain=True)
    yard.hear(Roster, lambda roster: name in roster.have)

    step = Step(ep=1, t=0, up=0, g=2, u=0, ttl=30_000, pol=name, k=1, m=(0, 0, 0, 0))
    yard.say(TOPICS.step, step)
    ids = ["hw.r00"]
    poll = Poll(ep=1, t=0, up=0, q="0123456789abcdef", w=1, ttl=2000, ids=ids)
    # Nothing says that the step comes first; the poll is then unavailable, and asked again.
    replies: list[Reply] = []
    while not replies or replies[-1].r[0].flag is Flag.UNAVAILABLE:
        yard.say(TOPICS.of("poll", "hw"), poll)
        replies.append(yard.hear(Reply))
    row = replies[-1].r[0]
    assert (row.id, row.z, row.flag) == ("hw.r00", 0, Flag.OK)

    end = time.monotonic() + 5.0
    while yard.driver.applied == Applied(0.0, 0.0) and time.monotonic() < end:
        time.sleep(0.005)
    assert yard.driver.applied != Applied(0.0, 0.0)

    yard.say(TOPICS.halt, Halt(ep=1, by="controller"), retain=True)
    assert yard.hear(Event, lambda event: event.code == "halted").text.endswith("by controller")
    end = time.monotonic() + 5.0
    while yard.driver.applied != Applied(0.0, 0.0) and time.monotonic() < end:
        time.sleep(0.005)
    commands = len(yard.driver.commands)
    yard.say(TOPICS.step, Step(ep=1, t=1, up=0, g=2, u=0, ttl=30_000, pol=name, k=1, m=(0,) * 4))
    yard.say(TOPICS.of("poll", "hw"), Poll(ep=1, t=1, up=0, q="f" * 16, w=1, ttl=2000, ids=ids))
    assert yard.hear(Reply, lambda reply: reply.t == 1).r[0].flag is Flag.UNAVAILABLE
    assert yard.driver.applied == Applied(0.0, 0.0)
    assert len(yard.driver.commands) == commands
