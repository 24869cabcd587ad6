# SPDX-License-Identifier: MIT
"""The laws of the safety state machine over 100 000 random sequences, and its table row by row."""

import numpy as np
import pytest

from kofn.hardware.safety_states import (
    COUNTED,
    ENDS,
    FAULTS,
    NEXT,
    STOPS,
    Event,
    Facts,
    Mode,
    SafetyState,
    advance,
    booted,
    may_move,
    see_epoch,
)

SEQUENCES, LENGTH = 100_000, 40
DEADMAN_S = 0.5
GOOD = Facts(
    operator=True,
    pose_fresh=True,
    battery_ok=True,
    limits_ok=True,
    input_open=True,
    cause_gone=True,
)


def test_no_random_sequence_of_events_breaks_a_law() -> None:
    """Each robot of the array plays a random sequence of its own; the laws are tracked beside it.

    Half of the events are of those that lead to motion, so that sequences reach it often.
    """
    rng = np.random.default_rng(20260101)
    towards = [Event.CHECK_OK, Event.ARM, Event.STEP, Event.COMMAND, Event.CLEAR, Event.RELEASE]
    state = booted(SEQUENCES)
    armed_since = np.zeros(SEQUENCES, dtype=bool)  # ARM was asked for since BOOT/FAULT/ESTOP
    granted_s = np.full(SEQUENCES, -np.inf)  # newest STEP, COMMAND or CREEP_HOME
    now_s, moved, exits = 0.0, 0, 0
    for _ in range(LENGTH):
        now_s += float(rng.choice([0.05, 0.3, 0.7]))
        event = np.where(
            rng.random(SEQUENCES) < 0.5,
            rng.choice(towards, SEQUENCES),
            rng.integers(0, len(Event), SEQUENCES),
        )
        luck = rng.random((6, SEQUENCES)) < 0.9
        halts = rng.integers(-1, 8, SEQUENCES)
        facts = Facts(luck[0], luck[1], luck[2], luck[3], luck[4], luck[5], halts)
        epochs = np.where(rng.random(SEQUENCES) < 0.2, rng.integers(0, 10, SEQUENCES), -1)
        state = state._replace(epoch=np.maximum(state.epoch, epochs))
        before = state
        state, effects = advance(state, event, now_s, facts)
        was, mode = before.mode, state.mode

        armed_since |= event == Event.ARM
        assert np.all(armed_since[mode == Mode.ARMED])
        armed_since &= ~np.isin(mode, [Mode.BOOT, Mode.FAULT, Mode.ESTOP])
        entered = (mode == Mode.ARMED) & (was != Mode.ARMED)
        assert np.all((was == Mode.DISARMED)[entered] & (event == Event.ARM)[entered])

        fresh = np.isin(event, [Event.STEP, Event.COMMAND, Event.CREEP_HOME])
        granted_s = np.where(fresh, now_s, granted_s)
        for wait_s in (0.0, 0.4, DEADMAN_S):
            moving = may_move(state, now_s + wait_s, DEADMAN_S)
            assert np.all(mode[moving] == Mode.ARMED)
            assert np.all(now_s + wait_s - granted_s[moving] < DEADMAN_S)
            moved += int(moving.sum())
        # A robot that moves moved before or was just given a step, live and new.
        started = may_move(state, now_s, DEADMAN_S) & ~may_move(before, now_s, DEADMAN_S)
        assert np.all(fresh[started])

        left = (was == Mode.ESTOP) & (mode != Mode.ESTOP)
        assert np.all(mode[left] == Mode.DISARMED)
        assert np.all(event[left] == Event.RELEASE)
        assert np.all(np.asarray(facts.operator)[left] & np.asarray(facts.input_open)[left])
        assert np.all((state.epoch > state.halt_ep)[left] | (state.halt_ep < 0)[left])

        leaves = (was == Mode.ARMED) & (mode != Mode.ARMED)
        assert np.all(effects.stop[leaves])
        assert np.all(effects.stop[np.isin(event, STOPS)])
        assert np.all(mode[np.isin(event, STOPS)] == Mode.ESTOP)
        assert np.all(mode[(was == Mode.FAULT) & (mode != was)] != Mode.ARMED)
        exits += int(left.sum())
    assert moved > SEQUENCES / 2  # the laws were met by robots that do move,
    assert exits > SEQUENCES / 10  # and by emergency stops that do end


def one(mode: Mode, *, hold: bool = False, fenced: bool = False) -> SafetyState:
    return booted(1)._replace(
        mode=np.array([mode]), hold=np.array([hold]), fenced=np.array([fenced])
    )


