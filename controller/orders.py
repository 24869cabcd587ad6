# SPDX-License-Identifier: MIT
"""Commands under way: each is sent until its host has acknowledged it, or its time is over.

A host executes an id once and acknowledges every copy, so sending again is harmless; a broker that
was gone for a moment costs a second, not the order. Pure: nothing is sent or logged here.
"""

from typing import NamedTuple

from kofn.controller.link.messages import Ack, Cmd

REPEAT_S = 1.0
"""Between two copies of one command, fleet seconds."""


class Result(NamedTuple):
    """What became of a command; `answered` is False when no acknowledgement came in time."""

    host: str
    cmd: Cmd
    ok: bool
    why: str
    answered: bool = True


class _UnderWay(NamedTuple):
    host: str
    cmd: Cmd
    until_s: float
    next_s: float


class Orders:
    """The commands of one controller."""

    def __init__(self) -> None:
        self._under_way: dict[str, _UnderWay] = {}
        self._results: list[Result] = []

    def give(self, host: str, cmd: Cmd, now_s: float) -> None:
        """Add a command; an older one to the same host is of no account any more."""
        for other in [one for one in self._under_way.values() if one.host == host]:
            del self._under_way[other.cmd.id]
            why = f"replaced by {cmd.op}"
            self._results.append(Result(host, other.cmd, ok=False, why=why, answered=False))
        until_s = now_s + cmd.ttl / 1000
        self._under_way[cmd.id] = _UnderWay(host, cmd, until_s, now_s)

    def acknowledge(self, host: str, ack: Ack) -> None:
        """Take an acknowledgement; one of another host, or of no command of ours, is ignored."""
        one = self._under_way.get(ack.id)
        if one is not None and one.host == host:
            del self._under_way[ack.id]
            self._results.append(Result(host, one.cmd, ok=ack.ok, why=ack.why))

    def due(self, now_s: float) -> list[tuple[str, Cmd]]:
        """Return (host, command) to be sent now; give up those whose time is over."""
        if not self._under_way:
            return []
        sending = []
        for one in list(self._under_way.values()):
            if now_s >= one.until_s:
                del self._under_way[one.cmd.id]
                why = f"no acknowledgement within {one.cmd.ttl / 1000:g} s"
                self._results.append(Result(one.host, one.cmd, ok=False, why=why, answered=False))
            elif now_s >= one.next_s:
                self._under_way[one.cmd.id] = one._replace(next_s=now_s + REPEAT_S)
                sending.append((one.host, one.cmd))
        return sending

    def __len__(self) -> int:
        return len(self._under_way)

    def take_results(self) -> list[Result]:
        """Return what has ended since the last call."""
        results, self._results = self._results, []
        return results
