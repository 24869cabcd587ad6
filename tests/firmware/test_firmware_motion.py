# SPDX-License-Identifier: MIT
"""The board's option controller is the fleet's; its gate keeps the laws of the safety page."""

import ast
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robot import safety as fw
from robot.ring import Option, Ring, ZoneFilter

from kofn.hardware.board_settings import FIRMWARE
from kofn.hardware.option import OptionController, OptionSettings
from kofn.hardware.ring import RingLayout, zone_of

PLACE = st.tuples(
    st.floats(1.05, 1.95), st.floats(0, 2 * math.pi, exclude_max=True), st.floats(-math.pi, math.pi)
)


@given(PLACE, PLACE, st.integers(-1, 2), st.booleans(), st.integers(3, 8))
@settings(max_examples=300, deadline=None)
def test_options_command_the_same_speeds_as_the_fleets_controller(
    begin: tuple[float, float, float],
    later: tuple[float, float, float],
    action: int,
    lanes: bool,
    zones: int,
) -> None:
    layout = RingLayout(zones=zones, lanes=lanes)
    steady = OptionSettings(speed_spread=0.0)
    reference = OptionController(layout, 1, np.random.default_rng(0), steady)
    option = Option(Ring({"zones": zones, "lanes": lanes}), {})
    places = [(r * math.cos(a), r * math.sin(a), yaw) for r, a, yaw in (begin, later)]
    reference.start(np.array([action]), np.array([places[0]]))
    option.start(action, *places[0][:2])
    for place in places:
        (v,), (w,) = reference.command(np.array([place]))
        ours = option.command(*place)
        if ours[1] == -w and abs(w) == option.w_max:
            continue  # the goal is right behind the robot: either way round is as short
        assert ours == pytest.approx((float(v), float(w)), abs=1e-9)


@given(PLACE, st.integers(3, 9))
def test_zones_are_those_of_the_arena(place: tuple[float, float, float], zones: int) -> None:
    r, a, _ = place
    x, y = r * math.cos(a), r * math.sin(a)
    expected = zone_of(RingLayout(zones=zones), np.array([[x, y, 0.0]]))[0]
    assert Ring({"zones": zones}).zone(x, y) == expected


def test_a_robot_on_a_border_keeps_its_zone_until_it_is_clearly_beyond() -> None:
    ring = Ring({"zones": 5})
    seen = ZoneFilter(ring)
    border = ring.sector

    def at(offset_m: float) -> int:
        angle = border + offset_m / 1.5
        return int(seen.see(1.5 * math.cos(angle), 1.5 * math.sin(angle)))

    assert [at(-0.2), at(0.04), at(-0.04), at(0.04)] == [0, 0, 0, 0]
    assert [at(0.06), at(0.04), at(0.06), at(0.06)] == [0, 0, 0, 1]


EVENTS = (
    "ok", "failed", "arm", "disarm", "link_gone", "over", "end", "error", "battery", "halt",
    "input", "clear", "release",
)  # fmt: skip


class Motor:
    """Counts stops; knows whether it turns."""

    def __init__(self) -> None:
        self.turning, self.offs = False, 0

    def off(self) -> None:
        self.turning = False
        self.offs += 1


Act = tuple[str, float]
ACT = st.one_of(
    st.tuples(st.sampled_from(EVENTS), st.just(0.0)),
    st.tuples(st.sampled_from(["step", "drive", "pose", "heard", "watch"]), st.just(0.0)),
    st.tuples(st.just("wait"), st.floats(0, 800)),
)


