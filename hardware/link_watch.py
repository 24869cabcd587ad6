# SPDX-License-Identifier: MIT
"""`LinkWatch`: how long the broker was silent, and a ping four times in the time that matters.

A robot that cannot hear a halt must not move, so silence is measured, not guessed from the
operating system's view of a connection: a frozen broker keeps its connections open.
"""

import time
from typing import Protocol, runtime_checkable

from kofn.controller.link.clock import Clock
from kofn.controller.link.transport import Transport

PINGS_PER_LIMIT = 4


@runtime_checkable
class Audible(Protocol):
    """A transport that can be asked for a sign of life of its broker."""

    def ping(self) -> None:
        """Ask for one."""
        ...

    @property
    def heard_wall_s(self) -> float:
        """When the broker was last heard, on `time.monotonic`."""
        ...


class LinkWatch:
    """Silence of one transport's broker.

    Parameters
    ----------
    transport
        Asked where it is `Audible`; another counts as heard while it is connected.
    clock
        Fleet time.
    link_s
        Silence that matters, fleet seconds.
    """

    def __init__(self, transport: Transport, clock: Clock, link_s: float) -> None:
        self._transport, self._clock = transport, clock
        self._every_s = link_s / PINGS_PER_LIMIT
        self._due_s = self._heard_s = clock.now()

    def silence_s(self) -> float:
        """Fleet seconds since the broker was heard; sends a ping when one is due."""
        now_s = self._clock.now()
        transport = self._transport
        if not isinstance(transport, Audible):
            if transport.connected:
                self._heard_s = now_s
            return now_s - self._heard_s
        if now_s >= self._due_s:
            transport.ping()
            self._due_s = now_s + self._every_s
        speed = 1.0 / (self._clock.to_wall_s(1.0) or 1.0)
        return (time.monotonic() - transport.heard_wall_s) * speed

    def due_s(self) -> float:
        """Fleet time of the next ping."""
        return self._due_s if self._due_s > self._clock.now() else self._clock.now() + self._every_s
