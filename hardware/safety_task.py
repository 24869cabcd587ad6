# SPDX-License-Identifier: MIT
"""`Safety`: the state machine of a host's robots with its timers, memory and record.

`safety_states` says what follows from an event; this class says when events happen. `check` looks
at the clocks and belongs in a thread of its own (`watchdog`), which waits for nobody:

| timer | over when | event |
|---|---|---|
| dead-man | no command let through for `deadman_s` | DEADMAN |
| link | the broker was not heard for `link_s`; for 60 s | LINK_SILENT; LINK_LOST |
| pose | no fresh pose for `pose_max_age_s` | POSE_STALE |
| arming | armed for longer than granted | ARMING_OVER |
| stop again | in ESTOP, each 100 ms | stop |

Step ttl and hold timer run in the host core and come here as `pause` and `event(HOLD_TIMER)`.
Robots made of arithmetic arm themselves; others need their operator on the robot's own machine.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.black_box import BlackBox
from kofn.hardware.safety_memory import Kept, SafetyMemory
from kofn.hardware.safety_states import (
    BoolArray,
    Event,
    Facts,
    Mode,
    SafetyState,
    advance,
    booted,
    may_arm,
    may_move,
    see_epoch,
)

_log = logging.getLogger(__name__)

STOP_AGAIN_S = 0.1


class SafetySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits in seconds.

    Attributes
    ----------
    deadman_s
        0.1 to 2.0: motors stop when no command was let through for so long.
    link_s
        0.5 to 10: a robot that has not heard the broker for so long holds, for it could not hear a
        halt either.
    link_lost_s
        After so long it disarms.
    pose_max_age_s
        0.1 to 10: with an older pose it holds.
    arm_max_s
        Longest time that one arming lasts.
    """

    deadman_s: float = 0.5
    link_s: float = 2.0
    link_lost_s: float = 60.0
    pose_max_age_s: float = 1.0
    arm_max_s: float = 4 * 3600.0

    def checked(self) -> "SafetySettings":
        """Return self; raises `InputError` naming the value and its range."""
        ranges = {
            "deadman_s": (0.1, 2.0),
            "link_s": (0.5, 10.0),
            "link_lost_s": (1.0, 3600.0),
            "pose_max_age_s": (0.1, 10.0),
            "arm_max_s": (1.0, 24 * 3600.0),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InputError(f"{name} = {value} s must lie in {least:g}..{most:g} s")
        return self


class Safety:
    """Safety of the robots behind one host; every method may be called from any thread.

    Parameters
    ----------
    robots
        Names.
    clock
        Fleet time.
    settings
        Time limits.
    self_arming
        Robots without motors: they arm themselves, and again after a halt of an older epoch.
    memory
        What survives a power cut; None keeps nothing.
    record
        The black box; None records nothing.
    """

    def __init__(
        self,
        robots: Sequence[str],
        clock: Clock,
        settings: SafetySettings | None = None,
        *,
        self_arming: bool = False,
        memory: SafetyMemory | None = None,
        record: BlackBox | None = None,
    ) -> None:
        self.robots = tuple(robots)
        self.settings = (settings or SafetySettings()).checked()
        self._clock, self._memory, self._record = clock, memory, record
        self._self_arming = self_arming
        self._lock, self._memory_lock = threading.RLock(), threading.Lock()
        kept, trouble = memory.recall() if memory is not None else (Kept(), None)
        n = len(self.robots)
        self._state = booted(n, epoch=kept.epoch, halt_ep=kept.halt_ep, latched=kept.estop)
        self._why = [trouble or kept.why] * n
        self._armed_until_s = np.full(n, np.inf)
        self._pose_s = np.full(n, -np.inf)
        self._battery_ok = np.ones(n, dtype=np.bool_)
        self._limits_ok = np.ones(n, dtype=np.bool_)
        self._input_open = np.ones(n, dtype=np.bool_)
        self._cause_gone = np.ones(n, dtype=np.bool_)
        self._heard_s = clock.now()
        self._linked = False
        self._stopped_s = np.full(n, -np.inf)
        self.on_stop: list[Callable[[BoolArray], None]] = []
        """Called with the robots that must stop; outside the lock, in the thread of the event."""
        self.counts: dict[str, int] = {}
        self._troubles: deque[str] = deque(maxlen=64)

    @property
    def state(self) -> SafetyState:
        """State now; arrays are never written again."""
        return self._state

    def mode(self, robot: int = 0) -> Mode:
        """State of one robot."""
        return Mode(int(self._state.mode[robot]))

    def why(self, robot: int = 0) -> str:
        """Why a robot is in FAULT, ESTOP or a hold; "" when it is not."""
        return self._why[robot]

    def permits(self, robot: int = 0) -> bool:
        """Whether motors may turn now."""
        now_s = self._clock.now()
        return bool(may_move(self._state, now_s, self.settings.deadman_s)[robot])

    def ready(self) -> BoolArray:
        """Which robots would act on a step, shape (n,): armed, inside their fence, battery ok."""
        armed: BoolArray = self._state.mode == Mode.ARMED
        return armed & ~self._state.fenced & self._battery_ok

    # What the robot senses.

    def self_check(self, trouble: str | None = None) -> None:
        """End BOOT: with `trouble` in FAULT."""
        if trouble is None:
            self.event(Event.CHECK_OK)
        else:
            self._cause_gone[:] = False
            self.event(Event.CHECK_FAILED, why=trouble)

    def see_pose(self, robot: int = 0) -> None:
        """Take note of a fresh pose."""
        self._pose_s[robot] = self._clock.now()

    def see_battery(self, robot: int, *, ok: bool) -> None:
        """Take note of whether the battery allows arming."""
        self._battery_ok[robot] = ok

    def see_stop_input(self, robot: int, *, pressed: bool) -> None:
        """Take note of the wired stop; pressed is an emergency stop."""
        newly = pressed and bool(self._input_open[robot])
        self._input_open[robot] = not pressed
        if newly or (pressed and self.mode(robot) is not Mode.ESTOP):
            self.event(Event.STOP_INPUT, robot, why="stop input pressed")

    def see_cause(self, robot: int, *, gone: bool) -> None:
        """Take note of whether what led to FAULT is over."""
        self._cause_gone[robot] = gone

    def fault(self, kind: Event, robot: int, why: str) -> None:
        """Go to FAULT for a cause that is there until `see_cause` says otherwise."""
        self._cause_gone[robot] = False
        self.event(kind, robot, why=why)

    # What the wire says (`HostGuard`).

    @property
    def link_s(self) -> float:
        """Longest silence of the broker in which robots may move."""
        return self.settings.link_s

    def floor(self) -> tuple[int, int]:
        """Highest epoch seen and highest halted epoch, as kept; -1 for none."""
        return int(self._state.epoch.max()), int(self._state.halt_ep.max())

    def see_epoch(self, epoch: int) -> None:
        """Take the epoch of a live step or of the controller's presence."""
        with self._lock:
            if epoch <= int(self._state.epoch.min()):
                return
            self._state = see_epoch(self._state, epoch)
        self._keep()
        if self._self_arming and not np.any(self._state.halt_ep >= epoch):
            self.event(Event.RELEASE, facts=Facts(operator=True, input_open=self._input_open))
            self._arm_self()

    def see_halt(self, epoch: int, by: str, why: str, *, live: bool) -> bool:
        """Obey a halt; return whether robots stopped for it.

        A halt of an older epoch that was known before says nothing new: a controller repeats the
        highest halt to a broker that lost it. A live one that is new stops robots all the same.
        """
        seen, halted = self.floor()
        if epoch < seen and not (live and epoch > halted):
            return False
        sentence = f"halt of epoch {epoch} by {by}" + (f": {why}" if why else "")
        self.event(Event.HALT, why=sentence, facts=Facts(halt_ep=epoch))
        return True

    def take_troubles(self) -> list[str]:
        """Return faults and emergency stops since the last call, one sentence each."""
        found = []
        while self._troubles:
            found.append(self._troubles.popleft())
        return found

    def see_link(self, silence_s: float) -> None:
        """Take note of how long the broker was silent, seconds."""
        self._linked = True
        self._heard_s = self._clock.now() - silence_s

    def step(self, robot: int | None = None) -> None:
        """Let robots act on a new valid step: the one way out of a hold."""
        self.event(Event.STEP, robot)

    def command(self, robot: int = 0) -> None:
        """Let a speed command through: the dead-man starts again."""
        now_s = self._clock.now()
        with self._lock:  # ten times a second for each robot: no log, no array of events
            state = self._state
            if state.mode[robot] == Mode.ARMED and not state.hold[robot]:
                command_s = state.command_s.copy()
                command_s[robot] = now_s
                self._state = state._replace(command_s=command_s)

    def pause(self, robot: int | None = None, why: str = "") -> None:
        """Hold until the next step: the normal end of an option, a bumper, a command."""
        self.event(Event.PAUSE, robot, why=why)

    # What the operator on the robot's machine asks for; the token is checked before (`arming`).

    def objections(self, robot: int = 0) -> list[str]:
        """What speaks against arming a robot, one sentence each."""
        state, facts = self._state, self._facts()
        found = []
        if state.mode[robot] != Mode.DISARMED:
            reason = f" ({self._why[robot]})" if self._why[robot] else ""
            found.append(f"it is in {self.mode(robot).name}{reason}, not DISARMED")
        names = {
            "pose_fresh": f"no pose younger than {self.settings.pose_max_age_s:g} s",
            "battery_ok": "the battery is low",
            "limits_ok": "its limits file cannot be read",
            "input_open": "its stop input is pressed",
        }
        for name, sentence in names.items():
            if not np.broadcast_to(getattr(facts, name), state.mode.shape)[robot]:
                found.append(sentence)
        epoch, halt_ep = int(state.epoch[robot]), int(state.halt_ep[robot])
        if halt_ep >= 0 and epoch <= halt_ep:
            found.append(
                f"a halt forbids epochs up to {halt_ep} and the highest seen is {epoch}: "
                "start the controller again"
            )
        return found

    def arm(self, robot: int = 0, *, for_s: float | None = None, by: str = "operator") -> list[str]:
        """Arm for a limited time; return what speaks against it, nothing when it is armed."""
        found = self.objections(robot)
        if found:
            return found
        most_s = self.settings.arm_max_s
        self._armed_until_s[robot] = self._clock.now() + min(for_s or most_s, most_s)
        facts = self._facts()._replace(operator=True)
        self.event(Event.ARM, robot, why="", facts=facts, by=by)
        return [] if self.mode(robot) is Mode.ARMED else self.objections(robot)

    def disarm(self, robot: int = 0, why: str = "disarmed") -> None:
        """Stop and disarm."""
        self.event(Event.DISARM, robot, why=why)

    def clear(self, robot: int = 0) -> list[str]:
        """Leave FAULT for DISARMED; return what speaks against it."""
        return self._leave(robot, Mode.FAULT, Event.CLEAR)

    def release(self, robot: int = 0) -> list[str]:
        """Leave ESTOP for DISARMED; return what speaks against it."""
        return self._leave(robot, Mode.ESTOP, Event.RELEASE)

    def estop(self, robot: int | None = None, why: str = "local emergency stop") -> None:
        """Stop as the wired input does."""
        self.event(Event.STOP_INPUT, robot, why=why)

    def end(self) -> None:
        """Disarm at the end of the process."""
        self.event(Event.END, why="the process ends")

    # Time.

    def check(self) -> None:
        """Look at every timer once."""
        now_s, settings = self._clock.now(), self.settings
        with self._lock:
            state = self._state
            armed = state.mode == Mode.ARMED
            driving = armed & ~state.hold
            silence_s = now_s - self._heard_s if self._linked else 0.0
            due = np.zeros(len(self.robots), dtype=np.int64)
            # The last named wins: what is worse comes later.
            due[driving & (now_s - state.command_s >= settings.deadman_s)] = Event.DEADMAN
            due[driving & (now_s - self._pose_s > settings.pose_max_age_s)] = Event.POSE_STALE
            if silence_s > settings.link_s:
                due[driving] = Event.LINK_SILENT
            if silence_s > settings.link_lost_s:
                due[armed] = Event.LINK_LOST
            due[armed & (now_s >= self._armed_until_s)] = Event.ARMING_OVER
        for kind in np.unique(due[due > 0]):
            self._apply(due == kind, Event(int(kind)), Event(int(kind)).name.lower(), None, "")
        again = (self._state.mode == Mode.ESTOP) & (now_s - self._stopped_s >= STOP_AGAIN_S)
        if np.any(again):
            self._stopped_s[again] = now_s
            self._stop(again)

    # Events.

    def event(
        self,
        kind: Event,
        robot: int | None = None,
        *,
        why: str = "",
        facts: Facts | None = None,
        by: str = "",
    ) -> None:
        """Apply an event to one robot, or to all."""
        chosen = np.zeros(len(self.robots), dtype=np.bool_)
        chosen[slice(None) if robot is None else robot] = True
        self._apply(chosen, kind, why, facts, by)

    def _apply(
        self, chosen: BoolArray, kind: Event, why: str, facts: Facts | None, by: str
    ) -> None:
        now_s = self._clock.now()
        with self._lock:
            before = self._state
            events = np.where(chosen, int(kind), int(Event.NOTHING))
            after, effects = advance(before, events, now_s, facts or self._facts())
            self._state = after
            changed = [int(i) for i in np.flatnonzero(effects.changed)]
            for i in changed:
                reason = "" if kind in (Event.STEP, Event.ARM) else (why or kind.name.lower())
                if effects.repeated[i]:
                    reason += ": the third hold within a minute"
                self._why[i] = reason
        self._stop(effects.stop)  # before the disk, which may take its time
        if kind is Event.HALT or np.any(after.mode != before.mode):
            self._keep()
        for i in changed:
            if after.mode[i] != before.mode[i] or kind not in (Event.STEP, Event.PAUSE):
                self._note(i, before, after, kind, by)
        if self._self_arming and kind is Event.CHECK_OK:
            self._arm_self()

    def _arm_self(self) -> None:
        ready = may_arm(self._state, facts := Facts(*[True] * 6))
        self._pose_s[:] = np.maximum(self._pose_s, self._clock.now())
        self._apply(ready, Event.ARM, "", facts, "itself")

    def _leave(self, robot: int, mode: Mode, event: Event) -> list[str]:
        if self.mode(robot) is not mode:
            return [f"it is in {self.mode(robot).name}, not {mode.name}"]
        self.event(event, robot, facts=self._facts()._replace(operator=True), by="operator")
        if self.mode(robot) is not mode:
            return []
        if mode is Mode.FAULT:
            return [f"its cause is still there: {self._why[robot]}"]
        return [one for one in self.objections(robot) if "halt" in one or "stop input" in one]

    def _facts(self) -> Facts:
        age_s = self._clock.now() - self._pose_s
        return Facts(
            operator=False,
            pose_fresh=age_s <= self.settings.pose_max_age_s,
            battery_ok=self._battery_ok,
            limits_ok=self._limits_ok,
            input_open=self._input_open,
            cause_gone=self._cause_gone,
        )

    def _note(
        self, robot: int, before: SafetyState, after: SafetyState, kind: Event, by: str
    ) -> None:
        mode = Mode(int(after.mode[robot]))
        name, why = kind.name.lower(), self._why[robot]
        self.counts[name] = self.counts.get(name, 0) + 1
        if mode in (Mode.FAULT, Mode.ESTOP):
            self._troubles.append(f"{self.robots[robot]} {mode.name}: {why}")
        level = logging.INFO if kind in (Event.CHECK_OK, Event.ARM, Event.STEP) else logging.WARNING
        _log.log(
            level,
            "robot=%s safety=%s from=%s event=%s why=%r",
            self.robots[robot],
            mode.name,
            Mode(int(before.mode[robot])).name,
            name,
            why,
        )
        if self._record is not None:
            values: dict[str, Any] = {"robot": self.robots[robot], "event": name, "why": why}
            self._record.write(
                "safety",
                urgent=mode in (Mode.FAULT, Mode.ESTOP),
                mode=mode.name,
                hold=bool(after.hold[robot]),
                by=by,
                **values,
            )

    def _keep(self) -> None:
        if self._memory is None:
            return
        with self._memory_lock:  # of its own: nobody who stops a robot waits for a disk
            stopped = np.flatnonzero(self._state.mode == Mode.ESTOP)
            epoch, halt_ep = self.floor()
            why = self._why[int(stopped[0])] if len(stopped) else ""
            self._memory.keep(
                Kept(epoch=epoch, halt_ep=halt_ep, estop=len(stopped) > 0, why=why[:200])
            )

    def _stop(self, which: BoolArray) -> None:
        if np.any(which):
            for callback in self.on_stop:
                callback(which)
