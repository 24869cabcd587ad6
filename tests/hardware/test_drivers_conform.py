# SPDX-License-Identifier: MIT
"""Every driver of ours passes the conformance suite; drivers broken on purpose do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devices import DryRunBench, FakeCreate2, GpioBench, PtyBench, RosbridgeBench, TextBoard

from kofn.controller.link.clock import FakeClock
from kofn.hardware.conformance import DRIVER_CHECKS, Bench, Check, check_driver, run_check
from kofn.hardware.driver import Applied, DriverError, Observation
from kofn.hardware.drivers.create2 import Create2Driver
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.drivers.serial_text import SerialTextDriver
from kofn.hardware.grid import GridLayout
from kofn.sim.bodies import BodyWorld
from kofn.sim.bullet import BulletWorld
from kofn.sim.kinematic import KinematicWorld
from kofn.sim.world import FloatArray
from kofn.sim.world_driver import WorldDriver


class WorldBench(DryRunBench):
    """A robot of a simulated world; its motors are what the world was told to move it by."""

    settle_s = 0.3

    def __init__(self, world: type[BodyWorld]) -> None:
        self.clock = clock = FakeClock()
        speeds = self._speeds = [Applied(0.0, 0.0)]

        class Watched(world):  # type: ignore[valid-type,misc]
            def _move(self, v: FloatArray, w: FloatArray) -> None:
                speeds[0] = Applied(float(v[0]), float(w[0]))
                super()._move(v, w)

        self._world = Watched(1, GridLayout(columns=10, rows=10, cell_m=3.0, walls=False))
        self.driver = self._moved = WorldDriver(clock, self._world)

    async def finish(self) -> None:
        self._world.close()

    async def wait(self, duration_s: float) -> None:
        await super().wait(duration_s)
        self._moved.catch_up()

    def motors(self) -> Applied:
        return self._speeds[0]


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "dry_run": lambda _: DryRunBench(),
    "serial": lambda folder: PtyBench(folder, TextBoard, SerialTextDriver, 0.15),
    "create2": lambda folder: PtyBench(folder, FakeCreate2, Create2Driver, 0.235),
    "gpio": lambda _: GpioBench(),
    "rosbridge": lambda _: RosbridgeBench(),
    "world-kinematic": lambda _: WorldBench(KinematicWorld),
    "world-bullet": lambda _: WorldBench(BulletWorld),
}

QUICK = ("dry_run", "serial", "gpio", "world-kinematic")


@pytest.mark.parametrize("check", DRIVER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BENCHES],
)
def test_driver_conforms(name: str, check: Check, tmp_path: Path) -> None:
    run_check(check, lambda: BENCHES[name](tmp_path))


class Unclipped(DryRunDriver):
    async def drive(self, v: float, w: float) -> Applied:
        await super().drive(v, w)
        return Applied(v, w)


class TakesNan(DryRunDriver):
    async def drive(self, v: float, w: float) -> Applied:
        try:
            return await super().drive(v, w)
        except ValueError:
            return self.applied


class Runaway(DryRunDriver):
    async def open(self) -> None:
        await super().open()
        self._set(0.1, 0.0)


class StopRaises(DryRunDriver):
    async def stop(self) -> None:
        if not self._open:
            raise DriverError("not open", "open it")
        await super().stop()


class CloseDrivesOn(DryRunDriver):
    async def close(self) -> None:
        self._open = False


class Mirrored(DryRunDriver):
    async def read(self) -> Observation:
        seen = await super().read()
        return seen._replace(dyaw_rad=-seen.dyaw_rad)


class Backwards(DryRunDriver):
    async def read(self) -> Observation:
        seen = await super().read()
        return seen._replace(dx_m=-seen.dx_m)


class OpensTwice(DryRunDriver):
    async def open(self) -> None:
        self._open = False
        await super().open()


class OtherError(DryRunDriver):
    async def read(self) -> Observation:
        if not self._open:
            raise OSError("closed")
        return await super().read()


class LeavesThread(DryRunDriver):
    async def open(self) -> None:
        import threading

        self.end = threading.Event()
        threading.Thread(target=self.end.wait, args=(1.0,)).start()
        await super().open()


BROKEN: list[tuple[type[DryRunDriver], str]] = [
    (Unclipped, "drive_beyond_limits_returns_what_is_applied"),
    (TakesNan, "speed_that_is_no_number_is_refused"),
    (Runaway, "open_leaves_motors_stopped"),
    (StopRaises, "stop_is_legal_in_every_state"),
    (CloseDrivesOn, "close_stops_and_open_works_again"),
    (Mirrored, "odometry_is_positive_forward_and_to_the_left"),
    (Backwards, "odometry_is_positive_forward_and_to_the_left"),
    (OpensTwice, "second_open_is_refused"),
    (OtherError, "drive_and_read_before_open_are_driver_errors"),
    (LeavesThread, "open_leaves_motors_stopped"),
]


@pytest.mark.parametrize(
    ("broken", "check"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_suite_finds_a_driver_broken_on_purpose(broken: type[Any], check: str) -> None:
    failed = check_driver(lambda: DryRunBench(broken))
    assert any(line.startswith(f"{check}:") for line in failed), failed
