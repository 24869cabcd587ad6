# SPDX-License-Identifier: MIT
"""`kofn hw selftest` and `calibrate`: motors that turn on the bench, with somebody beside them."""

import asyncio
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import MonotonicClock
from kofn.hardware.bench_run import BenchRun
from kofn.hardware.bench_run import selftest as test_robot
from kofn.hardware.calibration import (
    Calibration,
    read_calibration,
    turned_into_scales,
    write_calibration,
)
from kofn.hardware.driver import Driver, DriverError
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.selftest_result import SelftestResult, write_result
from kofn.hardware.wheels_up import deadband_of, find_start, show
from kofn.launch import options
from kofn.launch.hw_common import Settings, State, own_limits, report_lines, settings_table, utc_now
from kofn.launch.output import emit
from kofn.launch.robot_host import state_folder

WheelWay = Literal["forward", "backward"]
STRAIGHT_M, TURNS = 1.0, 5


def selftest(
    host: Annotated[str, typer.Argument(help="Host name of the robot here.")],
    driver: Annotated[str, typer.Option(help="Name of the driver.")],
    settings: Settings = "{}",
    yes: Annotated[
        bool, typer.Option("--yes", help="Wheels are off the ground; do not ask.")
    ] = False,
    fleet: options.Fleet = "fleet",
    state: State = None,
    json: options.Json = False,
) -> None:
    """Turn each motor both ways at 20 % of the limits, wheels off the ground; keep the result."""
    folder = state or state_folder(fleet, host)
    made = make_driver(driver, MonotonicClock(), settings_table(settings))
    limits = own_limits(folder)
    _confirm(yes, "The wheels will turn. Lift the robot off the ground, then type: wheels up")
    lines = _on_the_bench(made, limits, test_robot)
    failed = [line.name for line in lines if not line.ok]
    write_result(folder, SelftestResult(ok=not failed, driver=driver, utc=utc_now(), failed=failed))
    report_lines(lines, json)


def calibrate(
    robot: Annotated[str, typer.Argument(help="Name of the robot.")],
    driver: Annotated[str, typer.Option(help="Name of the driver.")],
    folder: Annotated[Path, typer.Option(help="Folder of the calibration files.")],
    settings: Settings = "{}",
    straight: Annotated[
        float | None, typer.Option(help="Metres measured for the straight way; else asked.")
    ] = None,
    turned: Annotated[
        float | None, typer.Option(help="Turns measured for the turns to the left; else asked.")
    ] = None,
    turned_right: Annotated[
        float | None,
        typer.Option(help="The same to the right; else asked, or not driven with --turned."),
    ] = None,
    wheels_up: Annotated[
        bool, typer.Option("--wheels-up", help="Find directions and deadband, wheels in the air.")
    ] = False,
    left: Annotated[
        WheelWay | None, typer.Option(help="--wheels-up: how the left wheel turned; else asked.")
    ] = None,
    right: Annotated[WheelWay | None, typer.Option(help="The same of the right wheel.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The floor is free; do not ask.")] = False,
    json: options.Json = False,
) -> None:
    """Drive 1 m and turn 5 times each way, compare with a tape, write a new calibration.

    With --wheels-up: which way the wheels turn, and from which command on. Keeps the old file.
    """
    path = folder / f"{robot}.toml"
    stamp = f"{datetime.now(UTC):%Y-%m-%d}"
    old = (
        read_calibration(path, robot)
        if path.exists()
        else Calibration(robot=robot, driver=driver, date=stamp)
    )
    made = make_driver(driver, MonotonicClock(), settings_table(settings))
    if not made.capabilities().has_odometry:
        raise InputError(f"driver {driver!r} has no odometry as set: nothing to calibrate")
    if wheels_up:
        new, seen = _wheels_up(made, old, settings_table(settings), left, right, yes)
        _keep_calibration(
            folder, old, msgspec.structs.replace(new, driver=driver, date=stamp), seen, json
        )
        return
    _confirm(yes, "It will drive 1 m and turn on the spot. Free the floor, then type: floor free")

    async def drive(run: BenchRun) -> tuple[float, float]:
        v, w = run.limits.v_max * run.share, run.limits.w_max * run.share
        ahead = await run.move(v, 0.0, lambda way: way[0] >= STRAIGHT_M, 3 * STRAIGHT_M / v)
        whole = TURNS * math.tau
        turn = await run.move(0.0, w, lambda way: way[2] >= whole, 3 * whole / w)
        if one_way:
            return ahead[0], turn[2]
        back = await run.move(0.0, -w, lambda way: way[2] <= -whole, 3 * whole / w)
        return ahead[0], turn[2] - back[2]

    one_way = turned is not None and turned_right is None
    told_m, told_rad = _on_the_bench(made, RobotLimits(), drive, share=0.5)
    measured_m = straight if straight is not None else _ask("metres by the tape")
    turns = turned if turned is not None else _ask("turns seen to the left")
    if not one_way:
        turns += turned_right if turned_right is not None else _ask("turns seen to the right")
    new = turned_into_scales(
        old,
        told_m=told_m,
        measured_m=measured_m,
        told_rad=told_rad,
        measured_rad=math.tau * turns,
    )
    seen = {"told_m": told_m, "told_rad": told_rad}
    _keep_calibration(
        folder, old, msgspec.structs.replace(new, driver=driver, date=stamp), seen, json
    )


