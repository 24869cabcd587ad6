# SPDX-License-Identifier: MIT
"""The safety table, row by row: what stops a robot, and that nothing on a wire starts one."""

import ast
import asyncio
import inspect
import json
import math
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock
from kofn.hardware import black_box, motor_gate
from kofn.hardware.black_box import BlackBox, read_black_box
from kofn.hardware.driver import Applied, Observation
from kofn.hardware.driver_bank import pose_in_zone
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.geofence import Fence
from kofn.hardware.limits_file import Battery, RobotLimits, read_limits
from kofn.hardware.motor_gate import MotorGate
from kofn.hardware.option import OptionController
from kofn.hardware.ring import RingLayout
from kofn.hardware.robot_loop import RobotLoop
from kofn.hardware.safety import Limits
from kofn.hardware.safety_memory import FILE, SafetyMemory
from kofn.hardware.safety_states import Event, Mode
from kofn.hardware.safety_task import Safety, SafetySettings
from kofn.hardware.separation import must_wait

LAYOUT = RingLayout()
HARDWARE = Path(inspect.getfile(motor_gate)).parent


class Robot(DryRunDriver):
    """Has motors as far as its safety knows, and senses what a test says."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.sense: dict[str, Any] = {}

    async def read(self) -> Observation:
        return (await super().read())._replace(**self.sense)


class Bench:
    """A robot loop on a fake clock, ticked by hand; DISARMED after `boot`."""

    def __init__(
        self,
        *,
        memory: SafetyMemory | None = None,
        record: BlackBox | None = None,
        **loop: Any,
    ) -> None:
        self.clock = FakeClock()
        self.driver = Robot(self.clock)
        self.safety = Safety(("r0",), self.clock, memory=memory, record=record)
        self.loop = RobotLoop(
            self.driver,
            OptionController(LAYOUT, 1, np.random.default_rng(0)),
            start=pose_in_zone(LAYOUT, 0),
            clock=self.clock,
            limits=Limits(0.4, 3.0),
            safety=self.safety,
            **loop,
        )

    async def boot(self, *, arm: bool = True) -> None:
        await self.loop.open()
        if arm:
            assert self.safety.arm() == []

    async def go(self, duration_s: float = 1.0, *, beat: bool = True) -> None:
        for _ in range(round(duration_s * 10)):
            self.clock.advance_to(self.clock.now() + 0.1)
            if beat:
                self.loop.beat()
            await self.loop.tick()
            await self.loop.watch()

    async def start(self) -> None:
        """Act on a new step, and see that the robot moves."""
        self.loop.give(1, self.clock.now() + 6.0)
        await self.go(0.5)
        assert self.moving()

    def moving(self) -> bool:
        return self.driver.applied != Applied(0.0, 0.0)


def play(script: Callable[[Bench], Coroutine[Any, Any, None]], **bench: Any) -> None:
    asyncio.run(script(Bench(**bench)))


def test_row_1_dead_man_stops_motors_and_a_third_time_within_a_minute_is_a_fault() -> None:
    async def script(bench: Bench) -> None:
        await bench.boot()
        for time in range(3):
            await bench.start()
            await bench.go(0.6, beat=False)
            assert not bench.moving()
            await bench.go(0.5)  # a beat alone starts nothing
            assert not bench.moving()
            assert bench.safety.mode() is (Mode.ARMED if time < 2 else Mode.FAULT)

    play(script)


@pytest.mark.parametrize(("silence_s", "mode"), [(1.9, Mode.ARMED), (2.1, None), (61.0, None)])
def test_row_1_link_timer_holds_and_after_a_minute_disarms(
    silence_s: float, mode: Mode | None
) -> None:
    async def script(bench: Bench) -> None:
        await bench.boot()
        await bench.start()
        bench.safety.see_link(silence_s)
        await bench.go(0.1)
        assert bench.moving() == (mode is Mode.ARMED)
        assert bench.safety.mode() is (Mode.DISARMED if silence_s > 60 else Mode.ARMED)
        bench.safety.see_link(0.0)
        await bench.go(0.5)
        assert bench.moving() == (mode is Mode.ARMED)  # the link alone starts nothing

    play(script)


def test_row_1_dead_man_has_no_zero() -> None:
    for wrong in (0.0, 0.05, 2.5, math.nan, math.inf):
        with pytest.raises(InputError, match=r"deadman_s = .* must lie in 0.1..2 s"):
            SafetySettings(deadman_s=wrong).checked()


def test_row_3_an_emergency_stop_outlives_a_restart_until_epoch_and_operator_release_it(
    tmp_path: Path,
) -> None:
    async def before(bench: Bench) -> None:
        bench.safety.see_epoch(4)
        await bench.boot()
        await bench.start()
        assert bench.safety.see_halt(4, "operator", "a child on the field", live=True)
        await bench.go(0.1)
        assert not bench.moving()

    async def after(bench: Bench) -> None:
        await bench.boot(arm=False)
        assert bench.safety.mode() is Mode.ESTOP
        assert "a child on the field" in bench.safety.why()
        assert any("halt forbids epochs up to 4" in why for why in bench.safety.release())
        bench.safety.see_epoch(5)
        assert bench.safety.mode() is Mode.ESTOP  # an epoch alone releases nothing
        assert bench.safety.arm() != []
        assert bench.safety.release() == []
        assert bench.safety.mode() is Mode.DISARMED
        assert bench.safety.arm() == []
        await bench.start()
        # The controller repeats the halt to a broker that lost it: it is known and over.
        assert not bench.safety.see_halt(4, "operator", "", live=True)
        await bench.go(0.2)
        assert bench.moving()

    play(before, memory=SafetyMemory(tmp_path))
    play(after, memory=SafetyMemory(tmp_path))


def test_row_3_memory_that_cannot_be_read_counts_as_an_emergency_stop(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"epoch": 3, "halt_')

    async def script(bench: Bench) -> None:
        await bench.boot(arm=False)
        assert bench.safety.mode() is Mode.ESTOP
        assert "cannot be read" in bench.safety.why()

    play(script, memory=SafetyMemory(tmp_path))


def test_row_3_an_unknown_halt_of_an_older_epoch_stops_when_it_is_live_only() -> None:
    async def script(bench: Bench) -> None:
        bench.safety.see_epoch(7)
        await bench.boot()
        await bench.start()
        assert not bench.safety.see_halt(3, "operator", "", live=False)
        await bench.go(0.1)
        assert bench.moving()
        assert bench.safety.see_halt(3, "operator", "", live=True)
        await bench.go(0.1)
        assert not bench.moving()

    play(script)


def test_row_4_wired_stop_is_an_emergency_stop_and_a_bumper_ends_the_option() -> None:
    async def script(bench: Bench) -> None:
        await bench.boot()
        await bench.start()
        bench.driver.sense = {"bumper": True}
        await bench.go(0.2)
        assert not bench.moving()
        assert bench.safety.mode() is Mode.ARMED
        bench.driver.sense = {}
        await bench.start()
        bench.driver.sense = {"estop_input": True}
        await bench.go(0.1)
        assert not bench.moving()
        assert bench.safety.mode() is Mode.ESTOP
        assert any("stop input" in why for why in bench.safety.release())

    play(script)


def test_row_5_a_robot_boots_disarmed_and_steps_do_not_move_it() -> None:
    async def script(bench: Bench) -> None:
        await bench.boot(arm=False)
        for _ in range(3):
            bench.loop.give(1, bench.clock.now() + 6.0)
            await bench.go(1.0)
            assert not bench.moving()
        assert not bench.loop.well
        assert bench.safety.arm() == []
        await bench.go(1.0)
        assert not bench.moving()  # nor does arming: it takes a step from afterwards
        await bench.start()

    play(script)


@pytest.mark.parametrize(
    ("hinder", "sentence"),
    [
        (lambda b: b.clock.advance_to(5.0), "no pose younger than 1 s"),
        (lambda b: b.safety.see_battery(0, ok=False), "the battery is low"),
        (lambda b: b.safety.see_stop_input(0, pressed=True), "its stop input is pressed"),
        (
            lambda b: b.safety.see_halt(9, "operator", "", live=True),
            "a halt forbids epochs up to 9",
        ),
    ],
)
def test_row_5_each_missing_condition_of_arming_is_named(
    hinder: Callable[[Bench], Any], sentence: str
) -> None:
    async def script(bench: Bench) -> None:
        await bench.boot(arm=False)
        hinder(bench)
        assert any(sentence in why for why in bench.safety.arm())
        assert bench.safety.mode() is not Mode.ARMED

    play(script)


def test_row_5_arming_ends_by_itself() -> None:
    async def script(bench: Bench) -> None:
        await bench.boot(arm=False)
        assert bench.safety.arm(for_s=2.0) == []
        await bench.start()
        await bench.go(2.0)
        assert not bench.moving()
        assert bench.safety.mode() is Mode.DISARMED

    play(script)


@given(
    v=st.floats(allow_nan=True),
    w=st.floats(allow_nan=True),
    before=st.floats(-0.4, 0.4),
    accel=st.floats(0.01, 5.0),
)
def test_row_6_no_command_passes_the_limits_of_the_robots_own_file(
    v: float, w: float, before: float, accel: float
) -> None:
    own = RobotLimits(v=0.3, w=1.0, accel=accel)
    raised = own.lowered(RobotLimits(v=9.0, w=9.0, accel=99.0))
    assert (raised.v, raised.w, raised.accel) == (0.3, 1.0, accel)

    async def script() -> None:
        clock = FakeClock()
        driver = DryRunDriver(clock)
        await driver.open()
        safety = Safety(("r0",), clock, self_arming=True)
        safety.self_check()
        gate = MotorGate(driver, raised.capped(0.4, 3.0), safety, clock)
        speed = 0.0
        for wanted in (before, v):
            safety.step()
            clock.advance_to(clock.now() + 0.1)
            applied = await gate.drive(wanted, w)
            assert abs(applied.v) <= min(0.3, abs(speed) + accel * 0.5 + 1e-9)
            assert abs(applied.w) <= 1.0
            speed = applied.v

    asyncio.run(script())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v = -1", "limit v = -1.0 must be at least 0"),
        ("speed = 1", "unknown field `speed`"),
        ("v = ", "is not TOML"),
        ("schema = 2", "schema 2 is not 1"),
        ("geofence = [[0, 0], [1, 1]]", "geofence needs at least 3 corners"),
        ("battery_v = { warn = 3.0, critical = 3.3 }", "critical = 3.3 <= warn = 3.0 must hold"),
    ],
)
def test_row_6_bad_limits_file_is_one_sentence_and_the_robot_stays_in_fault(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as trouble:
        read_limits(path)

    async def script(bench: Bench) -> None:
        await bench.boot(arm=False)
        assert bench.safety.mode() is Mode.FAULT
        assert bench.safety.clear() != []
        assert bench.safety.arm() != []

    play(script, trouble=str(trouble.value))


SQUARE = [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)]


@pytest.mark.parametrize(
    ("point", "allowed"),
    [
        ((0.5, 0.5), True),
        ((2.0, 1.0), False),  # on the edge
        ((0.0, 0.0), False),
        ((2.0000001, 1.0), False),
        ((1.5, 1.5), False),  # in the keep-out
        ((1.2, 1.5), False),  # on its edge
        ((1.1, 1.5), True),
        ((math.nan, 1.0), False),
    ],
)
def test_row_7_fence_and_keep_out_at_their_borders(
    point: tuple[float, float], allowed: bool
) -> None:
    fence = Fence(SQUARE, [[(1.2, 1.2), (1.8, 1.2), (1.8, 1.8), (1.2, 1.8)]])
    assert fence.allows(np.array([point]))[0] == allowed


def test_row_7_a_robot_outside_stops_and_creeps_home_on_request_only() -> None:
    box = [(-1.5, -0.25), (1.9, -0.25), (1.9, 1.0), (-1.5, 1.0)]

    async def script(bench: Bench) -> None:
        await bench.boot()
        bench.loop.give(1, bench.clock.now() + 6.0)
        await bench.go(6.0)
        assert not bench.moving()
        assert bench.safety.state.fenced[0]
        outside = bench.loop.pose
        bench.loop.give(2, bench.clock.now() + 6.0)  # a step does not move it
        await bench.go(2.0)
        assert bench.loop.pose == outside
        assert not bench.loop.well
        assert bench.loop.creep_home(bench.clock.now() + 6.0)
        await bench.go(0.3)
        assert bench.moving()
        assert abs(bench.driver.applied.v) <= 0.1 + 1e-9
        await bench.go(5.0)
        assert not bench.moving()
        assert Fence(box).allows(np.array([bench.loop.pose[:2]]))[0]
        bench.loop.give(2, bench.clock.now() + 6.0)
        await bench.go(0.2)
        assert bench.moving()

    play(script, fence=Fence(box))


def test_row_8_a_stale_pose_holds_until_a_fix_and_a_new_step() -> None:
    async def script(bench: Bench) -> None:
        await bench.loop.open()
        bench.loop.fix(pose_in_zone(LAYOUT, 0), 0.0)
        assert bench.safety.arm() == []
        await bench.start()
        await bench.go(1.0)
        assert not bench.moving()
        bench.loop.fix(bench.loop.pose, 0.0)
        await bench.go(0.5)
        assert not bench.moving()
        bench.loop.fix(bench.loop.pose, 0.0)
        await bench.start()

    play(script, localised=True)


def test_row_10_low_battery_ends_work_after_the_option_and_critical_is_a_fault() -> None:
    async def script(bench: Bench) -> None:
        bench.driver.sense = {"battery_v": 3.7}
        await bench.boot()
        await bench.start()
        bench.driver.sense = {"battery_v": 3.45}
        await bench.go(0.5)
        assert bench.moving()  # the option under way is the last one
        assert not bench.loop.well
        bench.driver.sense = {"battery_v": 3.3}
        await bench.go(0.1)
        assert not bench.moving()
        assert bench.safety.mode() is Mode.FAULT
        assert "battery at 3.3 V, critical is 3.3 V (charge it)" in bench.safety.why()
        assert bench.safety.clear() != []
        bench.driver.sense = {"battery_v": 3.8}
        await bench.go(0.1)
        assert bench.safety.clear() == []
        assert bench.safety.mode() is Mode.DISARMED

    play(script, battery=Battery(warn=3.5, critical=3.3))


def test_row_11_a_dry_run_records_the_same_commands_every_time() -> None:
    def run() -> list[tuple[float, ...]]:
        bench = Bench()

        async def script() -> None:
            await bench.boot()
            await bench.start()
            await bench.go(1.0)

        asyncio.run(script())
        return [tuple(round(value, 6) for value in command) for command in bench.driver.commands]

    first = run()
    assert first == run()
    assert first[0] == (0.0, 0.0, 0.0)
    assert len(first) == 16
    assert first[1][1] > 0.2


def test_row_15_black_box_is_rotated_and_read_back_and_a_torn_line_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    now = [0.0]
    box = BlackBox(tmp_path, "boot", rotate_bytes=2000, keep=3, monotonic_s=lambda: now[0])
    for i in range(200):
        now[0] += 0.1
        box.write("drive", v=i)
        assert box.flush()
    before = len(synced)
    box.write("safety", urgent=True, mode="ESTOP")
    assert box.flush()
    assert len(synced) == before + 1
    box.close()
    files = sorted(tmp_path.glob("black-box-*.jsonl"))
    assert len(files) == 3
    assert all(path.stat().st_size <= 2000 for path in files)
    assert len(synced) >= 10  # each second, and at each rotation
    with files[-1].open("ab") as file:
        file.write(b'{"s": 1, "kind": "dri')
    rows = list(read_black_box(tmp_path))
    assert rows[-1]["mode"] == "ESTOP"
    assert [row["v"] for row in rows if row["kind"] == "drive"][-1] == 199


def test_row_15_a_slow_disk_holds_up_neither_the_safety_loop_nor_the_times_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still while a robot drives, stops and is stopped; nothing waits for it."""
    stands, goes = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        stands.set()
        assert goes.wait(60.0)

    monkeypatch.setattr(os, "fsync", wait)
    now = [1.0]
    box = BlackBox(tmp_path, "boot", monotonic_s=lambda: now[0])
    box.write("drive", v=1.0)
    assert stands.wait(20.0)

    async def script(bench: Bench) -> None:
        await bench.boot()
        await bench.start()
        await bench.go(2.0)
        assert bench.loop.gate.moving
        assert bench.loop.deadman_stops == 0
        bench.safety.estop()
        await bench.go(0.1)
        assert not bench.loop.gate.moving

    play(script, record=box)
    now[0] = 2.0
    box.write("request", urgent=True, op="clear")
    assert not box.flush(0.01)
    goes.set()
    box.close()
    rows = list(read_black_box(tmp_path))
    assert [row["mode"] for row in rows if row["kind"] == "safety"][-1] == "ESTOP"
    assert {row["s"] for row in rows if row["kind"] in ("drive", "safety")} == {1.0}
    assert [row["s"] for row in rows if row["kind"] == "request"] == [2.0]


