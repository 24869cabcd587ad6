# SPDX-License-Identifier: MIT
"""The fleet file: settings in three levels, `[all]` -> `[types.<type>]` -> `[robots.<id>]`.

A later level wins, key by key; limits are combined by minimum instead, and with the file on the
robot again. `enabled = false` keeps a robot listed.
"""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.topics import check_name
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.safety_task import SafetySettings

TIMES = ("deadman_s", "link_s", "link_lost_s", "pose_max_age_s", "arm_max_s")
KEYS = frozenset(
    {*TIMES, "limits", "driver", "settings", "battery_v", "enabled", "tag", "tag_height_m", "host"}
    | {"state", "type"}
)


class Value(NamedTuple):
    """A value and the level that it comes from."""

    value: Any
    level: str


class RobotEntry(NamedTuple):
    """One robot: every key that is set, with its level."""

    robot: str
    values: dict[str, Value]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value without its level."""
        return self.values[key].value if key in self.values else default

    @property
    def limits(self) -> RobotLimits:
        """Limits of the file; the robot's own may be lower."""
        table = dict(self.get("limits", {}))
        if "battery_v" in self.values:
            table["battery_v"] = self.get("battery_v")
        return msgspec.convert(table, RobotLimits).checked()

    @property
    def given_times(self) -> dict[str, Any]:
        """Time limits that the file sets."""
        return {key: self.get(key) for key in TIMES if key in self.values}

    @property
    def times(self) -> SafetySettings:
        """Time limits, with what is usual for those that the file leaves out."""
        return msgspec.convert(self.given_times, SafetySettings).checked()


def read_fleet(path: Path) -> dict[str, RobotEntry]:
    """Read a fleet file.

    Raises
    ------
    InputError
        No such file, not TOML, an unknown key or type, or a value out of range; the sentence names
        the place.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read fleet file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    unknown = set(tables) - {"all", "types", "robots"}
    if unknown:
        raise InputError(f"{path}: unknown table [{min(unknown)}]; known are all, types, robots")
    general, types, robots = (_table(path, tables, name) for name in ("all", "types", "robots"))
    if not robots:
        raise InputError(f"{path} names no [robots.<id>]")
    for name in types:
        _table(path, types, name)
    found = {}
    for robot, own in robots.items():
        check_name("robot", robot)
        if not isinstance(own, dict):
            raise InputError(f"{path}: robots.{robot} is no table")
        kind = own.get("type")
        if kind is not None and kind not in types:
            known = ", ".join(sorted(types)) or "none"
            raise InputError(f"{path}: robots.{robot}: no type {kind!r}; known are {known}")
        levels = [("all", general), (f"robots.{robot}", own)]
        if kind is not None:
            levels.insert(1, (f"types.{kind}", types[kind]))
        found[robot] = RobotEntry(robot, _merged(path, levels))
        try:
            found[robot].limits  # noqa: B018  refuses what is out of range
            found[robot].times  # noqa: B018
        except (InputError, msgspec.ValidationError) as error:
            raise InputError(f"{path}: robots.{robot}: {error}") from error
    return found


def _merged(path: Path, levels: list[tuple[str, dict[str, Any]]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for level, table in levels:
        for key, value in table.items():
            if key not in KEYS:
                known = ", ".join(sorted(KEYS))
                raise InputError(f"{path}: unknown key {key!r} in [{level}]; known are {known}")
            if key == "limits" and isinstance(value, dict) and key in values:
                before = values[key].value
                lowest = {
                    name: min(value.get(name, before.get(name)), before.get(name, value.get(name)))
                    if all(isinstance(t.get(name, 0.0), int | float) for t in (value, before))
                    else value.get(name, before.get(name))
                    for name in {**before, **value}
                }
                values[key] = Value(lowest, f"{values[key].level} + {level}")
            else:
                values[key] = Value(value, level)
    return values


def _table(path: Path, tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name} is no table")
    return table
