# SPDX-License-Identifier: MIT
"""A broker inside one process: deterministic, on a fake clock, with faults on demand.

It behaves like MQTT where the fleet depends on it (the wildcard `+`, retained messages, last
wills, connection numbers, own messages come back when subscribed to) and ignores QoS. Hosts take
part as *actors*; the transport that nobody is attached to, the controller's, drives everything: its
`receive` delivers what is due, wakes actors, and otherwise moves the clock to the next event. So a
whole run is one call stack, and the same seed gives the same run.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Protocol

from kofn.controller.core.errors import RunError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.inbox import Inbox
from kofn.controller.link.transport import Inbound, Outbound, Session

_RESTLESS_CALLS = 1_000_000


class Actor(Protocol):
    """A participant that is driven by the bus, for instance a host agent."""

    def on_message(self, message: Inbound) -> None:
        """Take one message."""
        ...

    def on_time(self) -> float | None:
        """Do what is due.

        Returns
        -------
        float or None
            Fleet time of the next wake-up (now or earlier = busy, call again at once), or None when
            nothing is planned. A message wakes the actor in any case.
        """
        ...


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong on the way to a receiver, per topic kind ("rep", "step", "poll", ..).

    Attributes
    ----------
    seed
        Each kind draws from its own stream, so that loss on one leaves another as it was.
    drop, duplicate
        Probability that a message is lost, or arrives twice.
    corrupt
        Probability that a copy arrives torn: its end is missing. (Changed bytes do not pass the
        checksums of a network.)
    delay_s
        (least, most) seconds on the way, drawn uniformly for each copy; unequal delays reorder.
    """

    seed: int = 0
    drop: Mapping[str, float] = field(default_factory=dict)
    duplicate: Mapping[str, float] = field(default_factory=dict)
    corrupt: Mapping[str, float] = field(default_factory=dict)
    delay_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    _streams: dict[str, Random] = field(default_factory=dict, init=False, repr=False)

    def torn(self, kind: str, payload: bytes) -> bytes:
        """Return a copy as it arrives."""
        chance = self.corrupt.get(kind, 0.0)
        if not chance:
            return payload
        random = self._streams.setdefault(f"{kind}:torn", Random(f"{self.seed}:{kind}:torn"))
        return payload[: len(payload) // 2] if random.random() < chance else payload

    def delays(self, kind: str) -> list[float]:
        """Draw the fate of one message: the delay in seconds of each copy that arrives."""
        random = self._streams.setdefault(kind, Random(f"{self.seed}:{kind}"))
        dropped, doubled, *waits = (random.random() for _ in range(4))
        if dropped < self.drop.get(kind, 0.0):
            return []
        least, most = self.delay_s.get(kind, (0.0, 0.0))
        copies = 2 if doubled < self.duplicate.get(kind, 0.0) else 1
        return [least + (most - least) * wait for wait in waits[:copies]]


class MemoryBus:
    """The broker, and the loop that drives its actors.

    Parameters
    ----------
    clock
        Moved by `receive` of an unattached transport.
    faults
        None delivers everything at once and in order. The attribute may be replaced during a run,
        for instance to start a partition (`drop={"rep": 1.0}`).
    """

    def __init__(self, clock: FakeClock, faults: Faults | None = None) -> None:
        self.clock = clock
        self.faults = faults
        self.partitioned: set[MemoryTransport] = set()
        """Connections that nothing passes, in either direction, and that nobody sees break."""
        self._retained: dict[str, bytes] = {}
        self._members: list[MemoryTransport] = []
        self._subscribers: dict[str, dict[MemoryTransport, None]] = {}
        self._wildcards: dict[str, dict[MemoryTransport, None]] = {}
        self._deliveries: list[tuple[float, int, MemoryTransport, int, Inbound]] = []
        self._serial = count()
        self._actors: dict[MemoryTransport, Actor] = {}
        self._wake_at: dict[MemoryTransport, float | None] = {}

    def transport(self) -> "MemoryTransport":
        """Return a new transport of this bus, not open yet."""
        return MemoryTransport(self)

    def attach(self, actor: Actor, transport: "MemoryTransport") -> None:
        """From now on messages of `transport` go to `actor`, not to its inbox."""
        self._actors[transport] = actor
        self._wake_at[transport] = self.clock.now()
        while (message := transport.inbox.take()) is not None:
            self._schedule(transport, message, 0.0)

    def break_connection(self, transport: "MemoryTransport", *, reconnect: bool = False) -> None:
        """Cut a connection: its will is published.

        Without `reconnect` this is `kill -9` of the process, and its actor is detached. With it,
        the process lives and its transport connects again at once.
        """
        if not transport.connected:
            return
        will = transport.will
        self._leave(transport)
        if will is not None:
            self._publish(will)
        if reconnect:
            self._join(transport)
        else:
            self._actors.pop(transport, None)
            self._wake_at.pop(transport, None)

    def restart(self) -> None:
        """Restart the broker: retained messages are gone, no will is sent, all connect again."""
        self._retained.clear()
        self._deliveries.clear()
        members = list(self._members)
        for transport in members:
            self._leave(transport)
        for transport in members:
            self._join(transport)

    def _join(self, transport: "MemoryTransport") -> None:
        session = transport.session
        for other in list(self._members):
            if other.session.client_id == session.client_id:
                self.break_connection(other)  # MQTT: the later client takes the identity over
        transport.connections += 1
        transport.will = session.will(transport.connections)
        transport.connected = True
        self._members.append(transport)
        for pattern, _ in session.filters:
            index = self._wildcards if "+" in pattern else self._subscribers
            index.setdefault(pattern, {})[transport] = None
            for topic, payload in self._retained.items():
                if _matches(pattern, topic):
                    self._schedule(transport, Inbound(topic, payload, True, 0.0), 0.0)
        for message in session.birth(transport.connections):
            transport.publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain
            )

    def _leave(self, transport: "MemoryTransport") -> None:
        transport.connected = False
        self._members.remove(transport)
        for pattern, _ in transport.session.filters:
            index = self._wildcards if "+" in pattern else self._subscribers
            index[pattern].pop(transport, None)
            if not index[pattern]:
                del index[pattern]

    def _publish(self, message: Outbound) -> None:
        topic, payload = message.topic, message.payload
        if message.retain:
            self._retained.pop(topic, None)
            if payload:
                self._retained[topic] = payload
        receivers = dict(self._subscribers.get(topic, {}))
        for pattern, members in self._wildcards.items():
            if _matches(pattern, topic):
                receivers.update(members)
        kind, faults = _kind(topic), self.faults
        for receiver in receivers:
            for delay_s in faults.delays(kind) if faults else (0.0,):
                copy = faults.torn(kind, payload) if faults else payload
                self._schedule(receiver, Inbound(topic, copy, False, 0.0), delay_s)

    def _schedule(self, receiver: "MemoryTransport", message: Inbound, delay_s: float) -> None:
        due_s = self.clock.now() + delay_s
        entry = (due_s, next(self._serial), receiver, receiver.connections, message)
        heapq.heappush(self._deliveries, entry)

    def _deliver_due(self) -> None:
        now_s = self.clock.now()
        while self._deliveries and self._deliveries[0][0] <= now_s:
            _, _, receiver, connection, message = heapq.heappop(self._deliveries)
            if not receiver.connected or connection != receiver.connections:
                continue
            if receiver in self.partitioned:
                continue
            arrived = message._replace(at_s=now_s)
            actor = self._actors.get(receiver)
            if actor is None:
                receiver.inbox.put(arrived)
            else:
                receiver.inbox.received += 1
                self._wake_at[receiver] = now_s
                actor.on_message(arrived)

    def _wake_due(self) -> bool:
        """Call the actors that are due; return whether there was one."""
        now_s = self.clock.now()
        due = [t for t, wake_s in self._wake_at.items() if wake_s is not None and wake_s <= now_s]
        for transport in due:
            actor = self._actors.get(transport)
            if actor is not None:
                wake_s = actor.on_time()
                if transport in self._actors:  # it may have been cut by what it did
                    self._wake_at[transport] = wake_s
        return bool(due)

    def _pump(self, transport: "MemoryTransport", timeout_s: float) -> Inbound | None:
        deadline_s = self.clock.now() + timeout_s
        calls = 0
        while True:
            message = transport.inbox.take()
            if message is not None:
                return message
            self._deliver_due()
            if len(transport.inbox):
                continue
            if self._wake_due():
                calls += 1
                if calls > _RESTLESS_CALLS:
                    raise RunError(f"an actor asked {_RESTLESS_CALLS} times to be called at once")
                continue
            now_s = self.clock.now()
            if now_s >= deadline_s:
                return None
            calls = 0
            events = [deadline_s]
            events += [wake_s for wake_s in self._wake_at.values() if wake_s is not None]
            if self._deliveries:
                events.append(self._deliveries[0][0])
            self.clock.advance_to(min(events))


