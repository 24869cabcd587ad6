# SPDX-License-Identifier: MIT
"""What files say of one robot, for `kofn robot`: the fleet file and its calibration.

Settings of the driver are joined, the later one wins: fleet file, calibration, command line. Time
limits of the command line win over those of the fleet file. Its limits are combined by minimum with
the robot's own.
"""

import inspect
from pathlib import Path
from typing import Any, NamedTuple

from kofn.controller.core.errors import InputError
from kofn.hardware.calibration import Calibration, read_calibration
from kofn.hardware.drivers.registry import driver_class
from kofn.hardware.fleet_file import RobotEntry, read_fleet
from kofn.hardware.limits_file import RobotLimits

FIRMWARE = "firmware"


class RobotFiles(NamedTuple):
    """What is known of a robot: its driver, the driver's settings, limits, times, state folder."""

    driver: str | None
    settings: dict[str, Any]
    limits: RobotLimits | None
    times: dict[str, float]
    state: Path | None


def read_robot_files(
    host: str, driver: str | None, fleet: Path | None, calibration: Path | None
) -> RobotFiles:
    """Read what is named; what is not named says nothing.

    Parameters
    ----------
    host
        Name of the robot's host: its id in the fleet file, or that entry's `host`.
    driver
        Of the command line; None where it names none.
    fleet
        The fleet file.
    calibration
        A calibration file, or the folder of `kofn hw calibrate`.

    Raises
    ------
    InputError
        A file that cannot be read, that knows no such robot, says that it is disabled, or is of
        another driver.
    """
    entry = None if fleet is None else _entry(fleet, host)
    found = driver
    settings: dict[str, Any] = {}
    limits, times, state = None, {}, None
    if entry is not None:
        found = driver or entry.get("driver")
        settings = dict(entry.get("settings", {}))
        limits = entry.limits
        times = entry.given_times
        state = Path(entry.get("state")) if entry.get("state") is not None else None
    if found == FIRMWARE:
        raise InputError(f"{host} is a board with a host of its own: kofn hw provision {host}")
    if calibration is not None:
        names = [host] if entry is None else list(dict.fromkeys([entry.robot, host]))
        read = _calibration(calibration, names)
        if found is None:
            found = read.driver
        if read.driver != found:
            raise InputError(
                f"the calibration of {read.robot!r} is of driver {read.driver!r}, not of {found!r}"
            )
        settings |= _that_it_has(found, read)
    return RobotFiles(found, settings, limits, times, state)


def _entry(path: Path, host: str) -> RobotEntry:
    robots = read_fleet(path)
    mine = [one for name, one in robots.items() if host in (name, one.get("host"))]
    if not mine:
        raise InputError(f"{path} has no robot {host!r}; it has {', '.join(sorted(robots))}")
    if len(mine) > 1:
        names = ", ".join(one.robot for one in mine)
        raise InputError(f"{path} has several robots of host {host!r}: {names}")
    if not mine[0].get("enabled", True):
        level = mine[0].values["enabled"].level
        raise InputError(f"{path}: robot {mine[0].robot!r} is disabled in [{level}]")
    return mine[0]


def _calibration(path: Path, robots: list[str]) -> Calibration:
    """Read a file, which may be of any of these names, or the file of one of them in a folder."""
    if path.is_dir():
        for robot in robots:
            if (path / f"{robot}.toml").exists():
                return read_calibration(path / f"{robot}.toml", robot)
        raise InputError(
            f"{path} has no calibration {robots[0]}.toml: run kofn hw calibrate {robots[0]}"
        )
    robot = path.stem if path.stem in robots else robots[0]
    return read_calibration(path, robot)


def _that_it_has(driver: str, calibration: Calibration) -> dict[str, Any]:
    """Return what a calibration says and the driver can be told."""
    known = inspect.signature(driver_class(driver)).parameters
    return {name: value for name, value in calibration.settings().items() if name in known}
