# SPDX-License-Identifier: MIT
"""The control loop and dead-man of one robot, on a fake clock; and the bank in its own thread."""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import FakeClock, MonotonicClock
from kofn.controller.link.hostlog import Header, HostLog, Poses, read_host_log
from kofn.hardware.driver import HOLD, Applied, DriverError, Observation
from kofn.hardware.driver_bank import DriverBank, pose_in_zone
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.option import OptionController
from kofn.hardware.ring import RingLayout, zone_of
from kofn.hardware.robot_loop import RobotLoop
from kofn.hardware.safety import Limits

LAYOUT = RingLayout()
D = TypeVar("D", bound=DryRunDriver)


class Stage(Generic[D]):
    """A robot loop on a fake clock that is ticked by hand."""

    def __init__(self, driver: D, clock: FakeClock, zone: int = 0) -> None:
        self.driver, self.clock = driver, clock
        self.loop = RobotLoop(
            driver,
            OptionController(LAYOUT, 1, np.random.default_rng(0)),
            start=pose_in_zone(LAYOUT, zone),
            clock=clock,
            limits=Limits(0.4, 3.0),
        )

    async def pass_time(self, duration_s: float, *, beat: bool = True) -> None:
        for _ in range(round(duration_s * 10)):
            self.clock.advance_to(self.clock.now() + 0.1)
            if beat:
                self.loop.beat()
            await self.loop.tick()
            await self.loop.watch()

    @property
    def zone(self) -> int:
        return int(zone_of(LAYOUT, np.array([self.loop.pose]))[0])

    def turning(self) -> bool:
        return self.driver.applied != Applied(0.0, 0.0)


def play(script: Callable[[Stage[D]], Awaitable[None]], driver_class: type[D]) -> None:
    async def whole() -> None:
        clock = FakeClock()
        stage = Stage(driver_class(clock), clock)
        await stage.loop.open()
        await script(stage)

    asyncio.run(whole())


@pytest.mark.parametrize(("action", "zone"), [(1, 1), (2, 4), (0, 0)])
def test_an_option_brings_the_robot_to_its_zone(action: int, zone: int) -> None:
    async def script(stage: Stage[DryRunDriver]) -> None:
        for _ in range(2):  # a move may take more than one option; 0 and 5 are the same place
            stage.loop.give(action, stage.clock.now() + 6.0)
            await stage.pass_time(6.0)
            if stage.zone == zone:
                break
        assert stage.zone == zone

    play(script, DryRunDriver)


def test_nothing_moves_before_an_order_and_after_its_end() -> None:
    async def script(stage: Stage[DryRunDriver]) -> None:
        await stage.pass_time(1.0)
        assert not stage.turning()
        stage.loop.give(1, stage.clock.now() + 2.0)
        await stage.pass_time(1.0)
        assert stage.turning()
        await stage.pass_time(1.0)
        assert not stage.turning()
        assert not stage.loop.under_way

    play(script, DryRunDriver)


class Blocking(DryRunDriver):
    """Its reads block for ever once it is stuck."""

    stuck = False

    async def read(self) -> Observation:
        if self.stuck:
            await asyncio.Event().wait()
        return await super().read()


