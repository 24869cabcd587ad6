# SPDX-License-Identifier: MIT
"""Calibration files: one robot, one file, every version kept.

`<folder>/<robot>.toml` is in force; the version before lies beside it as `<robot>.<n>.toml`.
"""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from kofn.controller.core.errors import InputError
from kofn.controller.link.secret_files import PUBLIC, write_atomic
from kofn.controller.link.topics import check_name

SCHEMA = 1
RANGES = {
    "wheel_radius_m": (0.005, 0.5),
    "track_m": (0.02, 2.0),
    "left_scale": (0.5, 2.0),
    "right_scale": (0.5, 2.0),
    "deadband": (0.0, 0.9),
    "ticks_per_rev": (1.0, 1e6),
}


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wheels of one robot; m, ticks, shares."""

    robot: str
    driver: str
    date: str
    schema: int = SCHEMA
    firmware: str = ""
    wheel_radius_m: float = 0.0325
    track_m: float = 0.15
    left_scale: float = 1.0
    right_scale: float = 1.0
    flip_left: bool = False
    flip_right: bool = False
    deadband: float = 0.0
    ticks_per_rev: float = 1440.0

    def checked(self) -> "Calibration":
        """Return self; raises `InputError` naming the value and its range."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} = {value} must lie in {least:g}..{most:g}")
        return self

    def settings(self) -> dict[str, Any]:
        """Wheels as settings of a driver; a driver takes those that it has."""
        names = (*RANGES, "flip_left", "flip_right")
        return {name: getattr(self, name) for name in names}


def read_calibration(path: Path, robot: str) -> Calibration:
    """Read the calibration of `robot`.

    Raises
    ------
    InputError
        No such file, another robot's, an unknown or newer schema, or a value out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read calibration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    if table.get("schema") != SCHEMA:
        given = table.get("schema")
        raise InputError(f"{path}: schema {given} is not {SCHEMA}, which this kofn reads")
    try:
        read = msgspec.convert(table, Calibration).checked()
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{path}: {error}") from error
    if read.robot != robot:
        raise InputError(f"{path} is of robot {read.robot!r}, not of {robot!r}")
    return read


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write a new version; the one before is kept under a number. Return the path in force."""
    check_name("robot", calibration.robot)
    calibration.checked()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{calibration.robot}.toml"
    if path.exists():
        number = 1
        while (old := folder / f"{calibration.robot}.{number}.toml").exists():
            number += 1
        old.write_bytes(path.read_bytes())
    return write_atomic(path, tomli_w.dumps(msgspec.to_builtins(calibration)), PUBLIC)


def turned_into_scales(
    calibration: Calibration,
    *,
    told_m: float,
    measured_m: float,
    told_rad: float,
    measured_rad: float,
) -> Calibration:
    """Return a calibration corrected by a straight way and by turns on the spot.

        scale' = scale * measured / told,     track' = track * (told turn / measured turn) * s

    with s the correction of the straight way: turns are told by wheel ways over the track.
    """
    for name, value in (("straight way", measured_m), ("turn", measured_rad)):
        if not value > 0:
            raise InputError(f"measured {name} {value} must be above 0")
    straight = measured_m / told_m
    return msgspec.structs.replace(
        calibration,
        left_scale=calibration.left_scale * straight,
        right_scale=calibration.right_scale * straight,
        track_m=calibration.track_m * straight * told_rad / measured_rad,
    ).checked()