@given(st.lists(ACT, max_size=60))
@settings(max_examples=1500, deadline=None)
def test_motors_turn_only_when_armed_by_hand_with_fresh_commands(acts: list[Act]) -> None:
    motor = Motor()
    gate = fw.Safety((0.5, 3.0, 10.0), motor.off, deadman=500, link=2000, pose_max_age=1000)
    now, armed_by_hand, drove, halted = 0, False, -10_000, False
    for name, amount in acts:
        state, offs = gate.state, motor.offs
        if name == "wait":
            for _ in range(int(amount) // 10):  # the safety task looks every 10 ms
                now += 10
                gate.watch(now, 1.5, 0.0)
        elif name == "step":
            gate.start(now)
        elif name == "drive":
            v, w = gate.limit(9.0, 9.0, now)
            assert abs(v) <= 0.5
            assert abs(w) <= 3.0
            motor.turning = (v, w) != (0.0, 0.0)
            if motor.turning:
                drove = now
        elif name == "pose":
            gate.pose_at = now
        elif name == "heard":
            gate.heard_at = now
        elif name == "watch":
            gate.watch(now, 1.5, 0.0)
        elif name == "arm":
            if gate.arm(now, input_open=True, epoch_ok=not halted) is None:
                armed_by_hand = True
        else:
            gate.event(name, now)
            halted = (halted or name == "halt") and name != "release"
        if state == fw.ARMED and gate.state != fw.ARMED:
            armed_by_hand = False
            assert motor.offs > offs
        if state == fw.ESTOP and gate.state != fw.ESTOP:
            assert name == "release"
            assert gate.state == fw.DISARMED
        assert gate.state != fw.ARMED or armed_by_hand
        if motor.turning:
            assert gate.state == fw.ARMED
            assert now - drove <= 500 + 10


def test_three_holds_within_a_minute_are_a_fault_and_the_end_of_an_option_is_none() -> None:
    motor = Motor()
    gate = fw.Safety((0.5, 3.0, 10.0), motor.off)
    gate.event("ok", 0)
    gate.pose_at = gate.heard_at = 0
    assert gate.arm(0, input_open=True, epoch_ok=True) is None
    for i in range(9):
        gate.start(i)
        gate.hold("ttl_over", i, normal=True)
    assert gate.state == fw.ARMED
    for i in range(3):
        gate.start(10 + i)
        gate.hold("deadman", 10 + i)
    assert gate.state == fw.FAULT
    gate.event("clear", 20)
    assert gate.state == fw.DISARMED


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda gate: gate.event("error", 0, "motor"), "FAULT"),
        (lambda gate: setattr(gate, "pose_at", -5000), "pose"),
        (lambda gate: gate.see_battery(3.4, 0), "battery"),
    ],
)
def test_arming_is_refused_with_the_reason(prepare: object, why: str) -> None:
    gate = fw.Safety((0.5, 3.0, 10.0), lambda: None, battery=(3.5, 3.3))
    gate.event("ok", 0)
    gate.pose_at = 0
    prepare(gate)  # type: ignore[operator]
    assert why in str(gate.arm(0, input_open=True, epoch_ok=True))
    assert gate.state != fw.ARMED


def test_arming_needs_an_open_stop_input_and_an_epoch_above_any_halt() -> None:
    gate = fw.Safety((0.5, 3.0, 10.0), lambda: None)
    gate.event("ok", 0)
    gate.pose_at = 0
    assert "stop input" in str(gate.arm(0, input_open=False, epoch_ok=True))
    assert "halt" in str(gate.arm(0, input_open=True, epoch_ok=False))
    assert gate.arm(0, input_open=True, epoch_ok=True) is None


def test_speeding_up_is_limited_and_slowing_down_is_not() -> None:
    gate = fw.Safety((1.0, 3.0, 2.0), lambda: None)
    gate.event("ok", 0)
    gate.pose_at = gate.heard_at = 0
    gate.arm(0, input_open=True, epoch_ok=True)
    gate.start(0)
    assert gate.limit(1.0, 0.0, 50)[0] == pytest.approx(0.1)
    assert gate.limit(1.0, 0.0, 100)[0] == pytest.approx(0.2)
    assert gate.limit(0.05, 0.0, 150)[0] == pytest.approx(0.05)
    assert gate.limit(float("nan"), 0.0, 200) == (0.0, 0.0)


def test_the_gate_is_the_only_way_to_the_motors_of_a_board() -> None:
    """`drive` takes what `safety.limit` returns, but in the self-test; PWM is in one file."""
    drives, duties = [], set()
    for path in [*FIRMWARE.glob("*.py"), *FIRMWARE.glob("robot/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "drive":
                drives.append((path.name, ast.unparse(node.args[0])))
            elif node.func.attr in ("duty_u16", "duty", "PWM"):
                duties.add(path.name)
    robot = [entry for entry in drives if entry[0] != "selftest.py"]
    assert robot == [("app.py", "*self.safety.limit(v, w, now)")]
    assert duties == {"motors.py"}
