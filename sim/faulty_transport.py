# SPDX-License-Identifier: MIT
"""`FaultyTransport`: a host's connection on which answers are lost, late, doubled, or all is cut.

It stands between a host agent and its real transport. A reply carries a row for each polled robot;
the rows of robots whose answer is lost are taken out, as if each robot had a radio of its own.
While the host is cut off, everything in both directions is dropped; the number of each step that
passes is still read, for that is how the end of the partition is known.
"""

from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import Incident
from kofn.controller.link.messages import Reply, Step, decode, encode
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Outbound, Session, Transport
from kofn.sim.injector import Injector


class FaultyTransport:
    """A transport with faults; implements `kofn.controller.link.transport.Transport`.

    Parameters
    ----------
    inner
        The real one.
    injector
        Says what is lost; the bank tells it the step.
    robots
        Names of the host's robots, in the injector's order.
    clock
        Fleet time, for delays.
    fleet
        Name of the fleet.
    note
        Where incidents go.
    """

    def __init__(
        self,
        inner: Transport,
        injector: Injector,
        *,
        robots: Sequence[str],
        clock: Clock,
        fleet: str,
        note: Callable[[Incident], None] = lambda _: None,
    ) -> None:
        self._inner, self._injector, self._clock = inner, injector, clock
        self._index = {name: i for i, name in enumerate(robots)}
        self._note = note
        self._topics = Topics(fleet)
        self._cut = injector.cut_off(0)
        self._held: deque[tuple[float, Outbound]] = deque()
        self._silent: tuple[int, npt.NDArray[np.bool_]] = (-1, np.zeros(0, dtype=np.bool_))

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Connect; presence and roster pass, for a fleet starts whole."""
        self._inner.open(session, timeout_s)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send what is not lost, later where answers are delayed."""
        self._flush()
        if self._cut and not retain:
            return True
        address = self._topics.parse(topic)
        if address is None or address.kind != "rep":
            return self._inner.publish(topic, payload, qos=qos, retain=retain)
        left = self._without_lost(decode(Reply, payload))
        if left is None:
            return True
        out = Outbound(topic, encode(left), qos, retain)
        copies = 2 if self._injector.doubled() else 1
        delay_s = self._injector.delay_s()
        if delay_s > 0:
            self._held.extend([(self._clock.now() + delay_s, out)] * copies)
            return True
        sent = [self._send(out) for _ in range(copies)]
        return all(sent)

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message that gets through."""
        end_s = self._clock.now() + timeout_s
        while True:
            self._flush()
            now_s = self._clock.now()
            wait_s = max(0.0, end_s - now_s)
            if self._held:
                wait_s = min(wait_s, max(0.0, self._held[0][0] - now_s))
            message = self._inner.receive(wait_s)
            if message is None:
                if self._clock.now() >= end_s or not self._held:
                    return None
                continue
            if self._passes(message):
                return message
            if self._clock.now() >= end_s:
                return None

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Close the real transport; what was held back is gone."""
        self._held.clear()
        self._inner.close(farewell)

    @property
    def connected(self) -> bool:
        """As of the real transport: whoever is cut off does not know."""
        return self._inner.connected

    @property
    def statistics(self) -> dict[str, int]:
        """As of the real transport."""
        return self._inner.statistics

    def _passes(self, message: Inbound) -> bool:
        address = self._topics.parse(message.topic)
        if address is not None and address.kind == "step":
            try:
                t = decode(Step, message.payload).t
            except InputError:
                return not self._cut
            cut = self._injector.cut_off(t)
            if cut != self._cut:
                self._cut = cut
                text = f"{'cut off' if cut else 'connected again'} in step {t}"
                self._note(self._injector.incident("cut_off", -1, text))
        return not self._cut

    def _without_lost(self, reply: Reply) -> Reply | None:
        """Return the reply without the rows that are lost; None when nothing is left."""
        t = self._injector.t
        if t < 0:  # no step taken yet: nothing is known of any robot
            return reply
        if self._silent[0] != t:
            self._silent = t, self._injector.silent()
        lost = [row.id for row in reply.r if self._is_lost(row.id)]
        for name in lost:
            text = f"answer of step {t} was lost"
            self._note(self._injector.incident("answer_lost", self._index[name], text))
        if len(lost) == len(reply.r):
            return None
        rows = [row for row in reply.r if row.id not in lost]
        return msgspec.structs.replace(reply, r=rows) if lost else reply

    def _is_lost(self, robot: str) -> bool:
        i = self._index.get(robot)
        return i is not None and bool(self._silent[1][i])

    def _flush(self) -> None:
        """Send what was held back long enough."""
        while self._held and self._held[0][0] <= self._clock.now():
            self._send(self._held.popleft()[1])

    def _send(self, out: Outbound) -> bool:
        return self._inner.publish(out.topic, out.payload, qos=out.qos, retain=out.retain)