@pytest.mark.parametrize("way", ["hold", "give HOLD"])
def test_hold_stops_without_waiting_for_a_read(way: str) -> None:
    async def script(stage: Stage[Blocking]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(1.0)
        assert stage.turning()
        if way == "hold":
            stage.loop.hold()
        else:
            stage.loop.give(HOLD, stage.clock.now() + 6.0)
        stage.driver.stuck = True
        tick = asyncio.create_task(stage.loop.tick())
        await asyncio.sleep(0)
        assert not stage.turning()
        tick.cancel()

    play(script, Blocking)


def test_hold_that_comes_while_a_command_is_on_its_way_stops_at_once() -> None:
    class Late(DryRunDriver):
        interrupt: Callable[[], None] | None = None

        async def drive(self, v: float, w: float) -> Applied:
            applied = await super().drive(v, w)
            if self.interrupt is not None:
                self.interrupt()
            return applied

    async def script(stage: Stage[Late]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(1.0)
        stage.driver.interrupt = stage.loop.hold
        stage.loop.beat()
        await stage.loop.tick()
        assert not stage.turning()

    play(script, Late)


def test_a_tick_does_not_drive_for_a_silent_giver() -> None:
    async def script(stage: Stage[DryRunDriver]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        stage.clock.advance_to(0.6)
        await stage.loop.tick()
        assert not stage.turning()
        assert stage.loop.deadman_stops == 1

    play(script, DryRunDriver)


def test_run_stops_the_robot_before_it_closes_the_driver() -> None:
    class Careless(DryRunDriver):
        calls: tuple[str, ...] = ()

        async def drive(self, v: float, w: float) -> Applied:
            self.calls = (*self.calls, "drive")
            return await super().drive(v, w)

        async def stop(self) -> None:
            self.calls = (*self.calls, "stop")
            await super().stop()

        async def close(self) -> None:
            self.calls = (*self.calls, "close")

    async def script(stage: Stage[Careless]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        running = asyncio.create_task(stage.loop.run())
        for _ in range(20):
            await asyncio.sleep(0)
        assert stage.turning()
        stage.loop.finish()
        await running
        assert stage.driver.calls[-2:] == ("stop", "close")

    play(script, Careless)


def test_a_silent_giver_stops_the_robot_within_deadman_and_a_beat_does_not_start_it() -> None:
    async def script(stage: Stage[DryRunDriver]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(0.4, beat=False)
        assert stage.turning()
        stage.clock.advance_to(stage.clock.now() + 0.101)
        await stage.loop.watch()
        assert not stage.turning()
        assert stage.loop.deadman_stops == 1
        await stage.pass_time(1.0)
        assert not stage.turning()
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(0.2)
        assert stage.turning()

    play(script, DryRunDriver)


def test_a_read_that_never_returns_ends_in_a_stop_by_the_dead_man() -> None:
    async def script(stage: Stage[Blocking]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(0.5)
        stage.driver.stuck = True
        tick = asyncio.create_task(stage.loop.tick())
        for _ in range(4):
            await asyncio.sleep(0)
            stage.loop.beat()
            stage.clock.advance_to(stage.clock.now() + 0.1)
            await stage.loop.watch()
        assert stage.turning()
        stage.clock.advance_to(stage.clock.now() + 0.101)
        await stage.loop.watch()
        assert not stage.turning()
        tick.cancel()

    play(script, Blocking)


def test_a_driver_error_stops_the_robot_for_good_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unplugged(DryRunDriver):
        gone = False

        async def read(self) -> Observation:
            if self.gone:
                raise DriverError("the port is gone", "is the cable plugged in?")
            return await super().read()

    async def script(stage: Stage[Unplugged]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(1.0)
        stage.driver.gone = True
        await stage.pass_time(1.0)
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(1.0)
        assert not stage.turning()
        assert not stage.loop.well
        assert stage.loop.fault == "the port is gone (is the cable plugged in?)"

    with caplog.at_level(logging.ERROR):
        play(script, Unplugged)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("sense", ["bumper", "estop_input", "faults"])
def test_a_stop_input_ends_the_order_and_only_a_new_one_moves_again(sense: str) -> None:
    class Sensing(DryRunDriver):
        pressed = False

        async def read(self) -> Observation:
            seen = await super().read()
            if not self.pressed:
                return seen
            return seen._replace(
                bumper=sense == "bumper",
                estop_input=sense == "estop_input",
                faults=("tilt",) if sense == "faults" else (),
            )

    async def script(stage: Stage[Sensing]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(1.0)
        stage.driver.pressed = True
        await stage.pass_time(0.1)
        assert not stage.turning()
        assert stage.loop.well == (sense == "bumper")
        safety = stage.loop.safety
        leave = {"estop_input": safety.release, "faults": safety.clear}.get(sense)
        if leave is not None:
            assert leave(0) != []  # not while the cause is there
        stage.driver.pressed = False
        await stage.pass_time(1.0)
        assert not stage.turning()
        if leave is not None:
            assert not stage.loop.well
            assert leave(0) == []
            assert not stage.loop.well  # never straight to ARMED
            assert safety.arm(0) == []
        assert stage.loop.well
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(0.2)
        assert stage.turning()

    play(script, Sensing)


def test_a_stop_that_raises_is_tried_again_by_the_dead_man() -> None:
    class Stubborn(DryRunDriver):
        refusals = 2

        async def stop(self) -> None:
            if self.refusals:
                self.refusals -= 1
                raise OSError("busy")
            await super().stop()

    async def script(stage: Stage[Stubborn]) -> None:
        stage.loop.give(1, stage.clock.now() + 1.0)
        await stage.pass_time(2.0)
        assert not stage.turning()

    play(script, Stubborn)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"deadman_s": 0.0}, r"deadman_s = 0.0 s must lie in 0.1..2 s"),
        ({"deadman_s": 3.0}, r"deadman_s = 3.0 s"),
        ({"rate_hz": 1.0}, "rate_hz = 1.0 must be above 2"),
        ({"start": (math.nan, 0.0, 0.0)}, "must be finite"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    clock = FakeClock()
    with pytest.raises(InputError, match=sentence):
        DriverBank(DryRunDriver(clock), robot="hw-0", layout=LAYOUT, clock=clock, **settings)


def until(condition: Callable[[], bool], wall_s: float = 5.0) -> bool:
    end = time.monotonic() + wall_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.001)
    return False


def make_bank(
    clock: MonotonicClock,
    driver: DryRunDriver | None = None,
    log: HostLog | None = None,
) -> tuple[DriverBank, DryRunDriver]:
    driver = driver if driver is not None else DryRunDriver(clock)
    bank = DriverBank(
        driver, robot="hw-0", layout=LAYOUT, clock=clock, deadman_s=2.0, log=log, host="hw"
    )
    return bank, driver


def carry_out(bank: DriverBank, driver: DryRunDriver) -> None:
    first = bank.read()
    assert (first.zones.tolist(), first.up.tolist()) == ([0], [True])
    bank.apply(np.array([1]))
    assert until(lambda: bank.advance() and driver.applied.v > 0)
    assert until(lambda: not bank.advance())
    assert until(lambda: driver.applied == Applied(0.0, 0.0))
    assert driver.commands[-1].stamp_s > driver.commands[0].stamp_s + 4.0


def test_bank_carries_an_option_out_and_leaves_no_thread_behind(tmp_path: Path) -> None:
    clock = MonotonicClock(speed=10.0)
    before = threading.active_count()
    path = tmp_path / "hw.jsonl"
    with HostLog(path) as log:
        bank, driver = make_bank(clock, log=log)
        with contextlib.closing(bank):
            bank.open()
            carry_out(bank, driver)
        bank.close()
    assert threading.active_count() == before
    rows = list(read_host_log(path))
    assert isinstance(rows[0], Header)
    assert rows[0].backend == "dry_run"
    assert sum(isinstance(row, Poses) for row in rows) > 10


def test_bank_stops_when_its_agent_falls_silent() -> None:
    bank, driver = make_bank(MonotonicClock(speed=10.0))
    bank.open()
    try:
        bank.apply(np.array([1]))
        assert until(lambda: driver.applied.v > 0)
        assert until(lambda: driver.applied == Applied(0.0, 0.0), 2.0)  # no advance: no beat
        assert bank.deadman_stops == 1
        assert not bank.advance()
    finally:
        bank.close()


def test_close_in_mid_option_stops_the_motors() -> None:
    bank, driver = make_bank(MonotonicClock(speed=5.0))
    with contextlib.closing(bank):
        bank.open()
        bank.apply(np.array([2]))
        assert until(lambda: bank.advance() and driver.applied.v > 0)
    assert driver.applied == Applied(0.0, 0.0)
    bank.hold()  # legal afterwards


def test_close_that_follows_a_hold_at_once_ends_the_thread() -> None:
    before = threading.active_count()
    for _ in range(20):
        bank, _ = make_bank(MonotonicClock())
        with contextlib.closing(bank):
            bank.open()
            bank.hold()
    assert threading.active_count() == before


def test_driver_that_does_not_open_is_one_sentence_and_leaves_no_thread() -> None:
    class Absent(DryRunDriver):
        async def open(self) -> None:
            raise DriverError("no device at /dev/ttyUSB0", "is it plugged in?")

    before = threading.active_count()
    clock = MonotonicClock()
    bank, _ = make_bank(clock, Absent(clock))
    with pytest.raises(RunError, match=r"did not open: no device .* \(is it plugged in\?\)"):
        bank.open()
    assert threading.active_count() == before


def test_broken_driver_makes_its_robot_unavailable() -> None:
    class Dying(DryRunDriver):
        reads = 0

        async def read(self) -> Observation:
            self.reads += 1
            if self.reads > 3:
                raise DriverError("the port is gone", "is the cable plugged in?")
            return await super().read()

    clock = MonotonicClock(speed=10.0)
    bank, driver = make_bank(clock, Dying(clock))
    bank.open()
    try:
        assert until(lambda: bank.fault is not None)
        assert bank.read().up.tolist() == [False]
        bank.apply(np.array([1]))
        assert not bank.advance()
        assert driver.applied == Applied(0.0, 0.0)
    finally:
        bank.close()


def test_failure_while_closing_is_logged_and_does_not_escape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Sticky(DryRunDriver):
        async def close(self) -> None:
            await super().close()
            raise ExceptionGroup("closing", [OSError("port stays busy")])

    clock = MonotonicClock()
    bank, driver = make_bank(clock, Sticky(clock))
    bank.open()
    with caplog.at_level(logging.ERROR):
        bank.close()
    assert "port stays busy" in caplog.text
    assert driver.applied == Applied(0.0, 0.0)


def test_a_robot_that_is_told_to_wait_turns_but_does_not_go_ahead_until_it_may() -> None:
    async def script(stage: Stage[DryRunDriver]) -> None:
        stage.loop.give(1, stage.clock.now() + 6.0)
        await stage.pass_time(2.0)
        stage.loop.fix(stage.loop.pose, 0.0, True)
        await stage.pass_time(0.2)  # the command before is still acted out
        there = stage.loop.pose
        await stage.pass_time(1.0)
        assert stage.loop.pose[:2] == there[:2]
        assert stage.driver.applied.v == 0.0
        stage.loop.fix(stage.loop.pose, 0.0)
        await stage.pass_time(1.0)
        assert stage.loop.pose[:2] != there[:2]

    play(script, DryRunDriver)
