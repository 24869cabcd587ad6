# SPDX-License-Identifier: MIT
"""A Grid in one process: it calls the ClientApp itself, one node after the other.

For tests and sweeps: no ray, no server, nothing random but what the apps do. The same ServerApp and
ClientApp run unchanged on Flower's own engines. Each node keeps its Context over the run, as there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flwr.app import UserConfigValue
    from flwr.clientapp import ClientApp

_LOG = logging.getLogger(__name__)

RUN_ID = 1
SERVER_NODE_ID = 1
CLIENT_APP_RAISED = 2  # flwr's code for an exception in a ClientApp


def identify_server() -> None:
    """Tell Flower who sends the messages made in this process, as its engines do.

    `Message` takes sender and run from there; it has no public setter, so this is the one place
    that touches it.
    """
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.node_id = SERVER_NODE_ID


class InProcessGrid(Grid):
    """Nodes that run `app` when they are sent a message.

    Parameters
    ----------
    app : ClientApp
        What every node runs.
    nodes : int or sequence of mapping
        How many nodes (with `partition-id` and `num-partitions`, as in Flower's simulation), or
        the configuration of each.
    run_config : mapping
        As the apps find it in their Context.
    node_ids : sequence of int, optional
        Ids of the nodes; 1000, 1001, ... by default.

    Attributes
    ----------
    online : set of int
        Nodes that are online; take ids out and put them back as a test needs it.
    silent : set of int
        Nodes that count as online but never answer.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int | Sequence[Mapping[str, UserConfigValue]],
        run_config: Mapping[str, UserConfigValue] | None = None,
        *,
        node_ids: Sequence[int] | None = None,
    ) -> None:
        if isinstance(nodes, int):
            nodes = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
        ids = list(range(1000, 1000 + len(nodes))) if node_ids is None else list(node_ids)
        if len(set(ids)) != len(nodes):
            raise InputError(f"{len(nodes)} nodes need as many distinct ids, not {len(set(ids))}")
        self._app = app
        self._run_config = dict(run_config or {})
        self._contexts = {
            node_id: self._context(node_id, node) for node_id, node in zip(ids, nodes, strict=True)
        }
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self._run = Run.create_empty(RUN_ID)
        self.online = set(ids)
        self.silent: set[int] = set()
        identify_server()

    def _context(self, node_id: int, node: Mapping[str, UserConfigValue]) -> Context:
        return Context(
            run_id=RUN_ID,
            node_id=node_id,
            node_config=dict(node),
            state=RecordDict(),
            run_config=dict(self._run_config),
        )

    def join(self, node_id: int, node: Mapping[str, UserConfigValue]) -> None:
        """Add a node that comes online now."""
        if node_id in self._contexts:
            raise InputError(f"there is a node {node_id} already")
        self._contexts[node_id] = self._context(node_id, node)
        self.online.add(node_id)

    def set_run(self, run: Run) -> None:
        """Take the run that apps ask for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, a made-up one by default."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Refuse: Flower deprecates it, `Message` takes its place."""
        raise NotImplementedError("make a flwr.app.Message instead")

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are online."""
        return [node_id for node_id in self._contexts if node_id in self.online]

    def get_nodes(self) -> list[NodeInfo]:
        """Return what Flower says of nodes: here their ids alone."""
        return [NodeInfo(node_id=node_id) for node_id in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages; what a node replies is kept for `pull_messages`."""
        ids = []
        for message in messages:
            self._sent += 1
            message_id = f"message-{self._sent}"
            # Flower's grids number messages in the same way.
            message.metadata.__dict__["_message_id"] = message_id
            ids.append(message_id)
            node_id = message.metadata.dst_node_id
            if node_id in self.online - self.silent:
                self._replies[message_id] = self._answer(message, self._contexts[node_id])
        return ids

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as error:  # noqa: BLE001  # as Flower's engines: the client's fault is a reply
            _LOG.debug("event=client_raised node=%d", context.node_id, exc_info=True)
            return Message(Error(code=CLIENT_APP_RAISED, reason=repr(error)), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return those replies that are there, once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages and return the replies; silent nodes are not waited for."""
        del timeout
        return self.pull_messages(self.push_messages(messages))
