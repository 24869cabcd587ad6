# SPDX-License-Identifier: MIT
"""The safety state machine as a pure table, for one robot or an array of them.

    (state, event, facts) -> (state, effects);      motors may turn in ARMED only

| from | event | to |
|---|---|---|
| BOOT | CHECK_OK / CHECK_FAILED | DISARMED / FAULT |
| DISARMED | ARM, and nothing in `Facts` speaks against it | ARMED, holding |
| ARMED | DISARM, ARMING_OVER, LINK_LOST, END | DISARMED |
| ARMED | DEADMAN, TTL_OVER, HOLD_TIMER, LINK_SILENT, POSE_STALE, GEOFENCE | ARMED, holding (1) |
| ARMED | PAUSE: the normal end of an option, a bumper, a command HOLD | ARMED, holding |
| ARMED, holding | STEP: a new valid step; after GEOFENCE only CREEP_HOME | ARMED |
| all but ESTOP | DRIVER_ERROR, BATTERY_CRITICAL, TILT, LIMITS_UNREADABLE | FAULT |
| any | HALT, STOP_INPUT | ESTOP |
| FAULT | CLEAR by the operator, cause gone | DISARMED |
| ESTOP | RELEASE by the operator, epoch above the halt's, stop input open | DISARMED |

(1) Counted: the third of them within 60 s is a FAULT.

Every other pair of state and event changes nothing. `stop` is an effect of each exit from ARMED, of
each entry into a hold, and of each HALT and STOP_INPUT whatever the state.

| symbol | name | shape | unit |
|---|---|---|---|
| n | robots | - | - |
| mode | state of the table | (n,) | `Mode` |
| hold | ARMED, but waits for a new step | (n,) | - |
| holds_s | when the last three counted holds began, oldest first | (n, 3) | s |
| command_s | when the newest speed command was let through | (n,) | s |
| epoch, halt_ep | highest epoch seen, highest epoch that a halt forbids; -1 = none | (n,) | - |
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

COUNTED_HOLDS = 3
COUNTED_WITHIN_S = 60.0
"""So many holds within that time are no accident any more: FAULT."""


class Mode(IntEnum):
    """State of a robot."""

    BOOT = 0
    DISARMED = 1
    ARMED = 2
    FAULT = 3
    ESTOP = 4


class Event(IntEnum):
    """What can happen to a robot; `NOTHING` lets an array name events of some robots only."""

    NOTHING = 0
    CHECK_OK = 1
    CHECK_FAILED = 2
    ARM = 3
    DISARM = 4
    ARMING_OVER = 5
    LINK_LOST = 6
    END = 7
    DEADMAN = 8
    TTL_OVER = 9
    HOLD_TIMER = 10
    LINK_SILENT = 11
    POSE_STALE = 12
    GEOFENCE = 13
    PAUSE = 14
    STEP = 15
    CREEP_HOME = 16
    COMMAND = 17
    DRIVER_ERROR = 18
    BATTERY_CRITICAL = 19
    TILT = 20
    LIMITS_UNREADABLE = 21
    HALT = 22
    STOP_INPUT = 23
    CLEAR = 24
    RELEASE = 25


COUNTED = (
    Event.DEADMAN,
    Event.TTL_OVER,
    Event.HOLD_TIMER,
    Event.LINK_SILENT,
    Event.POSE_STALE,
    Event.GEOFENCE,
)
FAULTS = (Event.DRIVER_ERROR, Event.BATTERY_CRITICAL, Event.TILT, Event.LIMITS_UNREADABLE)
STOPS = (Event.HALT, Event.STOP_INPUT)
ENDS = (Event.DISARM, Event.ARMING_OVER, Event.LINK_LOST, Event.END)


def _table() -> IntArray:
    """Next state by (state, event), before guards; what is not named stays as it is."""
    table = np.repeat(np.arange(len(Mode))[:, None], len(Event), axis=1)
    table[Mode.BOOT, Event.CHECK_OK] = Mode.DISARMED
    table[Mode.BOOT, Event.CHECK_FAILED] = Mode.FAULT
    table[Mode.DISARMED, Event.ARM] = Mode.ARMED
    table[Mode.ARMED, list(ENDS)] = Mode.DISARMED
    for mode in (Mode.BOOT, Mode.DISARMED, Mode.ARMED):
        table[mode, list(FAULTS)] = Mode.FAULT
    table[:, list(STOPS)] = Mode.ESTOP
    table[Mode.FAULT, Event.CLEAR] = Mode.DISARMED
    table[Mode.ESTOP, Event.RELEASE] = Mode.DISARMED
    return table


NEXT = _table()
_IS_COUNTED, _IS_STOP = (np.isin(np.arange(len(Event)), group) for group in (COUNTED, STOPS))


class Facts(NamedTuple):
    """What guards look at; each a truth value or an array of shape (n,). Nothing holds by default.

    Attributes
    ----------
    operator
        The request came from this machine with the operator's token (robots made of arithmetic
        need none).
    pose_fresh, battery_ok, limits_ok
        As said.
    input_open
        No stop input is pressed.
    cause_gone
        What led to FAULT is no longer there.
    halt_ep
        Epoch of the halt of this event; -1 without one.
    """

    operator: bool | BoolArray = False
    pose_fresh: bool | BoolArray = False
    battery_ok: bool | BoolArray = False
    limits_ok: bool | BoolArray = False
    input_open: bool | BoolArray = False
    cause_gone: bool | BoolArray = False
    halt_ep: int | IntArray = -1


class SafetyState(NamedTuple):
    """State of n robots; arrays of shape (n,), `holds_s` (n, 3)."""

    mode: IntArray
    hold: BoolArray
    fenced: BoolArray
    holds_s: FloatArray
    command_s: FloatArray
    epoch: IntArray
    halt_ep: IntArray


class Effects(NamedTuple):
    """What must follow; shape (n,).

    Attributes
    ----------
    stop
        Motors to zero now.
    changed
        The state differs from before: write it down.
    repeated
        This hold was the third within a minute.
    """

    stop: BoolArray
    changed: BoolArray
    repeated: BoolArray


def booted(n: int, *, epoch: int = -1, halt_ep: int = -1, latched: bool = False) -> SafetyState:
    """Return n robots that have just started.

    Parameters
    ----------
    n
        Robots.
    epoch, halt_ep
        As kept on disk.
    latched
        An emergency stop was in force when the power went: they start in ESTOP.
    """
    return SafetyState(
        mode=np.full(n, Mode.ESTOP if latched else Mode.BOOT, dtype=np.int64),
        hold=np.ones(n, dtype=np.bool_),
        fenced=np.zeros(n, dtype=np.bool_),
        holds_s=np.full((n, COUNTED_HOLDS), -np.inf),
        command_s=np.full(n, -np.inf),
        epoch=np.full(n, epoch, dtype=np.int64),
        halt_ep=np.full(n, halt_ep, dtype=np.int64),
    )


def see_epoch(state: SafetyState, epoch: int) -> SafetyState:
    """Take the epoch of a live step or of a controller's presence; it never falls."""
    return state._replace(epoch=np.maximum(state.epoch, epoch))


