# SPDX-License-Identifier: MIT
"""`FakeVehicle`: a VDA 5050 vehicle of either dialect that drives to the nodes of its orders.

Pure: messages and time in, messages out. It drives straight from node to node at one speed, up to
the last node that is released, and goes on doing so when nobody talks to it, as the standard says.
"""

import json
import math
from typing import Any

from kofn.hardware.drivers.vda5050_messages import VERSIONS, Dialect, topic

STAMP = "2026-01-01T00:00:00.000Z"
"""A fake has no calendar; nothing of ours reads these."""
Place = tuple[float, float]


class FakeVehicle:
    """One vehicle.

    Parameters
    ----------
    dialect
        2 (2.x) or 3 (3.0).
    serial, manufacturer
        As in its topics.
    node
        Node that it stands on.
    place
        Where that is, m; None: it says nothing of its position.
    speed_mps
        How fast it drives.
    """

    def __init__(
        self,
        dialect: Dialect,
        serial: str = "S1",
        node: str = "z0",
        *,
        manufacturer: str = "acme",
        place: Place | None = None,
        speed_mps: float = 0.4,
    ) -> None:
        self.dialect, self.serial, self.manufacturer, self.node = (
            dialect,
            serial,
            manufacturer,
            node,
        )
        self.place, self.heading, self._speed_mps = place, 0.0, speed_mps
        self.order: dict[str, Any] = {}
        self.actions: list[tuple[str, str, str]] = []
        self.paused = self.driving = False
        self.mode, self.stop, self.field = "AUTOMATIC", "NONE", False
        self.errors: list[dict[str, Any]] = []
        self.targets: list[str] = []
        self.orders_taken = 0
        self.news = True
        self._places: dict[str, Place] = {}
        self._headers = 0

    def topic(self, kind: str) -> str:
        """Topic of this vehicle."""
        return topic(self.dialect, self.manufacturer, self.serial, kind)

    def take(self, kind: str, payload: bytes) -> None:
        """Take an order or instant actions; `news` says that a state is due."""
        message = json.loads(payload)
        self.news = True
        if kind == "order":
            self._take_order(message)
            return
        for action in message["actions"]:
            self._act(action)

    def _take_order(self, message: dict[str, Any]) -> None:
        same = (message["orderId"], message["orderUpdateId"]) == (
            self.order.get("orderId"),
            self.order.get("orderUpdateId"),
        )
        if same:
            return  # as the standard says: ignored
        self.orders_taken += 1
        self.order = message
        for node in message["nodes"]:
            if where := node.get("nodePosition"):
                self._places[node["nodeId"]] = where["x"], where["y"]
        self.targets = [
            node["nodeId"]
            for node in message["nodes"]
            if node["released"] and node["nodeId"] != self.node
        ]
        self.driving = bool(self.targets) and not self.paused

    def _act(self, action: dict[str, Any]) -> None:
        kind = action["actionType"]
        if kind == "startPause":
            self.paused, self.driving = True, False
        elif kind == "stopPause":
            self.paused = False
            self.driving = bool(self.targets)
        elif kind == "cancelOrder":
            self.targets, self.driving = [], False
        elif kind == "clearInstantActions":
            self.actions.clear()
        self.actions.append((action["actionId"], kind, "FINISHED"))

    def roll(self, dt_s: float) -> None:
        """Drive for `dt_s`: towards the next node, and on to the one behind it."""
        way_m = self._speed_mps * dt_s
        while self.driving and self.targets:
            end = self._places.get(self.targets[0])
            if end is None or self.place is None:
                return
            dx, dy = end[0] - self.place[0], end[1] - self.place[1]
            left_m = math.hypot(dx, dy)
            if left_m > way_m:
                self.heading = math.atan2(dy, dx)
                share = way_m / left_m
                self.place = self.place[0] + share * dx, self.place[1] + share * dy
                return
            way_m -= left_m
            self.place, self.node = end, self.targets.pop(0)
            self.driving, self.news = bool(self.targets), True

    def arrive(self) -> None:
        """Be at the last node of the order at once."""
        if self.driving and self.targets:
            self.node, self.targets = self.targets[-1], []
            self.place = self._places.get(self.node, self.place)
            self.driving = False

    def state(self) -> bytes:
        """Return its state message."""
        self.news = False
        acted = [
            {"actionId": one, "actionType": kind, "actionStatus": status}
            for one, kind, status in self.actions
        ]
        body: dict[str, Any] = {
            **self._header(),
            "orderId": self.order.get("orderId", ""),
            "orderUpdateId": self.order.get("orderUpdateId", 0),
            "lastNodeId": self.node,
            "lastNodeSequenceId": 0,
            "nodeStates": [],
            "edgeStates": [],
            "driving": self.driving,
            "paused": self.paused,
            "operatingMode": self.mode,
            "errors": self.errors,
            "actionStates": acted if self.dialect == 2 else [],
        }
        position = None
        if self.place is not None:
            x, y = self.place
            position = {"x": x, "y": y, "theta": self.heading, "mapId": "map"}
        if self.dialect == 2:
            body["batteryState"] = {"batteryCharge": 80.0, "charging": False}
            body["safetyState"] = {"eStop": self.stop, "fieldViolation": self.field}
            if position is not None:
                body["agvPosition"] = {**position, "positionInitialized": True}
        else:
            body["instantActionStates"] = acted
            body["powerSupply"] = {"stateOfCharge": 80.0, "charging": False}
            body["safetyState"] = {"activeEmergencyStop": self.stop, "fieldViolation": self.field}
            if position is not None:
                body["mobileRobotPosition"] = {**position, "localized": True}
        return json.dumps(body).encode()

    def connection(self, state: str, stamp: str = STAMP) -> bytes:
        """Return a connection message: ONLINE, OFFLINE, or that the connection broke."""
        return json.dumps({"headerId": 0, "timestamp": stamp, "connectionState": state}).encode()

    @property
    def broken(self) -> bytes:
        """Its last will."""
        return self.connection("CONNECTIONBROKEN" if self.dialect == 2 else "CONNECTION_BROKEN")

    def _header(self) -> dict[str, Any]:
        self._headers += 1
        return {
            "headerId": self._headers,
            "timestamp": STAMP,
            "version": VERSIONS[self.dialect],
            "manufacturer": self.manufacturer,
            "serialNumber": self.serial,
        }
