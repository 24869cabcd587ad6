# SPDX-License-Identifier: MIT
"""The fake vehicles of a scenario's host by name: where they stand, who speaks for them."""

import math

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.hardware.drivers.vda5050_messages import Dialect, Node, topic
from kofn.hardware.ring import RingLayout, sector_centres
from kofn.launch.scenario import HostSection

MANUFACTURER = "fake"


def nodes_of(layout: Layout) -> list[Node]:
    """Node of each zone of a ring, in the middle of its parking lane; raises `InputError`."""
    if not isinstance(layout, RingLayout):
        raise InputError("fake vehicles need a ring arena, not a grid")
    return [
        Node(
            id=f"z{zone}",
            x=round(layout.middle_m * math.cos(angle), 4),
            y=round(layout.middle_m * math.sin(angle), 4),
        )
        for zone, angle in enumerate(sector_centres(layout).tolist())
    ]


def dialect_of(i: int) -> Dialect:
    """Both dialects take part: 2.x, 3.0, 2.x .."""
    return 3 if i % 2 else 2


def vehicle_names(host: HostSection) -> list[str]:
    """Serial numbers of a host's fake vehicles, which are the names in their certificates."""
    return [f"{host.name}.v{i}" for i in range(host.robots)]


def control_name(host: HostSection) -> str:
    """Name under which a host of vehicles gives them orders: one connection, one name."""
    return f"{host.name}.control"


def vehicle_roots(host: HostSection) -> list[str]:
    """Where the topics of a host's fake vehicles begin."""
    return [
        topic(dialect_of(i), MANUFACTURER, name, "").rstrip("/")
        for i, name in enumerate(vehicle_names(host))
    ]
