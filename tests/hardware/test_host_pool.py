# SPDX-License-Identifier: MIT
"""Several hosts in one process: each is steered and asked as if it were alone."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wired import FLEET, TOPICS, broker_for, connection, open_controller

from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import (
    Ack,
    Cmd,
    Conn,
    Flag,
    Poll,
    Reply,
    Roster,
    Step,
    decode,
    encode,
)
from kofn.controller.link.policies import pack_policy
from kofn.hardware.agent import HostAgent
from kofn.hardware.host_pool import HostPool
from kofn.launch.link_host import HopBank

pytestmark = pytest.mark.broker

KINDS: dict[str, Any] = {"rep": Reply, "roster": Roster, "ack": Ack, "conn": Conn}
HOSTS = ("a", "b", "c")
ROBOTS = 4


class Shared:
    """Hosts in one thread, and a controller's connection, on one broker."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        broker = broker_for(HOSTS, folder, stack)
        self.clock = MonotonicClock()
        self.controller = open_controller(broker, self.clock, stack)
        self.transports = {name: connection(broker, name, self.clock) for name in HOSTS}
        self.agents = {name: self.agent(name) for name in HOSTS}
        for agent in self.agents.values():
            agent.open()
            stack.callback(agent.close)
        self.stopped = threading.Event()
        members = [(self.agents[name], self.transports[name]) for name in HOSTS]
        self.thread = threading.Thread(
            target=HostPool(members, self.clock).run, args=(self.stopped.is_set,)
        )
        self._stack = stack

    def start(self) -> None:
        """Serve the hosts."""
        self._stack.callback(self.thread.join, 5.0)
        self._stack.callback(self.stopped.set)
        self.thread.start()

    def agent(self, name: str) -> HostAgent:
        return HostAgent(
            fleet=FLEET,
            host=name,
            bank=HopBank([f"{name}.r{i}" for i in range(ROBOTS)], 0.05, self.clock),
            transport=self.transports[name],
            clock=self.clock,
            seed=1,
        )

    def hear(self, kind: str, hosts: tuple[str, ...] = HOSTS) -> dict[str, Any]:
        """Wait for one message of a kind from each of these hosts; the last of each counts."""
        heard: dict[str, Any] = {}
        for _ in range(1000):
            inbound = self.controller.receive(10.0)
            assert inbound is not None, f"{kind} came from {sorted(heard)} only"
            address = TOPICS.parse(inbound.topic)
            if address is not None and address.kind == kind:
                heard[address.name] = decode(KINDS[kind], inbound.payload)
                if set(heard) >= set(hosts):  # of nobody: the next one
                    break
        return heard

    def play(self, t: int, policy: str, hosts: tuple[str, ...] = HOSTS) -> dict[str, Reply]:
        """Send a step, and polls for all robots of these hosts, in one piece."""
        step = Step(ep=1, t=t, up=50 * t, g=2, u=0, ttl=30_000, pol=policy, k=1, m=(0,) * 4)
        with self.controller.in_one_segment():
            self.controller.publish(TOPICS.step, encode(step))
            for name in hosts:
                ids = [f"{name}.r{i}" for i in range(ROBOTS)]
                poll = Poll(ep=1, t=t, up=50 * t, q=f"{t:016x}", w=1, ttl=30_000, ids=ids)
                self.controller.publish(TOPICS.of("poll", name), encode(poll))
        return self.hear("rep", hosts)


@pytest.fixture(name="shared")
def _shared(tmp_path: Path) -> Iterator[Shared]:
    with ExitStack() as stack:
        yield Shared(tmp_path, stack)


def test_what_came_before_the_hosts_are_served_is_not_left_until_more_comes(
    shared: Shared,
) -> None:
    digest, payload = pack_policy(np.full((5, 5, 3), 1 / 3))
    shared.controller.publish(TOPICS.of("pol", digest), payload, qos=1, retain=True)
    end_s = time.monotonic() + 10.0
    while not all(len(transport._inbox) for transport in shared.transports.values()):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    shared.start()
    held: set[str] = set()
    began_s = time.monotonic()
    while held < set(HOSTS):
        rosters = shared.hear("roster", ())
        held |= {name for name in rosters if f"sha256:{digest}" in rosters[name].have}
    assert time.monotonic() - began_s < 8.0  # a ping of the connection comes after 15 s


def test_hosts_of_one_process_are_steered_cut_off_and_sent_away_one_by_one(shared: Shared) -> None:
    digest, payload = pack_policy(np.full((5, 5, 3), 1 / 3))
    policy = f"sha256:{digest}"
    shared.start()
    shared.controller.publish(TOPICS.of("pol", digest), payload, qos=1, retain=True)
    rosters: dict[str, Any] = {}
    while not all(name in rosters and policy in rosters[name].have for name in HOSTS):
        rosters |= shared.hear("roster", ())
    for t in range(3):
        replies = shared.play(t, policy)
        for name in HOSTS:
            rows = replies[name].r
            assert [row.id for row in rows] == [f"{name}.r{i}" for i in range(ROBOTS)]
            assert {row.flag for row in rows} == {Flag.OK}

    # The connection of one breaks: it comes back by itself, and the others notice nothing.
    cut = shared.transports["b"]
    assert cut._client is not None
    sock = cut._client.socket()
    assert isinstance(sock, socket.socket)
    sock.shutdown(socket.SHUT_RDWR)
    assert set(shared.play(3, policy, ("a", "c"))) >= {"a", "c"}
    end_s = time.monotonic() + 10.0
    while not (cut.statistics["connections"] == 2 and cut.connected):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert set(shared.play(4, policy)) == set(HOSTS)

    # One is sent away; when the last has gone, the process ends.
    for name in HOSTS:
        order = Cmd(ep=1, id=f"{ord(name):016x}", op="LEAVE", ttl=10_000)
        shared.controller.publish(TOPICS.of("cmd", name), encode(order), qos=1)
        assert shared.hear("ack", (name,))[name].ok
        while shared.hear("conn", (name,))[name].st != "OFFLINE":
            pass
    shared.thread.join(10.0)
    assert not shared.thread.is_alive()
    assert not shared.stopped.is_set()
    for name in HOSTS:
        assert shared.agents[name].counters["steps_taken"] >= 4
