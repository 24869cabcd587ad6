# SPDX-License-Identifier: MIT
"""`HostPool`: several hosts of one machine in one process and one thread.

Each host keeps its connection, its name and its rights; only the process is shared. Ten processes
on two cores take turns: the last one reads a step after all the others have worked on theirs, and
finds nothing of its code in the cache. One process reads from all its connections first.

For robots that ask for little at a time: while the bank of one host computes, all others wait.
"""

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress

from kofn.controller.link.clock import Clock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Inbound
from kofn.hardware.agent import PATIENCE_WALL_S, HostAgent

READS_PER_TURN = 16
"""Looks for messages before the robots get their turn."""


class HostPool:
    """Serves agents that are open.

    Parameters
    ----------
    members
        (agent, the transport that it was made with).
    clock
        That of all of them.
    """

    def __init__(self, members: Sequence[tuple[HostAgent, MqttTransport]], clock: Clock) -> None:
        self._members = list(members)
        self._clock = clock

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Work until `should_stop()`, asked at least every 0.2 s of wall time, or all have left.

        A host that is told to leave is closed at once, the others go on.
        """
        woken, waker = socket.socketpair()
        with closing(woken), closing(waker):
            woken.setblocking(False)
            waker.setblocking(False)

            def wake() -> None:
                with suppress(OSError):  # full, so it is awake; or closed
                    waker.send(b"\0")

            transports = [transport for _, transport in self._members]
            for transport in transports:
                transport.tell(wake)
            wake()  # for what came before: no socket says that it is there
            try:
                while not should_stop() and self._members:
                    self._read(woken, self._do_what_is_due())
            finally:
                for transport in transports:
                    transport.tell(None)

    def _do_what_is_due(self) -> float:
        """Call every host; return after how many wall seconds the first wants to be called."""
        plans = [agent.on_time() for agent, _ in self._members]
        wake_s = min((time_s for time_s in plans if time_s is not None), default=None)
        if wake_s is None:
            return PATIENCE_WALL_S
        wait_s = self._clock.to_wall_s(max(0.0, wake_s - self._clock.now()))
        return min(wait_s, PATIENCE_WALL_S)

    def _read(self, woken: socket.socket, wait_s: float) -> None:
        """Wait for messages of any host and hand them over.

        All that can be had is read before the first message is handed over, for messages are
        stamped when they are read; and answers leave together at the end: whoever waits for them
        would otherwise wake for the first one and take the processor from the others.
        """
        came: list[tuple[HostAgent, MqttTransport, list[Inbound]]] = []
        for _ in range(READS_PER_TURN):
            found = self._collect(woken, 0.0 if came else wait_s)
            if not found:
                break
            came += found
        with ExitStack() as sent:
            for transport in {transport: None for _, transport, _ in came}:
                sent.enter_context(transport.in_one_segment())
            for agent, _, messages in came:
                for message in messages:
                    agent.on_message(message)
        for agent, _ in self._members:
            if agent.left:
                agent.close()
        self._members = [member for member in self._members if not member[0].left]

    def _collect(
        self, woken: socket.socket, wait_s: float
    ) -> list[tuple[HostAgent, MqttTransport, list[Inbound]]]:
        """Wait for messages of any host; return those of all that have some."""
        sources = [transport.attend(wait_s) for _, transport in self._members]
        ready = []
        with suppress(OSError, ValueError):  # a connection was closed meanwhile
            ready = select.select([woken, *filter(None, sources)], [], [], wait_s)[0]
        if woken in ready:
            with suppress(BlockingIOError):
                woken.recv(4096)
        return [
            (agent, transport, transport.collect())
            for (agent, transport), source in zip(self._members, sources, strict=True)
            if woken in ready or source in ready
        ]
