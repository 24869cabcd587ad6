# SPDX-License-Identifier: MIT
"""`Vehicle`: one VDA 5050 vehicle as seen from its fleet control. Pure: messages in, messages out.

A vehicle that loses its broker drives on to its last released node, so one node is released at a
time. What the standard sets as traps, and the answer here:

| | trap | answer |
|---|---|---|
| a | finished instant actions stay listed until `clearInstantActions` (3.0) | cleared at ten |
| b | the echoed actionId is the only correlation | every action has an id of its own |
| c | a vehicle answers no faster than its `minimumStateInterval` | no request sooner than that |
| d | the same orderId and orderUpdateId again is ignored | resending is safe, and done with both |
| e | header fields of a will are outdated | not read |
| f | an order at QoS 0 to a vehicle that is away is lost | confirmed by state, else sent again |

`stop` = startPause, then cancelOrder, repeated until the state shows that the vehicle stands still.
The emergency stop of a vehicle is read, never set.
"""

import itertools
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.hardware.drivers.vda5050_messages import (
    Dialect,
    Node,
    VehicleState,
    Writer,
    decode_interval_s,
    decode_online,
    decode_state,
    topic,
)

ZONE_FUNCTION = "vda5050-zone-1"
"""Name and version of `zone_of_state`."""
CONFIRM_S = 1.0
"""An order or a stop that the state does not show by then is sent again."""
CLEAR_AT = 10
FINAL = frozenset({"FINISHED", "FAILED"})
MINIMUM_INTERVAL_S = 1.0


class Out(NamedTuple):
    """A message for one vehicle; QoS 0, never retained."""

    topic: str
    payload: bytes


def zone_of_state(state: VehicleState, nodes: Sequence[Node]) -> int:
    """Zone of a vehicle: that of its last node, or of the node nearest to its position; or -1."""
    for zone, node in enumerate(nodes):
        if node.id == state.last_node:
            return zone
    if state.position is None:
        return -1
    ways = [float(np.hypot(n.x - state.position[0], n.y - state.position[1])) for n in nodes]
    nearest = int(np.argmin(ways))
    return nearest if ways[nearest] <= nodes[nearest].within_m else -1


class Vehicle:
    """One vehicle.

    Parameters
    ----------
    dialect
        2 (2.x) or 3 (3.0).
    manufacturer, serial
        As in its topics.
    nodes
        Node of each zone.
    """

    def __init__(
        self, dialect: Dialect, manufacturer: str, serial: str, nodes: Sequence[Node]
    ) -> None:
        self.dialect, self.manufacturer, self.serial = dialect, manufacturer, serial
        self.nodes = tuple(nodes)
        self.state: VehicleState | None = None
        self.state_s = -np.inf
        self.online = False
        self.interval_s = MINIMUM_INTERVAL_S
        self._writer = Writer(dialect, manufacturer, serial)
        self._boot = secrets.token_hex(4)
        self._count = itertools.count()
        self._order: tuple[str, Node | None, Node] | None = None
        self._order_sent_s = self._stop_sent_s = self._asked_s = -np.inf
        self._stopping = False
        self.refused: str | None = None

    def topic(self, kind: str) -> str:
        """Topic of this vehicle."""
        return topic(self.dialect, self.manufacturer, self.serial, kind)

    def take(self, kind: str, payload: bytes, now_s: float) -> None:
        """Take a message of the vehicle; raises `InputError` for one that cannot be read."""
        if kind == "state":
            self.state, self.state_s = decode_state(payload), now_s
            order = self._order
            if order is not None and order[0] in self.state.refusals:
                self.refused, self._order = order[0], None
        elif kind == "connection":
            self.online = decode_online(payload)
        elif kind == "factsheet":
            self.interval_s = max(decode_interval_s(payload) or MINIMUM_INTERVAL_S, 0.1)

    def zone(self) -> int:
        """Zone by the newest state; -1 when unknown."""
        return -1 if self.state is None else zone_of_state(self.state, self.nodes)

    def unavailable(self, now_s: float, oldest_s: float) -> str:
        """Say why the vehicle cannot take part now; "" when it can."""
        if self.state is None:
            return "no state yet"
        if not self.online:
            return "not online"
        if now_s - self.state_s > oldest_s:
            return f"state older than {oldest_s:g} s"
        if self.state.stopped_by:
            return self.state.stopped_by
        return "" if self.zone() >= 0 else "position unknown"

    def go(self, zone: int, now_s: float) -> list[Out]:
        """Release the node of a zone, and nothing behind it."""
        here = self.zone()
        start = self.nodes[here] if here >= 0 else None
        self._stopping, self.refused = False, None
        self._order = f"kofn-{self._boot}-{next(self._count)}", start, self.nodes[zone]
        out = []
        if self.state is not None and self.state.paused:
            out.append(self._act("stopPause"))
        return [*out, self._send_order(now_s)]

    def stop(self, now_s: float, *, again: bool = False) -> list[Out]:
        """Pause, then cancel; once, or `again` when the last try is older than `CONFIRM_S`."""
        first = not self._stopping or self._order is not None
        if not first and not again:
            return []
        if not first and now_s - self._stop_sent_s < CONFIRM_S:
            return []
        self._stopping, self._order, self._stop_sent_s = True, None, now_s
        return [self._act("startPause", "cancelOrder")]

    def request_state(self, now_s: float) -> list[Out]:
        """Ask for a state, no sooner than the vehicle answers."""
        if now_s - max(self._asked_s, self.state_s) < self.interval_s:
            return []
        self._asked_s = now_s
        return [self._act("stateRequest")]

    def due(self, now_s: float) -> list[Out]:
        """Messages that are due: orders and stops that are not confirmed, actions to clear."""
        state, out = self.state, []
        waiting = self._order is not None and not self.confirmed
        if waiting and now_s - self._order_sent_s >= CONFIRM_S:
            out.append(self._send_order(now_s))
        heard_since = self.state_s > self._stop_sent_s
        if self._stopping and heard_since and state is not None and state.driving:
            out += self.stop(now_s, again=True)
        if self.dialect == 3 and state is not None:
            done = [one for one in state.action_states.values() if one in FINAL]
            if len(done) >= CLEAR_AT and now_s - self._asked_s >= self.interval_s:
                self._asked_s = now_s
                out.append(self._act("clearInstantActions"))
        return out

    @property
    def confirmed(self) -> bool:
        """Whether the newest state shows the newest order."""
        order, state = self._order, self.state
        return order is not None and state is not None and state.order_id == order[0]

    @property
    def target(self) -> Node | None:
        """Node of the order under way; None without one."""
        return None if self._order is None else self._order[2]

    def _send_order(self, now_s: float) -> Out:
        assert self._order is not None  # noqa: S101
        order_id, start, end = self._order
        self._order_sent_s = now_s
        return Out(self.topic("order"), self._writer.order(order_id, 0, start, end))

    def _act(self, *kinds: str) -> Out:
        named = [(kind, f"kofn-{self._boot}-{next(self._count)}") for kind in kinds]
        return Out(self.topic("instantActions"), self._writer.actions(named))


def check_vehicle(manufacturer: str, serial: str) -> None:
    """Raise `InputError` for a name that cannot be a level of a topic."""
    for what, name in (("manufacturer", manufacturer), ("serial", serial)):
        if not name or set(name) - set(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-"
        ):
            raise InputError(f"{what} {name!r} may hold letters, digits and _ . : - only")