def test_row_15_what_a_disk_that_never_answers_cannot_take_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(black_box, "MOST_WAITING", 5)
    monkeypatch.setattr(black_box, "CLOSE_WALL_S", 0.05)
    stands, goes = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        stands.set()
        goes.wait(60.0)

    monkeypatch.setattr(os, "fsync", wait)
    box = BlackBox(tmp_path, "boot")
    box.write("drive", urgent=True)
    assert stands.wait(20.0)
    for _ in range(9):
        box.write("drive")
    assert box.failures == 4
    box.close()  # gives it up
    goes.set()


def test_row_15_a_full_disk_does_not_keep_a_robot_from_stopping(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.write_text("a file where the folder should be")
    box = BlackBox(folder, "boot")
    box.write("drive", v=1)
    assert box.flush()
    assert box.failures == 1
    safety = Safety(("r0",), FakeClock(), self_arming=True, record=box)
    safety.self_check()
    safety.estop()
    assert safety.mode() is Mode.ESTOP


def test_only_the_motor_gate_calls_a_drivers_drive() -> None:
    """Read the sources: `x.drive(` and `x.go(` stand in the gate alone, for any x but the gate."""
    found = []
    for path in HARDWARE.rglob("*.py"):
        if HARDWARE / "firmware" in path.parents:  # boards have their own gate, and its test
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "drive":
                owner = ast.unparse(called.value)
                if owner.split(".")[-1].lstrip("_") != "gate":
                    found.append((path.relative_to(HARDWARE).as_posix(), owner))
    outside = [entry for entry in found if not entry[0].startswith("conformance")]
    assert outside == [("motor_gate.py", "self._driver")]


def test_every_driver_of_ours_clips_by_safety_limit() -> None:
    checked = 0
    for path in sorted((HARDWARE / "drivers").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef) and node.name == "drive":
                calls = {
                    call.func.id
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                }
                assert "limit" in calls or "checked_speeds" in calls, path.name
                checked += 1
    assert checked >= 1


def test_at_run_time_too_each_drive_comes_from_the_gate_within_the_limits() -> None:
    callers = set()

    async def script(bench: Bench) -> None:
        drive = bench.driver.drive

        async def watched(v: float, w: float) -> Applied:
            frame = inspect.currentframe()
            assert frame is not None
            assert frame.f_back is not None
            callers.add(Path(frame.f_back.f_code.co_filename).name)
            assert abs(v) <= 0.4
            assert abs(w) <= 3.0
            return await drive(v, w)

        bench.driver.drive = watched  # type: ignore[method-assign]
        await bench.boot()
        await bench.start()
        await bench.go(3.0)

    play(script)
    assert callers == {"motor_gate.py"}


def test_request_log_is_json_lines(tmp_path: Path) -> None:
    box = BlackBox(tmp_path, "b")
    box.write("request", op="arm")
    box.close()
    lines = next(iter(tmp_path.glob("*.jsonl"))).read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["boot", "request"]


@pytest.mark.parametrize("order", ["as sent", "reversed", "shuffled", "doubled"])
def test_row_2_steps_in_any_order_are_acted_on_at_most_once_and_never_backwards(
    order: str, rig_class: Any
) -> None:
    rig = rig_class(n=1)
    numbers = list(range(1, 20))
    rng = np.random.default_rng(0)
    sent = {
        "as sent": numbers,
        "reversed": numbers[::-1],
        "shuffled": rng.permutation(numbers).tolist(),
        "doubled": [t for t in numbers for _ in range(2)],
    }[order]
    taken = []
    for t in sent:
        before = len(rig.bank.applied)
        rig.step(int(t), run_s=0.01)
        taken += [t] * (len(rig.bank.applied) - before)
    assert taken == sorted(set(taken))
    assert max(numbers) in taken


def head_on(gap_m: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[0.0, 0.0, 0.0], [gap_m, 0.0, math.pi]])


