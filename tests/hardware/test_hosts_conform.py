# SPDX-License-Identifier: MIT
"""Hosts with each driver of ours, in real time: the safety table, emergency stops everywhere."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from devices import DryRunBench, FakeCreate2, GpioBench, PtyBench, RosbridgeBench, TextBoard

from kofn.controller.link.clock import MonotonicClock
from kofn.hardware.conformance import Bench
from kofn.hardware.conformance_host import (
    ESTOP_STATES,
    HOST_CHECKS,
    HostCheck,
    Stage,
    check_estop,
    run_host_check,
)
from kofn.hardware.driver import Observation
from kofn.hardware.drivers.create2 import Create2Driver
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.drivers.serial_text import SerialTextDriver

BENCHES: dict[str, Callable[[Path], Bench]] = {
    "dry_run": lambda _: DryRunBench(clock=MonotonicClock()),
    "serial": lambda folder: PtyBench(folder, TextBoard, SerialTextDriver, 0.15),
    "create2": lambda folder: PtyBench(folder, FakeCreate2, Create2Driver, 0.235),
    "gpio": lambda _: GpioBench(),
    "rosbridge": lambda _: RosbridgeBench(),
}
ALL = [name if name == "serial" else pytest.param(name, marks=pytest.mark.slow) for name in BENCHES]


@pytest.mark.parametrize("check", HOST_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", ALL)
def test_host_conforms(name: str, check: HostCheck, tmp_path: Path) -> None:
    run_host_check(check, lambda: BENCHES[name](tmp_path), tmp_path / "state")


# A connected robot goes through real restarts in `test_estop_restarts`.
STATES = [
    pytest.param(state, marks=pytest.mark.slow) if state in {"connected", "disarmed"} else state
    for state in ESTOP_STATES
]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("way", ["halt", pytest.param("local", marks=pytest.mark.slow)])
def test_emergency_stop_in_every_state_stops_and_outlives_restarts(
    name: str, state: str, way: str, tmp_path: Path
) -> None:
    with Stage(lambda: BENCHES[name](tmp_path), tmp_path / "state") as stage:
        check_estop(stage, state, way)


class LateOnce(DryRunDriver):
    """A board that answers one question after the dead-man's time."""

    late = False

    async def read(self) -> Observation:
        if self.late:
            self.late = False
            await asyncio.sleep(0.5)
        return await super().read()


def test_a_device_that_answers_after_the_dead_man_moves_on_the_next_step_only(
    tmp_path: Path,
) -> None:
    bench = DryRunBench(LateOnce, MonotonicClock())
    with Stage(lambda: bench, tmp_path / "state") as stage:
        stage.arm()
        bench.driver.late = True  # type: ignore[attr-defined]
        stage.start_moving()
        assert stage.safety.counts["deadman"] == 1
