# SPDX-License-Identifier: MIT
"""The far end of `kofn bench link`: a process with some hosts, or with many hosts of one robot.

The host agent, its messages and its connection are the real ones; only the robots are made of
nothing: each hops to a zone of its own choice at the end of its option. Hosts share a process as
those of `kofn swarms` do (`HostPool`). A process of a fleet with one connection per robot serves
connections that have no thread at all, because thousands would measure the operating system.

Run as `python -m kofn.launch.link_host`, with a `HostSpec` as JSON on stdin; stops at SIGTERM and
writes a `HostReport` as JSON to stdout.
"""

import selectors
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Pace, Step
from kofn.controller.link.mqtt import MqttTransport, Protocol
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.hardware.agent import HostAgent
from kofn.hardware.driver import Reading
from kofn.hardware.host_pool import HostPool
from kofn.launch.settling import settle
from kofn.launch.signals import StopFlag

ZONES, ACTIONS = 5, 3
RSS_EVERY_S = 1.0


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to be: (name, robots, password) of its hosts, and how to connect."""

    url: str
    protocol: Protocol
    fleet: str
    hosts: list[tuple[str, int, str]]
    period_s: float
    steps: int
    one_thread: bool = False


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one process saw.

    Attributes
    ----------
    steps
        (t, monotonic seconds at which it came) of each step taken; of the last host to take it.
    rss
        (monotonic seconds, resident MB), once a second.
    counters
        Of all its hosts together.
    cpu_s
        Processor time from when all its hosts were connected.
    """

    steps: list[tuple[int, float]]
    rss: list[tuple[float, float]]
    counters: dict[str, int]
    cpu_s: float


class HopBank:
    """Robots without a world: a new zone at the end of each option.

    Parameters
    ----------
    robots
        Names.
    period_s
        Length of an option; 0 ends it at once.
    clock
        Real time.
    """

    n_zones, n_actions = ZONES, ACTIONS
    pace: Pace = "realtime"

    def __init__(self, robots: Sequence[str], period_s: float, clock: MonotonicClock) -> None:
        self.robots = tuple(robots)
        self.option_s = period_s
        self._clock = clock
        self._zones = np.arange(len(robots), dtype=np.int64) % ZONES
        self._up = np.ones(len(robots), dtype=np.bool_)
        self._until_s: float | None = None

    def open(self) -> None:
        """Nothing is there to be opened."""

    def read(self) -> Reading:
        """Return zones; robots whose option is nearly over have hopped."""
        return Reading(self._zones, self._up, self._clock.now())

    def apply(self, actions: npt.NDArray[np.int64]) -> None:
        """Start an option; action 0 stays, 1 and 2 hop one zone on or back."""
        moves = np.where(actions == 2, -1, actions)
        self._zones = (self._zones + np.maximum(moves, -1)) % ZONES
        self._until_s = self._clock.now() + self.option_s

    def advance(self) -> bool:
        """Say whether the option is under way."""
        if self._until_s is not None and self._clock.now() >= self._until_s:
            self._until_s = None
        return self._until_s is not None

    def due_s(self) -> float:
        """Monotonic seconds at which the option ends."""
        return self._clock.now() if self._until_s is None else self._until_s

    def hold(self) -> None:
        """End the option."""
        self._until_s = None

    def close(self) -> None:
        """End the option."""
        self._until_s = None


class BenchAgent(HostAgent):
    """A host agent that notes when steps came: `came_s`, shape (steps,), 0 for never."""

    came_s: npt.NDArray[np.float64]

    def _take(self, step: Step, received_s: float) -> None:
        self.came_s[step.t] = max(received_s, self.came_s[step.t])
        super()._take(step, received_s)


class PooledTransport:
    """One of many connections that one thread serves; enough of a `Transport` for a benchmark."""

    def __init__(self, spec: HostSpec, user: str, password: str) -> None:
        version = MQTTProtocolVersion.MQTTv311 if spec.protocol == "3.1.1" else None
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=user,
            protocol=version or MQTTProtocolVersion.MQTTv5,
        )
        self._client.username_pw_set(user, password)
        self._address = parse_url(spec.url)
        self._granted = False
        self._early: list[Inbound] = []
        self.agent: HostAgent | None = None
        self.connected = False
        self.statistics: dict[str, int] = {}

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Connect, subscribe, announce."""
        client = self._client

        def on_subscribe(*_: Any) -> None:
            self._granted = True

        client.on_message = self._on_message
        client.on_subscribe = on_subscribe
        will = session.will(1)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.connect(*self._address.tcp, keepalive=60)
        deadline_s = time.monotonic() + timeout_s
        subscribed = False
        while not self._granted:
            if time.monotonic() > deadline_s:
                raise RunError(f"a connection was not up within {timeout_s:g} s")
            client.loop(0.05)
            if client.is_connected() and not subscribed:
                subscribed = True
                client.subscribe([(topic, qos) for topic, qos in session.filters])
        import socket

        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr]
        self.connected = True
        for message in session.birth(1):
            self.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send."""
        return (
            self._client.publish(topic, payload, qos, retain).rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        )

    def receive(self, timeout_s: float) -> Inbound | None:  # noqa: ARG002
        """Nothing: messages go to the agent."""
        return None

    def attend(self, agent: HostAgent) -> None:
        """From now on messages go to `agent`, first those that came with the subscription."""
        self.agent = agent
        for message in self._early:
            agent.on_message(message)
        self._early.clear()

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Disconnect."""
        for message in farewell:
            self.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
        self._client.disconnect()

    @property
    def socket(self) -> Any:
        """The connection."""
        return self._client.socket()

    def read(self) -> None:
        """Take in what has come."""
        self._client.loop_read()
        self._client.loop_write()

    def keep_alive(self) -> None:
        """Send a ping if it is time."""
        self._client.loop_misc()

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        inbound = Inbound(message.topic, bytes(message.payload), message.retain, time.monotonic())
        if self.agent is not None:
            self.agent.on_message(inbound)
        else:
            self._early.append(inbound)


def rss_mb() -> float:
    """Resident memory of this process, MB; 0 where /proc is not there."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  once a second
            return int(file.read().split()[1]) * 4096 / 1e6
    except OSError:
        return 0.0


