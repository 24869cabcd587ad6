# SPDX-License-Identifier: MIT
"""Grids in front of a Grid: one shows only the chosen nodes, one sends in another way.

A strategy of Flower samples from `grid.get_node_ids()`; shown only the chosen nodes and asked for
all of them, any strategy trains exactly those and prepares its own payload for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.serverapp import Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from flwr.app import Message, RecordDict
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run


class _Passing(Grid):
    """`grid` under another name: everything is passed on."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid behind."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Pass on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Pass on."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class GridView(_Passing):
    """`grid` with `node_ids` for all there is."""

    def __init__(self, grid: Grid, node_ids: Sequence[int]) -> None:
        super().__init__(grid)
        self._node_ids = list(node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen nodes."""
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what is known of the chosen nodes."""
        chosen = set(self._node_ids)
        return [node for node in self._grid.get_nodes() if node.node_id in chosen]


class TimedGrid(_Passing):
    """`grid` with another way to send and receive."""

    def __init__(
        self, grid: Grid, send: Callable[[Grid, list[Message], float | None], list[Message]]
    ) -> None:
        super().__init__(grid)
        self._send = send

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send in that way."""
        return self._send(self._grid, list(messages), timeout)