class MemoryTransport:
    """One connection to a `MemoryBus`; implements `Transport`."""

    session: Session
    will: Outbound | None
    inbox: Inbox

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.inbox = Inbox(1)
        self.connected = False
        self.connections = 0
        self._sent = 0
        self._unsent = 0

    def open(self, session: Session, timeout_s: float = 10.0) -> None:  # noqa: ARG002  at once
        """Connect, subscribe, announce."""
        if self.connected:
            raise RuntimeError("transport is open already")
        self.session = session
        self.inbox = Inbox(session.queue, session.newest_only)
        self._bus._join(self)  # noqa: SLF001  bus and transport are one module's two faces

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send; False while disconnected."""
        if not self.connected:
            self._unsent += 1
            return False
        self._sent += 1
        if self in self._bus.partitioned:
            return True  # whoever sends does not know
        self._bus._publish(Outbound(topic, payload, qos, retain))  # noqa: SLF001
        return True

    def receive(self, timeout_s: float) -> Inbound | None:
        """Drive the bus until a message for this transport comes or `timeout_s` has passed."""
        if self in self._bus._actors:  # noqa: SLF001  its messages go to the actor
            return None
        return self._bus._pump(self, timeout_s)  # noqa: SLF001

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Publish `farewell` and leave without a will; idempotent."""
        if not self.connected:
            return
        for message in farewell:
            self.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)
        self._bus._leave(self)  # noqa: SLF001
        self._bus._actors.pop(self, None)  # noqa: SLF001
        self._bus._wake_at.pop(self, None)  # noqa: SLF001

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since open, see `Transport`."""
        return {
            "connections": self.connections,
            "dropped": self.inbox.dropped,
            "queued": len(self.inbox),
            "superseded": self.inbox.superseded,
            "received": self.inbox.received,
            "sent": self._sent,
            "unsent": self._unsent,
        }


def _matches(pattern: str, topic: str) -> bool:
    """Whether a topic filter matches; `+` stands for one level, `#` is not used by the fleet."""
    if "+" not in pattern:
        return pattern == topic
    levels, parts = pattern.split("/"), topic.split("/")
    return len(levels) == len(parts) and all(
        level in ("+", part) for level, part in zip(levels, parts, strict=True)
    )


def _kind(topic: str) -> str:
    """Kind of a topic `kofn1/<fleet>/<kind>[/<name>]`."""
    levels = topic.split("/")
    return levels[2] if len(levels) > 2 else ""
