# SPDX-License-Identifier: MIT
"""Messages of VDA 5050 in both dialects, 2.x and 3.0, reduced to what a fleet of zones needs.

| | 2.x | 3.0 |
|---|---|---|
| topics | `uagv/v2/<manufacturer>/<serial>/..` | `vda5050/v3/<manufacturer>/<serial>/..` |
| position | `agvPosition`, `positionInitialized` | `mobileRobotPosition`, `localized` |
| instant actions in the state | among `actionStates` | `instantActionStates` |
| battery | `batteryState.batteryCharge` | `powerSupply.stateOfCharge` |
| emergency stop (read, never set) | `safetyState.eStop` | `safetyState.activeEmergencyStop` |
| errors that end an order | FATAL | CRITICAL, FATAL |
| connection lost | `CONNECTIONBROKEN` | `CONNECTION_BROKEN` |

Orders and instant actions are the same in what we send. Unknown fields are passed over.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from kofn.controller.core.errors import InputError

Dialect = Literal[2, 3]
VERSIONS: dict[Dialect, str] = {2: "2.1.0", 3: "3.0.0"}
HARMLESS = ("stateRequest", "clearInstantActions")
"""Instant actions that may run while the vehicle drives."""
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}\Z")]


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a zone is on the vehicles' map: position in m, `map` as they call it."""

    id: Name
    x: float
    y: float
    map: str = "map"
    within_m: float = 0.5


class VehicleState(NamedTuple):
    """What a state message says, in one form for both dialects.

    `action_states` maps the ids of instant actions to their status; `stopped_by` says why the
    vehicle cannot act on orders now ("" when it can).
    """

    order_id: str
    order_update_id: int
    last_node: str
    driving: bool
    paused: bool
    position: tuple[float, float] | None
    battery_percent: float | None
    stopped_by: str
    action_states: dict[str, str]
    refusals: tuple[str, ...]
    heading: float = 0.0


class _Position(msgspec.Struct, rename="camel"):
    x: float
    y: float
    theta: float = 0.0
    position_initialized: bool | None = None
    localized: bool | None = None


class _Action(msgspec.Struct, rename="camel"):
    action_id: str
    action_status: str


class _Reference(msgspec.Struct, rename="camel"):
    reference_key: str
    reference_value: str


class _Error(msgspec.Struct, rename="camel"):
    error_type: str
    error_level: str
    error_references: list[_Reference] = msgspec.field(default_factory=list)
    error_description: str = ""


class _Safety(msgspec.Struct, rename="camel"):
    field_violation: bool
    e_stop: str | None = None
    active_emergency_stop: str | None = None


class _Battery(msgspec.Struct, rename="camel"):
    battery_charge: float | None = None
    state_of_charge: float | None = None


class _State(msgspec.Struct, rename="camel"):
    order_id: str
    order_update_id: int
    last_node_id: str
    driving: bool
    operating_mode: str
    safety_state: _Safety
    action_states: list[_Action]
    errors: list[_Error]
    instant_action_states: list[_Action] = msgspec.field(default_factory=list)
    paused: bool = False
    agv_position: _Position | None = None
    mobile_robot_position: _Position | None = None
    battery_state: _Battery | None = None
    power_supply: _Battery | None = None


class _Connection(msgspec.Struct, rename="camel"):
    connection_state: str


class _Timing(msgspec.Struct, rename="camel"):
    minimum_state_interval: float | None = None


class _Limits(msgspec.Struct, rename="camel"):
    timing: _Timing | None = None


class _Factsheet(msgspec.Struct, rename="camel"):
    protocol_limits: _Limits | None = None


_state = msgspec.json.Decoder(_State)
_connection = msgspec.json.Decoder(_Connection)
_factsheet = msgspec.json.Decoder(_Factsheet)


def topic(dialect: Dialect, manufacturer: str, serial: str, kind: str) -> str:
    """Topic of one vehicle; `+` stands for any."""
    root = "uagv/v2" if dialect == 2 else "vda5050/v3"
    return f"{root}/{manufacturer}/{serial}/{kind}"