def _wheels_up(
    made: Driver,
    old: Calibration,
    settings: dict[str, Any],
    left: WheelWay | None,
    right: WheelWay | None,
    yes: bool,
) -> tuple[Calibration, dict[str, Any]]:
    """Turn the wheels, ask which way, find where they start; new values, and what was seen."""
    _confirm(yes, "The wheels will turn. Lift the robot off the ground, then type: wheels up")
    ahead_m, turned_rad = _on_the_bench(made, RobotLimits(), show)
    left = left or _ask_way("left")
    right = right or _ask_way("right")
    start = _on_the_bench(made, RobotLimits(), find_start)
    deadband = deadband_of(start, float(settings.get("deadband", 0.0)))
    new = msgspec.structs.replace(
        old,
        flip_left=bool(settings.get("flip_left", False)) != (left == "backward"),
        flip_right=bool(settings.get("flip_right", False)) != (right == "backward"),
        deadband=round(deadband, 3),
    )
    seen = {"ahead_m": ahead_m, "turned_rad": turned_rad, "moved_at": start.share}
    return new.checked(), seen


def _keep_calibration(
    folder: Path, old: Calibration, new: Calibration, seen: dict[str, Any], json: bool
) -> None:
    written = write_calibration(folder, new)
    names = [name for name in new.__struct_fields__ if getattr(new, name) != getattr(old, name)]
    changes = {name: [getattr(old, name), getattr(new, name)] for name in names}
    lines = [f"{name}: {before} -> {after}" for name, (before, after) in changes.items()]
    result = {"path": str(written), **seen, "changes": changes}
    emit(result, [*lines, f"written: {written}"], as_json=json)


def _confirm(yes: bool, sentence: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError("nobody is at the terminal to confirm: use --yes at the robot only")
    words = sentence.rsplit(": ", 1)[1]
    if str(typer.prompt(sentence, err=True)).strip() != words:
        raise RunError("not confirmed, nothing moved")


def _ask(what: str) -> float:
    if not sys.stdin.isatty():
        raise InputError(f"nobody is at the terminal to give the {what}: name it as an option")
    return float(typer.prompt(what, type=float, err=True))


def _ask_way(wheel: str) -> WheelWay:
    if not sys.stdin.isatty():
        raise InputError(f"nobody is here to say how the {wheel} wheel turned: use --{wheel}")
    ways: dict[str, WheelWay] = {"forward": "forward", "backward": "backward"}
    told = str(typer.prompt(f"the {wheel} wheel turned (forward, backward)", err=True)).strip()
    if told not in ways:
        raise InputError(f"{told!r} is neither forward nor backward; nothing was written")
    return ways[told]


def _on_the_bench(driver: Driver, limits: RobotLimits, work: Any, share: float = 0.2) -> Any:
    async def whole() -> Any:
        async with BenchRun(driver, MonotonicClock(), limits, share=share) as run:
            return await work(run)

    try:
        return asyncio.run(whole())
    except DriverError as error:
        raise RunError(f"{error.cause}; {error.hint}") from error
