# SPDX-License-Identifier: MIT
"""Stable names of clients: node ids are fresh random numbers in each run, names are not.

A node is asked for its name (`query.hello`) when it is first seen; one that does not answer is
asked again after 1, 2, 4, ... rounds. A ClientApp that does not know the question gets a name from
its node id: it can be chosen at random, but not alike in two runs.

Two nodes with one name are an error at the start of a run. Later on the newcomer is not admitted
while the other is online, so that nobody can end a run by taking a name; once the other is gone the
name is the newcomer's (a client that was restarted).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.app import Message, RecordDict

from kofn.controller.core.errors import InputError, RunError
from kofn.fed.flower import wire
from kofn.fed.flower.collecting import Clock, collect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.serverapp import Grid

_LOG = logging.getLogger(__name__)


class Names:
    """Who is behind the node ids of a run.

    Parameters
    ----------
    timeout_s : float
        How long nodes have to tell their names.
    clock : Clock
        For that.
    """

    def __init__(self, *, timeout_s: float, clock: Clock) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._name: dict[int, str] = {}
        self._id: dict[str, int] = {}
        # Node id -> the look at which it is asked again, and how many looks to skip then.
        self._again: dict[int, tuple[int, int]] = {}
        self._looks = 0
        # The last answer: thousands of names need no sorting while nobody comes or goes.
        self._seen: list[int] = []
        self._online: dict[str, int] = {}
        self.refused: set[str] = set()

    def online(self, grid: Grid) -> dict[str, int]:
        """Return the nodes that are online and have a name, as name -> id, in order of names.

        Raises
        ------
        InputError
            When nodes have the same name at the first look.
        """
        ids = list(grid.get_node_ids())
        unknown = [i for i in ids if i not in self._name and self._due(i)]
        if unknown:
            self._ask(grid, unknown, set(ids))
        self._looks += 1
        if unknown or ids != self._seen:
            named = {self._name[i]: i for i in ids if i in self._name}
            own = sorted(name for name, i in named.items() if self._id[name] == i)
            self._seen, self._online = ids, {name: named[name] for name in own}
        return self._online

    def wait_for(self, grid: Grid, count: int, *, timeout_s: float) -> None:
        """Wait until so many clients are online and named.

        Raises
        ------
        RunError
            They are not in time.
        """
        until = self._clock.monotonic() + timeout_s
        while True:
            here = len(list(grid.get_node_ids()))
            if here >= count:
                here = len(self.online(grid))
                if here >= count:
                    return
            if self._clock.monotonic() >= until:
                raise RunError(
                    f"after {timeout_s:g} s {here} clients are online, but {count} are waited for"
                )
            self._clock.sleep(1.0)

    def name(self, node_id: int) -> str:
        """Return the name of a node; a made-up one if it has none."""
        return self._name.get(node_id, f"node-{node_id}")

    def _due(self, node_id: int) -> bool:
        return self._again.get(node_id, (0, 0))[0] <= self._looks

    def _ask(self, grid: Grid, ids: Sequence[int], online: set[int]) -> None:
        messages = [Message(RecordDict(), node_id, wire.HELLO) for node_id in ids]
        replies = collect(grid, messages, timeout_s=self._timeout_s, clock=self._clock)
        told: dict[int, str] = {}
        for message, node_id, _ in replies:
            if message.has_error():
                told[node_id] = f"node-{node_id}"
                _LOG.warning(
                    "event=no_stable_name node=%d reason=%r", node_id, message.error.reason
                )
            elif (name := wire.read_name(message.content)) is not None:
                told[node_id] = name
        for node_id in ids:
            if node_id not in told:
                _, skip = self._again.get(node_id, (0, 1))
                self._again[node_id] = (self._looks + skip, 2 * skip)
        for node_id, name in sorted(told.items(), key=lambda pair: (pair[1], pair[0])):
            self._admit(node_id, name, online)

    def _admit(self, node_id: int, name: str, online: set[int]) -> None:
        other = self._id.get(name)
        if other is not None and other in online:
            if self._looks == 0:
                raise InputError(
                    f"two nodes call themselves {name!r}, but each client needs a name of its own"
                )
            if name not in self.refused:
                _LOG.warning("event=name_taken name=%s node=%d", name, node_id)
            self.refused.add(name)
            _, skip = self._again.get(node_id, (0, 1))
            self._again[node_id] = (self._looks + skip, 2 * skip)
            return
        if other is not None:
            del self._name[other]
        self._name[node_id] = name
        self._id[name] = node_id
        self._again.pop(node_id, None)
