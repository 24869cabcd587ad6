# SPDX-License-Identifier: MIT
"""What the verbs of `kofn hw` share: options, a robot's own limits, and lines of a check."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from kofn.hardware.bench_run import Line
from kofn.hardware.limits_file import RobotLimits, read_limits
from kofn.launch.output import emit
from kofn.launch.robot_host import LIMITS, table_of

Host = Annotated[str, typer.Option("--host", help="The robot's host name on the wire.")]
State = Annotated[
    Path | None, typer.Option("--state", help="The robot's state folder; default: by its name.")
]
DriverName = Annotated[str | None, typer.Option("--driver", help="Name of the driver.")]
Settings = Annotated[str, typer.Option("--settings", help="Settings of the driver as JSON.")]


def settings_table(settings: str) -> dict[str, Any]:
    """Return the settings of a driver that were given as JSON."""
    return table_of("--settings", settings)


def utc_now() -> str:
    """Return the time as results of checks carry it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def own_limits(folder: Path) -> RobotLimits:
    """Return the limits kept in a robot's state folder, or the default ones."""
    path = folder / LIMITS
    return read_limits(path) if path.exists() else RobotLimits()


def report_lines(lines: list[Line], as_json: bool, code: int = 1) -> None:
    """Print lines; exit with `code` when one of them failed, warnings are none."""
    rows = [line._asdict() for line in lines]
    failed = [line for line in lines if not line.ok]
    width = max(len(line.name) for line in lines)
    table = []
    for line in lines:
        word = "FAIL" if not line.ok else "warn" if line.warn else "ok  "
        table.append(f"{word}  {line.name:<{width}}  {line.seen}")
        if word != "ok  " and line.hint:
            table.append(f"      {'':<{width}}  hint: {line.hint}")
    emit({"ok": not failed, "lines": rows}, table, as_json=as_json)
    if failed:
        raise typer.Exit(code)
