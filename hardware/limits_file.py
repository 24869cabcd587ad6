# SPDX-License-Identifier: MIT
"""`RobotLimits`: what a robot may do at most, from a file on the robot.

A fleet file or a controller may lower these values, never raise them: both are combined by minimum.
"""

import math
import tomllib
from pathlib import Path

import msgspec

from kofn.controller.core.errors import InputError
from kofn.hardware.geofence import Fence, Polygon
from kofn.hardware.safety import Limits, check_limits

SCHEMA = 1


class Battery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Voltages: at `warn` the option under way is the last one, at `critical` the robot stops."""

    warn: float
    critical: float


class RobotLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one robot; SI units.

    Attributes
    ----------
    schema
        Version of this file's form.
    v, w, accel
        Greatest speed (m/s), turn rate (rad/s) and growth of speed (m/s^2).
    geofence, keep_out
        Polygons [[x, y], ..] in the arena's frame, m.
    battery_v
        Thresholds; None where the driver measures no battery.
    """

    schema: int = SCHEMA
    v: float = math.inf
    w: float = math.inf
    accel: float = math.inf
    geofence: Polygon | None = None
    keep_out: list[Polygon] = msgspec.field(default_factory=list)
    battery_v: Battery | None = None

    def checked(self) -> "RobotLimits":
        """Return self; raises `InputError` when a value is no limit."""
        for name, value in (("v", self.v), ("w", self.w), ("accel", self.accel)):
            if not value >= 0:
                raise InputError(f"limit {name} = {value} must be at least 0")
        if self.accel == 0:
            raise InputError("limit accel = 0 must be above 0")
        battery = self.battery_v
        if battery is not None and not 0 < battery.critical <= battery.warn < math.inf:
            raise InputError(
                f"battery_v: 0 < critical = {battery.critical} <= warn = {battery.warn} must hold"
            )
        self.fence()
        return self

    def fence(self) -> Fence:
        """Return the area that is allowed."""
        return Fence(self.geofence, self.keep_out)

    def capped(self, v_max: float, w_max: float) -> Limits:
        """Return the stricter of these limits and a driver's own."""
        return check_limits(Limits(min(self.v, v_max), min(self.w, w_max), self.accel))

    def lowered(self, other: "RobotLimits") -> "RobotLimits":
        """Return the minimum of both; the fence stays the robot's where it has one."""
        return msgspec.structs.replace(
            self,
            v=min(self.v, other.v),
            w=min(self.w, other.w),
            accel=min(self.accel, other.accel),
            geofence=self.geofence if self.geofence is not None else other.geofence,
            keep_out=[*self.keep_out, *other.keep_out],
            battery_v=self.battery_v if self.battery_v is not None else other.battery_v,
        )


def read_limits(path: Path) -> RobotLimits:
    """Read a limits file.

    Raises
    ------
    InputError
        No such file, not TOML, an unknown key, a newer schema, or a value out of range.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read limits {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    if table.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path}: schema {table['schema']} is not {SCHEMA}, which this kofn reads")
    try:
        return msgspec.convert(table, RobotLimits).checked()
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{path}: {error}") from error