def may_arm(state: SafetyState, facts: Facts) -> BoolArray:
    """Whether each condition of arming holds, shape (n,)."""
    free = (state.halt_ep < 0) | (state.epoch > state.halt_ep)
    known = facts.operator, facts.pose_fresh, facts.battery_ok, facts.limits_ok, facts.input_open
    ok: BoolArray = np.all([np.broadcast_to(fact, free.shape) for fact in (*known, free)], axis=0)
    return ok


def may_move(state: SafetyState, now_s: float | FloatArray, deadman_s: float) -> BoolArray:
    """Whether motors may turn now: armed, not holding, the newest command younger than that."""
    young = now_s - state.command_s < deadman_s
    moving: BoolArray = (state.mode == Mode.ARMED) & ~state.hold & young
    return moving


def advance(
    state: SafetyState, event: IntArray, now_s: float, facts: Facts
) -> tuple[SafetyState, Effects]:
    """Apply one event to each robot.

    Parameters
    ----------
    state
        Before.
    event
        `Event` of each robot, shape (n,).
    now_s
        Monotonic time.
    facts
        What the guards of ARM, CLEAR and RELEASE look at.

    Returns
    -------
    tuple
        State after, and effects.
    """
    was = state.mode
    halt = event == Event.HALT
    halt_ep = np.where(halt, np.maximum(state.halt_ep, facts.halt_ep), state.halt_ep)
    operator, cause_gone = np.asarray(facts.operator), np.asarray(facts.cause_gone)
    free = (halt_ep < 0) | (state.epoch > halt_ep)
    refused = (
        ((event == Event.ARM) & ~may_arm(state, facts))
        | ((event == Event.CLEAR) & ~(operator & cause_gone))
        | ((event == Event.RELEASE) & ~(operator & np.asarray(facts.input_open) & free))
    )
    mode = np.where(refused, was, NEXT[was, event])

    driving = (was == Mode.ARMED) & ~state.hold
    counted = driving & _IS_COUNTED[event]
    shifted = np.concatenate([state.holds_s[:, 1:], np.full((len(was), 1), now_s)], axis=1)
    holds_s = np.where(counted[:, None], shifted, state.holds_s)
    repeated = counted & (now_s - holds_s[:, 0] <= COUNTED_WITHIN_S)
    mode = np.where(repeated, Mode.FAULT, mode)

    armed = mode == Mode.ARMED
    fenced = armed & (state.fenced | (event == Event.GEOFENCE))
    # A robot outside its fence leaves the hold by a request to creep home, never by a step.
    released = np.where(fenced, event == Event.CREEP_HOME, event == Event.STEP)
    held = _IS_COUNTED[event] | (event == Event.PAUSE)
    hold = ~armed | held | (was != Mode.ARMED) | (state.hold & ~released)
    fenced &= ~((event == Event.CREEP_HOME) & ~hold)

    commanded = armed & ~hold & ((event == Event.COMMAND) | (event == Event.STEP) | released)
    command_s = np.where(commanded, now_s, np.where(hold, -np.inf, state.command_s))
    # A new arming starts a new count: whoever armed has looked at the robot.
    holds_s = np.where((armed & (was != Mode.ARMED))[:, None], -np.inf, holds_s)
    after = SafetyState(mode, hold, fenced, holds_s, command_s, state.epoch, halt_ep)
    effects = Effects(
        stop=(driving & hold) | ((was == Mode.ARMED) & ~armed) | _IS_STOP[event],
        changed=(mode != was) | (hold != state.hold),
        repeated=repeated,
    )
    return after, effects