def after(state: SafetyState, event: Event, facts: Facts = GOOD, now_s: float = 0.0) -> SafetyState:
    return advance(state, np.array([event]), now_s, facts)[0]


ROWS = [
    (Mode.BOOT, Event.CHECK_OK, Mode.DISARMED),
    (Mode.BOOT, Event.CHECK_FAILED, Mode.FAULT),
    (Mode.DISARMED, Event.ARM, Mode.ARMED),
    *((Mode.ARMED, event, Mode.DISARMED) for event in ENDS),
    *((mode, event, Mode.FAULT) for event in FAULTS for mode in (Mode.BOOT, Mode.DISARMED)),
    *((Mode.ARMED, event, Mode.FAULT) for event in FAULTS),
    *((mode, event, Mode.ESTOP) for event in STOPS for mode in Mode),
    (Mode.FAULT, Event.CLEAR, Mode.DISARMED),
    (Mode.ESTOP, Event.RELEASE, Mode.DISARMED),
]


def test_the_table_has_the_rows_of_the_design_and_no_other() -> None:
    known = {(mode, event): end for mode, event, end in ROWS}
    for mode in Mode:
        for event in Event:
            assert NEXT[mode, event] == known.get((mode, event), mode), (mode.name, event.name)
            assert after(one(mode), event).mode[0] == known.get((mode, event), mode)


@pytest.mark.parametrize(
    "missing", ["operator", "pose_fresh", "battery_ok", "limits_ok", "input_open"]
)
def test_arming_needs_each_condition(missing: str) -> None:
    assert after(one(Mode.DISARMED), Event.ARM).mode[0] == Mode.ARMED
    facts = GOOD._replace(**{missing: False})
    assert after(one(Mode.DISARMED), Event.ARM, facts).mode[0] == Mode.DISARMED


def test_arming_and_release_need_an_epoch_above_the_halts() -> None:
    stopped = after(one(Mode.ARMED), Event.HALT, GOOD._replace(halt_ep=3))
    assert after(stopped, Event.RELEASE).mode[0] == Mode.ESTOP
    assert after(see_epoch(stopped, 3), Event.RELEASE).mode[0] == Mode.ESTOP
    released = after(see_epoch(stopped, 4), Event.RELEASE)
    assert released.mode[0] == Mode.DISARMED
    assert after(released, Event.ARM).mode[0] == Mode.ARMED
    older = released._replace(epoch=np.array([2]))
    assert after(older, Event.ARM).mode[0] == Mode.DISARMED


@pytest.mark.parametrize("event", COUNTED)
def test_a_hold_keeps_the_robot_armed_and_only_a_new_step_ends_it(event: Event) -> None:
    held = after(one(Mode.ARMED), event)
    assert held.mode[0] == Mode.ARMED
    assert not may_move(after(held, Event.COMMAND), 0.0, DEADMAN_S)[0]
    wrong, right = Event.CREEP_HOME, Event.STEP
    if event is Event.GEOFENCE:
        wrong, right = right, wrong
    assert not may_move(after(held, wrong), 0.0, DEADMAN_S)[0]
    assert may_move(after(held, right), 0.0, DEADMAN_S)[0]


def test_the_third_hold_within_a_minute_is_a_fault_and_normal_ends_are_not_counted() -> None:
    state = one(Mode.ARMED)
    for now_s in (0.0, 10.0, 20.0, 30.0):
        state = after(after(state, Event.PAUSE, now_s=now_s), Event.STEP, now_s=now_s)
    assert state.mode[0] == Mode.ARMED
    spaced = hurried = state
    for i, event in enumerate((Event.DEADMAN, Event.LINK_SILENT, Event.TTL_OVER)):
        spaced = after(after(spaced, event, now_s=i * 40.0), Event.STEP, now_s=i * 40.0)
        hurried = after(after(hurried, event, now_s=i * 29.0), Event.STEP, now_s=i * 29.0)
    assert spaced.mode[0] == Mode.ARMED
    assert hurried.mode[0] == Mode.FAULT


def test_a_robot_whose_emergency_stop_was_latched_starts_in_it() -> None:
    state = booted(2, epoch=4, halt_ep=4, latched=True)
    events = np.array([Event.CHECK_OK, Event.ARM])
    assert advance(state, events, 0.0, GOOD)[0].mode.tolist() == [Mode.ESTOP, Mode.ESTOP]