class RssLog:
    """Resident memory, once a second; in few bytes, for what is measured must not grow by it."""

    def __init__(self) -> None:
        self._values = array("d")
        self._next_s = 0.0

    @property
    def rows(self) -> list[tuple[float, float]]:
        """(monotonic seconds, resident MB)."""
        return list(zip(self._values[::2], self._values[1::2], strict=True))

    def look(self) -> None:
        """Note it if it is time."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + RSS_EVERY_S
            self._values.extend((round(now_s, 2), round(rss_mb(), 3)))


def main() -> None:
    """Take part until SIGTERM."""
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=HostSpec)
    stop, rss = StopFlag(), RssLog()
    came_s = np.full(spec.steps, 0.0)  # as large from the start as at the end
    agents, cpu_s = (
        _serve_many(spec, came_s, stop, rss)
        if spec.one_thread
        else _serve_pool(spec, came_s, stop, rss)
    )
    counters: dict[str, int] = {}
    for agent in agents:
        for name, count in agent.counters.items():
            counters[name] = counters.get(name, 0) + count
    steps = [(t, at_s) for t, at_s in enumerate(came_s.tolist()) if at_s > 0]
    report = HostReport(steps=steps, rss=rss.rows, counters=counters, cpu_s=round(cpu_s, 4))
    sys.stdout.buffer.write(msgspec.json.encode(report))


def _serve_pool(
    spec: HostSpec, came_s: npt.NDArray[np.float64], stop: StopFlag, rss: RssLog
) -> tuple[list[HostAgent], float]:
    clock = MonotonicClock()
    members: list[tuple[HostAgent, MqttTransport]] = []
    for name, robots, password in spec.hosts:
        transport = MqttTransport(
            spec.url, clock, username=name, password=password, protocol=spec.protocol
        )
        agent = _agent(spec, name, robots, spec.period_s, transport, clock, came_s)
        members.append((agent, transport))
    agents = [agent for agent, _ in members]

    def should_stop() -> bool:
        rss.look()
        return stop()

    try:
        for served in agents:
            served.open(30.0)
        settle()
        began_s = time.process_time()
        HostPool(members, clock).run(should_stop)
        spent_s = time.process_time() - began_s
    finally:
        for served in agents:
            served.close()
    return agents, spent_s


def _agent(
    spec: HostSpec,
    name: str,
    robots: int,
    period_s: float,
    transport: Any,
    clock: MonotonicClock,
    came_s: npt.NDArray[np.float64],
) -> BenchAgent:
    names = [f"{name}.r{i}" for i in range(robots)]
    bank = HopBank(names, period_s, clock)
    agent = BenchAgent(
        fleet=spec.fleet, host=name, bank=bank, transport=transport, clock=clock, seed=0
    )
    agent.came_s = came_s
    return agent


def _serve_many(
    spec: HostSpec, came_s: npt.NDArray[np.float64], stop: StopFlag, rss: RssLog
) -> tuple[list[HostAgent], float]:
    clock = MonotonicClock()
    selector = selectors.DefaultSelector()
    served: list[tuple[PooledTransport, BenchAgent]] = []
    for name, robots, password in spec.hosts:
        transport = PooledTransport(spec, name, password)
        agent = _agent(spec, name, robots, 0.0, transport, clock, came_s)
        agent.open(30.0)
        transport.attend(agent)
        selector.register(transport.socket, selectors.EVENT_READ, transport)
        served.append((transport, agent))
    settle()
    began_s = time.process_time()
    due_s = 0.0
    while not stop():
        for key, _ in selector.select(0.2):
            key.data.read()
        if time.monotonic() >= due_s:  # timers of robots that stand still are not urgent
            due_s = time.monotonic() + 1.0
            rss.look()
            for transport, agent in served:
                transport.keep_alive()
                agent.on_time()
    spent_s = time.process_time() - began_s
    for _, agent in served:
        agent.close()
    return [agent for _, agent in served], spent_s


if __name__ == "__main__":
    main()
