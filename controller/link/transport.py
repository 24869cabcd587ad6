# SPDX-License-Identifier: MIT
"""`Transport`: how a process of a fleet sends and receives, whatever carries the bytes.

Two implementations: `memory.MemoryBus` (one process, deterministic, a fake clock) and
`mqtt.MqttTransport` (paho). A transport keeps its session alive: it reconnects, subscribes again,
and announces presence again; the code above it sees messages only.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable


class Inbound(NamedTuple):
    """A message that arrived; `retained` is MQTT's retain flag, `at_s` the receiver's clock."""

    topic: str
    payload: bytes
    retained: bool
    at_s: float


class Outbound(NamedTuple):
    """A message to send."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Session(NamedTuple):
    """What a transport must restore at every connection.

    Attributes
    ----------
    client_id
        Identity on the broker within the fleet; equals the user name of our own credentials.
    filters
        (topic filter, QoS) to subscribe to.
    will
        Connection number -> the last will for that connection (None: no will). Numbers rise from 1
        with every attempt to connect, so there may be gaps.
    birth
        Connection number -> messages to publish once all subscriptions are acknowledged.
    newest_only
        Topics of which only the newest unread message is kept (a step repairs a lost step).
    queue
        How many unread messages are kept; the oldest is dropped and counted beyond that.
    fleet
        Put before the client id on a broker without logins, where several fleets may meet.
    """

    client_id: str
    filters: Sequence[tuple[str, int]]
    will: Callable[[int], Outbound | None]
    birth: Callable[[int], Sequence[Outbound]]
    newest_only: frozenset[str] = frozenset()
    queue: int = 4096
    fleet: str = ""


class Transport(Protocol):
    """One connection of one process."""

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Connect, subscribe, announce.

        Raises `RunError` when refused, or when it takes longer than `timeout_s` (wall seconds: a
        fast fleet does not make a network faster).
        """
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send; False (and nothing queued) while disconnected."""
        ...

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message, waiting at most `timeout_s` fleet seconds; None if none came."""
        ...

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Publish `farewell`, disconnect cleanly (no will). Idempotent, does not raise."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a publish would go out now."""
        ...

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since open.

        `connections`; `received` messages, of which `dropped` (queue full) and `superseded`
        (a newer one of a `newest_only` topic came before it was read); `queued` now; `sent`;
        `unsent`.
        """
        ...


@runtime_checkable
class Bundling(Protocol):
    """A transport that can send several messages in one piece, which wakes the broker once."""

    def in_one_segment(self) -> AbstractContextManager[None]:
        """Hold back what is published in the block, and send it at its end."""
        ...