def test_row_9_head_on_the_lower_id_goes_and_the_other_waits() -> None:
    speeds = np.array([0.3, 0.3])
    assert must_wait(head_on(0.5), speeds, separation_m=0.3).tolist() == [False, True]
    assert must_wait(head_on(5.0), speeds, separation_m=0.3).tolist() == [False, False]


def test_row_9_nobody_drives_into_a_standing_robot_whatever_its_priority() -> None:
    speeds = np.array([0.3, 0.0])
    assert must_wait(head_on(0.28), speeds, separation_m=0.3).tolist() == [True, False]
    turned = head_on(0.28)
    turned[0, 2] += math.pi / 2  # its way leads past
    assert must_wait(turned, speeds, separation_m=0.3).tolist() == [False, False]
    away = head_on(0.28)
    away[0, 2] += math.pi
    assert must_wait(away, speeds, separation_m=0.3).tolist() == [False, False]


def test_row_9_crossing_robots_in_a_kinematic_world_never_meet() -> None:
    """Three robots cross in one point; each goes on when those before it have passed."""
    poses = np.array([[-1.0, 0.0, 0.0], [0.0, -1.0, math.pi / 2], [0.7, 0.7, -2.356194490192345]])
    wanted, nearest = np.full(3, 0.3), math.inf
    for _ in range(400):
        waits = must_wait(poses, wanted, separation_m=0.3)
        v = np.where(waits, 0.0, wanted)
        poses[:, 0] += 0.05 * v * np.cos(poses[:, 2])
        poses[:, 1] += 0.05 * v * np.sin(poses[:, 2])
        gaps = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=2)
        nearest = min(nearest, float(gaps[np.triu_indices(3, 1)].min()))
    assert nearest > 0.25  # a robot that stands may still be passed within the separation
    assert np.all(np.hypot(poses[:, 0], poses[:, 1]) > 1.0)  # all are through


def test_row_13_the_highest_epoch_wins_also_after_a_restart(tmp_path: Path) -> None:
    memory = SafetyMemory(tmp_path)
    Safety(("r0",), FakeClock(), memory=memory).see_epoch(7)
    assert Safety(("r0",), FakeClock(), memory=SafetyMemory(tmp_path)).floor() == (7, -1)


def test_a_fault_is_reported_once_with_its_cause() -> None:
    safety = Safety(("r0",), FakeClock(), self_arming=True)
    safety.self_check()
    safety.fault(Event.TILT, 0, "tilt")
    assert safety.take_troubles() == ["r0 FAULT: tilt"]
    assert safety.take_troubles() == []
