# SPDX-License-Identifier: MIT
"""The dry-run driver keeps the contract of `Driver`; drivers are found by name."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock
from kofn.hardware.driver import Applied, DriverError
from kofn.hardware.drivers import registry
from kofn.hardware.drivers.dry_run import DryRunDriver

Script = Callable[[DryRunDriver, FakeClock], Coroutine[Any, Any, None]]


def play(script: Script, *, record: int = 10_000) -> DryRunDriver:
    clock = FakeClock()
    driver = DryRunDriver(clock, record=record)
    asyncio.run(script(driver, clock))
    return driver


def test_capabilities_are_known_before_open() -> None:
    known = DryRunDriver(FakeClock()).capabilities()
    assert (known.kind, known.v_max, known.w_max, known.has_odometry) == ("dry_run", 0.4, 3.0, True)


def test_open_leaves_motors_stopped_and_a_second_open_is_refused() -> None:
    async def script(driver: DryRunDriver, _: FakeClock) -> None:
        await driver.open()
        assert driver.applied == Applied(0.0, 0.0)
        with pytest.raises(DriverError, match="open already"):
            await driver.open()

    play(script)


def test_drive_returns_what_was_applied_after_clipping() -> None:
    async def script(driver: DryRunDriver, _: FakeClock) -> None:
        await driver.open()
        assert await driver.drive(9.0, -9.0) == Applied(0.4, -3.0)
        assert await driver.drive(0.1, 0.2) == Applied(0.1, 0.2)

    assert [(c.v, c.w) for c in play(script).commands] == [(0, 0), (0.4, -3.0), (0.1, 0.2)]


@pytest.mark.parametrize("bad", [(math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0)])
def test_speed_that_is_no_number_is_refused_and_changes_nothing(bad: tuple[float, float]) -> None:
    async def script(driver: DryRunDriver, _: FakeClock) -> None:
        await driver.open()
        await driver.drive(0.1, 0.0)
        with pytest.raises(ValueError, match="must be finite"):
            await driver.drive(*bad)
        assert driver.applied == Applied(0.1, 0.0)

    play(script)


def test_stop_is_legal_before_open_twice_and_after_close() -> None:
    async def script(driver: DryRunDriver, _: FakeClock) -> None:
        await driver.stop()
        await driver.open()
        await driver.drive(0.3, 0.0)
        await driver.stop()
        await driver.stop()
        assert driver.applied == Applied(0.0, 0.0)
        await driver.close()
        await driver.stop()

    play(script)


def test_close_stops_is_idempotent_and_open_works_again() -> None:
    async def script(driver: DryRunDriver, clock: FakeClock) -> None:
        await driver.open()
        await driver.drive(0.3, 0.0)
        await driver.close()
        await driver.close()
        assert driver.applied == Applied(0.0, 0.0)
        with pytest.raises(DriverError, match="not open"):
            await driver.drive(0.1, 0.0)
        with pytest.raises(DriverError, match="not open"):
            await driver.read()
        clock.advance_to(5.0)
        await driver.open()
        assert (await driver.read())[:3] == (0.0, 0.0, 0.0)

    play(script)


def test_odometry_is_positive_forward_and_to_the_left() -> None:
    async def script(driver: DryRunDriver, clock: FakeClock) -> None:
        await driver.open()
        await driver.drive(0.2, 0.0)
        clock.advance_to(2.0)
        assert (await driver.read())[:3] == pytest.approx((0.4, 0.0, 0.0))
        await driver.drive(0.2, math.pi / 4)
        clock.advance_to(4.0)  # a quarter of a circle of radius v / w to the left
        radius = 0.2 / (math.pi / 4)
        assert (await driver.read())[:3] == pytest.approx((radius, radius, math.pi / 2))

    play(script)


@given(parts=st.lists(st.tuples(st.floats(-0.4, 0.4), st.floats(-3, 3)), min_size=1, max_size=6))
def test_reading_often_and_once_give_the_same_pose(parts: list[tuple[float, float]]) -> None:
    poses = []
    for reads in (1, 3):

        async def script(driver: DryRunDriver, clock: FakeClock, reads: int = reads) -> None:
            x = y = yaw = 0.0
            await driver.open()
            for i, (v, w) in enumerate(parts):
                await driver.drive(v, w)
                for j in range(reads):
                    clock.advance_to(i + (j + 1) / reads)
                    seen = await driver.read()
                    x += seen.dx_m * math.cos(yaw) - seen.dy_m * math.sin(yaw)
                    y += seen.dx_m * math.sin(yaw) + seen.dy_m * math.cos(yaw)
                    yaw += seen.dyaw_rad
            poses.append((x, y, yaw))

        play(script)
    assert poses[0] == pytest.approx(poses[1], abs=1e-6)


def test_record_of_commands_is_bounded() -> None:
    async def script(driver: DryRunDriver, _: FakeClock) -> None:
        await driver.open()
        for i in range(50):
            await driver.drive(0.001 * i, 0.0)

    assert len(play(script, record=10).commands) == 10


@pytest.fixture
def _entries(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "kofn.hardware.drivers.dry_run"
    entries = [
        EntryPoint("dry_run", f"{here}:DryRunDriver", registry.GROUP),
        EntryPoint("broken", f"{here}:Missing", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)


@pytest.mark.usefixtures("_entries")
def test_driver_is_made_by_name_with_its_settings() -> None:
    driver = registry.make_driver("dry_run", FakeClock(), {"v_max_mps": 0.2})
    assert driver.capabilities().v_max == 0.2


@pytest.mark.usefixtures("_entries")
@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("roomba", {}, "no driver is called 'roomba'; installed drivers: broken, dry_run"),
        ("dry_run", {"speed": 1}, "driver 'dry_run': got an unexpected keyword argument 'speed'"),
        ("broken", {}, "cannot be loaded"),
    ],
)
def test_wrong_name_or_setting_is_one_sentence(
    name: str, settings: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        registry.make_driver(name, FakeClock(), settings)


def test_dry_run_is_installed() -> None:
    assert "dry_run" in registry.driver_names()
