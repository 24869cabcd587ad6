# SPDX-License-Identifier: MIT
"""`Layout`: an arena of either shape, and how settings and log headers name one."""

from collections.abc import Mapping
from typing import Any

import msgspec

from kofn.controller.core.errors import InputError
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout

Layout = RingLayout | GridLayout

SHAPES: Mapping[str, type[RingLayout] | type[GridLayout]] = {
    "ring": RingLayout,
    "grid": GridLayout,
}


def layout_of(table: Mapping[str, Any]) -> Layout:
    """Return the arena of a table of settings; `shape` is "ring" (default) or "grid".

    Raises
    ------
    InputError
        An unknown shape or setting (with the known ones), or a value out of range.
    """
    settings = {key: value for key, value in table.items() if key != "shape"}
    shape = table.get("shape", "ring")
    kind = SHAPES.get(shape) if isinstance(shape, str) else None
    if kind is None:
        raise InputError(f"arena shape {shape!r} is not one of {', '.join(SHAPES)}")
    known = sorted(field.encode_name for field in msgspec.structs.fields(kind))
    for key in settings:
        if key not in known:
            raise InputError(
                f"a {shape} arena has no setting {key!r}; known are {', '.join(known)}"
            )
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"arena: {error}") from error


def layout_of_header(arena: Mapping[str, Any]) -> Layout | None:
    """Return the arena that a log header describes; None when it describes none to be drawn."""
    shape = arena.get("shape", "ring")
    kind = SHAPES.get(shape)
    if kind is None or "robot_radius_m" not in arena:
        return None
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    table = {key: value for key, value in arena.items() if key in known}
    if isinstance(table.get("zones"), float):  # logs of version 0.1 hold numbers of one kind
        table["zones"] = int(table["zones"])
    if shape == "ring" and "lanes" not in arena:  # a header that says no more than what is drawn
        table["lanes"] = False
    try:
        return layout_of({"shape": shape, **table})
    except InputError:
        return None