def decode_state(payload: bytes) -> VehicleState:
    """Read a state of either dialect; raises `InputError` for what is none."""
    try:
        raw = _state.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"not a VDA 5050 state: {error}") from error
    where = raw.mobile_robot_position or raw.agv_position
    known = where is not None and bool(where.localized or where.position_initialized)
    power = raw.power_supply or raw.battery_state or _Battery()
    charge = power.state_of_charge if power.state_of_charge is not None else power.battery_charge
    stop = raw.safety_state.active_emergency_stop or raw.safety_state.e_stop or "unknown"
    why = ""
    if raw.operating_mode != "AUTOMATIC":
        why = f"operating mode {raw.operating_mode}"
    elif stop != "NONE":
        why = f"emergency stop {stop}"
    elif raw.safety_state.field_violation:
        why = "protective field violated"
    else:
        severe = [one for one in raw.errors if one.error_level in ("FATAL", "CRITICAL")]
        if severe:
            why = f"{severe[0].error_level} {severe[0].error_type} {severe[0].error_description}"[
                :160
            ]
    return VehicleState(
        order_id=raw.order_id,
        order_update_id=raw.order_update_id,
        last_node=raw.last_node_id,
        driving=raw.driving,
        paused=raw.paused,
        position=(where.x, where.y) if where is not None and known else None,
        battery_percent=charge,
        stopped_by=why.strip(),
        action_states={
            one.action_id: one.action_status
            for one in (*raw.action_states, *raw.instant_action_states)
        },
        refusals=tuple(
            ref.reference_value
            for one in raw.errors
            if one.error_type.lower().startswith(("order", "validation", "noroute", "no_route"))
            for ref in one.error_references
            if ref.reference_key == "orderId"
        ),
        heading=where.theta if where is not None else 0.0,
    )


def decode_online(payload: bytes) -> bool:
    """Whether a connection message says ONLINE. The header of a will is old and is not read."""
    try:
        return _connection.decode(payload).connection_state == "ONLINE"
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"not a VDA 5050 connection: {error}") from error


def decode_interval_s(payload: bytes) -> float | None:
    """`minimumStateInterval` of a factsheet, s; None where it names none."""
    try:
        limits = _factsheet.decode(payload).protocol_limits
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"not a VDA 5050 factsheet: {error}") from error
    return limits.timing.minimum_state_interval if limits and limits.timing else None


class Writer:
    """Writes messages to one vehicle; `headerId` rises by one for each topic.

    Parameters
    ----------
    dialect, manufacturer, serial
        The vehicle.
    """

    def __init__(self, dialect: Dialect, manufacturer: str, serial: str) -> None:
        self._dialect, self._manufacturer, self._serial = dialect, manufacturer, serial
        self._headers = {"order": 0, "instantActions": 0}

    def order(self, order_id: str, update: int, start: Node | None, end: Node) -> bytes:
        """Order to drive to `end` and no further: every node in it is released.

        Parameters
        ----------
        order_id, update
            Identify the order: a vehicle takes the same pair once.
        start
            Node that the vehicle stands on; None sends the one node alone.
        end
            Where to go.
        """
        nodes: list[dict[str, Any]] = []
        edges: list[dict[str, Any]] = []
        if start is not None and start.id != end.id:
            nodes.append(_node(start, 0))
            edges.append(
                {
                    "edgeId": f"{start.id}-{end.id}",
                    "sequenceId": 1,
                    "released": True,
                    "startNodeId": start.id,
                    "endNodeId": end.id,
                    "actions": [],
                }
            )
            if self._dialect == 3:  # 3.0 took the two names out: the sequence says the same
                del edges[-1]["startNodeId"], edges[-1]["endNodeId"]
        nodes.append(_node(end, 2 * len(nodes)))
        body = {"orderId": order_id, "orderUpdateId": update, "nodes": nodes, "edges": edges}
        return self._message("order", body)

    def actions(self, actions: Sequence[tuple[str, str]]) -> bytes:
        """Instant actions (type, id), in that order."""
        body: list[dict[str, Any]] = [
            {
                "actionType": kind,
                "actionId": action_id,
                "blockingType": "NONE"
                if kind in ("stateRequest", "clearInstantActions")
                else "HARD",
                "actionParameters": [],
            }
            for kind, action_id in actions
        ]
        return self._message("instantActions", {"actions": body})

    def _message(self, kind: str, body: dict[str, Any]) -> bytes:
        self._headers[kind] += 1
        now = datetime.now(UTC)
        header = {
            "headerId": self._headers[kind],
            "timestamp": f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z",
            "version": VERSIONS[self._dialect],
            "manufacturer": self._manufacturer,
            "serialNumber": self._serial,
        }
        return msgspec.json.encode(header | body)


def _node(node: Node, sequence: int) -> dict[str, Any]:
    return {
        "nodeId": node.id,
        "sequenceId": sequence,
        "released": True,
        "nodePosition": {"x": node.x, "y": node.y, "mapId": node.map},
        "actions": [],
    }
