# SPDX-License-Identifier: MIT
"""`HostCore`: which steps a host obeys, what it latches, how it answers. No I/O, no clock.

On taking step t, in this order: the action of t-1 ends; zones are read and latched, z(t) (`see`);
actions are drawn, a(t) ~ pi_l(. | z(t), g(t)) (`act`); robots act. Polls for t are answered from
the latch, so an answer does not depend on when its poll arrives, nor on what the world did since;
one that came with its step is answered between the two, because a controller waits for it.

| event | condition | effect |
|---|---|---|
| step | (ep, t) is the latch's | not acted on again; a lockstep host repeats `Done` |
| step | (ep, t) below the latch's | dropped |
| step | ep below the highest seen | dropped, reported |
| step | older than its ttl when it came (realtime) | dropped |
| step | forbidden by halt or command, policy not held, wrong spaces | hold, polls answered flag 2 |
| step | otherwise | taken |
| poll | no step taken since boot, or robots held for a reason above | flag 2, no zone |
| poll | (ep, t) is the latch's | flag 0 from the latch; flag 3 for an id that is not ours |
| poll | newer than the latch (it overtook its step) | parked, one at most; after ttl/2 flag 1 |
| poll | older than the latch | dropped |

| symbol | name | shape | unit |
|---|---|---|---|
| z, a | latched zones, actions; -1 = unavailable, hold | (n,) | index |
| z_prev, a_prev | the same of step t-1 where its option was acted out, or -1 | (n,) | index |

The same code serves n = 1 and n = 10 000: a step costs array operations, a poll costs its k rows.
"""

from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.link.messages import Cmd, Ctl, Flag, Halt, Pace, Poll, Reply, Row, Step
from kofn.hardware.driver import HOLD, Reading
from kofn.hardware.local_policy import PolicyShelf, Uniforms, draw_actions

IntArray = npt.NDArray[np.int64]

ROWS_PER_REPLY = 500
"""A row takes at most 121 bytes, so that many stay below the 64 000 bytes of a payload."""

COMMANDS_REMEMBERED = 64

LATENESS_WINDOW_S = 600.0
"""How long the quickest step is remembered that later ones are compared with."""


class Verdict(Enum):
    """What to do with a step."""

    TAKE = "take"
    REPEAT = "repeat"  # the step that is latched already: say `Done` again, do not act again
    HOLD = "hold"  # stop, and stay stopped until a step is taken
    DROP = "drop"


class Judgement(NamedTuple):
    """A verdict, its counter (`code`) and a sentence for the event that reports it."""

    verdict: Verdict
    code: str
    text: str = ""


class Latch(NamedTuple):
    """State frozen when step (ep, t) was taken at fleet time `at_s`; arrays of shape (n,)."""

    ep: int
    t: int
    g: int
    zones: IntArray
    actions: IntArray
    z_prev: IntArray
    a_prev: IntArray
    at_s: float


class _Parked(NamedTuple):
    poll: Poll
    until_s: float


class HostCore:
    """State of one host between messages.

    Parameters
    ----------
    host, boot
        Name of the host; random id of this boot.
    robots
        Names of its robots, in the order of all arrays.
    shelf
        The local policies.
    n_targets
        S_g; a step's target lies below it.
    pace
        "lockstep": the world stands still between steps, so no timer ends an option or starts a
        hold. "realtime": step ttl and hold timer run from receipt.
    hold_s
        Hold timer in fleet seconds until a `Ctl` says otherwise.
    seed
        Seed of the actions drawn, see `local_policy`.
    floor_ep, halt_ep
        Highest epoch and highest halted epoch that this host remembers; -1 for none.
    needs_controller
        Hold at once when the controller's connection breaks, rather than at the end of the option.
    """

    def __init__(
        self,
        *,
        host: str,
        boot: str,
        robots: Sequence[str],
        shelf: PolicyShelf,
        n_targets: int,
        pace: Pace,
        hold_s: float,
        seed: int,
        floor_ep: int = -1,
        halt_ep: int = -1,
        needs_controller: bool = False,
    ) -> None:
        self._needs_controller = needs_controller
        self.host, self.boot = host, boot
        self.shelf = shelf
        self.counters: Counter[str] = Counter()
        self.latch: Latch | None = None
        self.refusal: str | None = None
        self.policy = ""  # that the newest live step names, whether obeyed or not
        self.halt_ep = halt_ep
        self.left = False  # LEAVE was obeyed: no step is taken any more
        self._n = len(robots)
        self._nobody = np.full(len(robots), HOLD, dtype=np.int64)
        self._nobody.flags.writeable = False
        self._acts_by = ""
        self._index = {name: i for i, name in enumerate(robots)}
        self._n_targets = n_targets
        self._realtime = pace == "realtime"
        self._hold_s = hold_s
        self._uniforms = Uniforms(seed, host)
        self._highest_ep = floor_ep
        self._ctl: Ctl | None = None
        self._ordered_ep = -1  # HOLD, LEAVE, REFUSED: no motion in epochs up to this one
        self._acknowledged: dict[str, tuple[bool, str]] = {}
        self._parked: _Parked | None = None
        self._whole = False  # the option of the latch was not cut short
        self._offsets: deque[tuple[float, float]] = deque()  # (received, received - up)
        self._offsets_ep = -1
        self._ttl_s: float | None = None  # when the option must end
        self._silence_s: float | None = None  # when the hold timer ends

    @property
    def beat_s(self) -> float:
        """How often the controller of this epoch says that it is alive; 0: it does not."""
        return self._ctl.beat / 1000 if self._ctl is not None and self._ctl.st == "ONLINE" else 0.0

    @property
    def highest_ep(self) -> int:
        """The highest epoch seen, the only one obeyed; -1 before any."""
        return self._highest_ep

    def see_ctl(self, ctl: Ctl) -> bool:
        """Take epoch and hold time from the controller's presence; it starts nothing.

        Returns
        -------
        bool
            Whether robots must hold now: the broker says that the connection of the controller of
            their epoch broke, and this is not the late will of a connection before (b, c).
        """
        if ctl.ep < self._highest_ep:
            self.counters["ctl_old_epoch"] += 1
            return False
        late = self._ctl is not None and self._ctl.b == ctl.b and ctl.c < self._ctl.c
        if late:
            self.counters["ctl_late_will"] += 1
            return False
        self._ctl = ctl
        self._highest_ep = ctl.ep
        hold_ms = ctl.hold or 3 * ctl.period
        if hold_ms:
            self._hold_s = hold_ms / 1000
        if ctl.st != "CONNECTION_BROKEN" or not self._needs_controller:
            return False
        self.counters["controller_lost"] += 1
        self.stop("the controller's connection broke")
        return True

    def see_halt(self, halt: Halt) -> bool:
        """Latch a halt; return whether robots must stop now."""
        self.counters["halt"] += 1
        self.halt_ep = max(self.halt_ep, halt.ep)
        acting_ep = self.latch.ep if self.latch else self._highest_ep
        if acting_ep > self.halt_ep:
            return False
        self.stop(f"halt of epoch {self.halt_ep}")
        return True

    def see_command(self, cmd: Cmd, age_s: float = 0.0) -> tuple[bool, str, bool]:
        """Obey a command once; return (ok, why, whether robots must stop now).

        `age_s` is how long ago it came.
        """
        if cmd.id in self._acknowledged:
            self.counters["cmd_repeated"] += 1
            return (*self._acknowledged[cmd.id], False)
        if cmd.ep < self._highest_ep:
            ok, why = False, f"epoch {cmd.ep} is over, the highest seen is {self._highest_ep}"
        elif age_s >= cmd.ttl / 1000:
            ok, why = False, f"it was read {age_s:.1f} s after it came, its ttl is {cmd.ttl} ms"
        elif self.left and cmd.op != "LEAVE":
            ok, why = False, "this host has left and must be started again"
        else:
            ok, why = True, ""
            # RESUME lifts the order only; motion waits for the next step.
            self._ordered_ep = -1 if cmd.op == "RESUME" else cmd.ep
            self.left = cmd.op == "LEAVE"
        self.counters[f"cmd_{cmd.op.lower()}"] += 1
        self._acknowledged[cmd.id] = ok, why
        while len(self._acknowledged) > COMMANDS_REMEMBERED:
            del self._acknowledged[next(iter(self._acknowledged))]
        stops = ok and cmd.op != "RESUME"
        if stops:
            self.stop(f"command {cmd.op}")
        return ok, why, stops

    def judge(self, step: Step, received_s: float, now_s: float) -> Judgement:
        """Decide about a live step; `HOLD` verdicts are in force at once."""
        if step.ep < self._highest_ep:
            text = f"step of epoch {step.ep}, but a controller of epoch {self._highest_ep} was here"
            return self._counted(Verdict.DROP, "step_old_epoch", text)
        self._highest_ep = step.ep
        self.policy = step.pol
        latch = self.latch
        if latch and (step.ep, step.t) <= (latch.ep, latch.t):
            if (step.ep, step.t) == (latch.ep, latch.t):
                return self._counted(Verdict.REPEAT, "step_repeated")
            return self._counted(Verdict.DROP, "step_stale")
        ttl_s = step.ttl / 1000
        if self._realtime and (
            now_s >= received_s + ttl_s or self._lateness_s(step, received_s) > ttl_s
        ):
            return self._counted(Verdict.DROP, "step_expired")
        forbidden = max(self.halt_ep, self._ordered_ep)
        if self.left:
            code, text = "step_left", f"step ({step.ep}, {step.t}): this host has left the fleet"
        elif step.ep <= forbidden:
            text = f"step ({step.ep}, {step.t}): motion is forbidden up to epoch {forbidden}"
            code = "step_halted"
        elif objection := self.shelf.objection(step.pol):
            text, code = f"step ({step.ep}, {step.t}): {objection}", "step_policy"
        elif not 0 <= target_of(step) < self._n_targets:
            code = "step_target"
            text = f"step ({step.ep}, {step.t}): target {step.g} is not below {self._n_targets}"
        else:
            return Judgement(Verdict.TAKE, "steps_taken")
        self.stop(text)
        return self._counted(Verdict.HOLD, code, text)

    def see(self, step: Step, reading: Reading, *, received_s: float, now_s: float) -> list[Reply]:
        """Latch the state: polls can be answered; return the replies that waited for it.

        Until `act` the robots of the latch hold.
        """
        zones = np.where(reading.up & (reading.zones >= 0), reading.zones, -1).astype(np.int64)
        z_prev = a_prev = self._nobody
        old = self.latch
        if old and (old.ep, old.t + 1) == (step.ep, step.t) and self._whole:
            known = (old.zones >= 0) & (old.actions != HOLD) & (zones >= 0)
            if reading.altered is not None:
                known &= ~reading.altered
            z_prev = np.where(known, old.zones, -1)
            a_prev = np.where(known, old.actions, -1)
        target = target_of(step)
        self.latch = Latch(step.ep, step.t, target, zones, self._nobody, z_prev, a_prev, now_s)
        self._acts_by = step.pol
        self.refusal = None
        self._whole = True
        if self._realtime:
            self._ttl_s = received_s + step.ttl / 1000
            self._silence_s = received_s + self._hold_s
        self.counters["steps_taken"] += 1
        parked = self._parked
        if parked is None or (parked.poll.ep, parked.poll.t) > (step.ep, step.t):
            return []
        self._parked = None
        return self.answer(parked.poll, received_s=now_s, now_s=now_s)

    def act(self) -> Latch:
        """Draw the actions of the latch that `see` made, once; return it with them."""
        latch = self.latch
        assert latch is not None  # noqa: S101  `see` comes first
        x = self._uniforms.draw(latch.t, self._n)
        actions = draw_actions(self.shelf.cdf(self._acts_by), latch.g, latch.zones, x)
        self.latch = latch._replace(actions=actions)
        return self.latch

    def answer(self, poll: Poll, *, received_s: float, now_s: float) -> list[Reply]:
        """Answer a live poll; an empty list when it is dropped or parked."""
        if poll.ep < self._highest_ep:
            self.counters["poll_old_epoch"] += 1
            return []
        latch = self.latch
        if self.refusal is not None or latch is None:
            self.counters["polls_unavailable"] += 1
            return self._replies(poll, None, Flag.UNAVAILABLE, now_s)
        if (poll.ep, poll.t) == (latch.ep, latch.t):
            self.counters["polls_answered"] += 1
            return self._replies(poll, latch, Flag.OK, now_s)
        if (poll.ep, poll.t) < (latch.ep, latch.t):
            self.counters["poll_old"] += 1
            return []
        self.counters["polls_parked"] += 1
        replies = self._unpark(now_s)
        self._parked = _Parked(poll, received_s + poll.ttl / 2000)
        return replies

    def due_s(self) -> float | None:
        """Fleet time at which `expire` has something to do; None when never."""
        times = [self._ttl_s, self._silence_s, self._parked.until_s if self._parked else None]
        return min((time_s for time_s in times if time_s is not None), default=None)

    def expire(self, now_s: float) -> tuple[str | None, list[Reply]]:
        """End what is over; return (why robots must stop now or None, replies of parked polls)."""
        why = None
        if self._ttl_s is not None and now_s >= self._ttl_s:
            self._ttl_s = None
            why = "ttl_over"
        if self._silence_s is not None and now_s >= self._silence_s:
            self._silence_s = None
            self.counters["hold_timer"] += 1
            why = "hold_timer"
        replies: list[Reply] = []
        if self._parked and now_s >= self._parked.until_s:
            replies = self._unpark(now_s)
        return why, replies

    def cut(self) -> None:
        """Note that the option under way was cut short: its transition is not reported."""
        self._whole = False

    def stop(self, why: str) -> None:
        """Hold until a step is taken; polls are answered unavailable meanwhile."""
        self.refusal = why
        self._whole = False
        self._ttl_s = self._silence_s = None

    def _counted(self, verdict: Verdict, code: str, text: str = "") -> Judgement:
        self.counters[code] += 1
        return Judgement(verdict, code, text)

    def _unpark(self, now_s: float) -> list[Reply]:
        parked, self._parked = self._parked, None
        if parked is None:
            return []
        if self.refusal is not None:
            self.counters["polls_unavailable"] += 1
            return self._replies(parked.poll, None, Flag.UNAVAILABLE, now_s)
        self.counters["polls_stale"] += 1
        return self._replies(parked.poll, self.latch, Flag.STALE, now_s)

    def _lateness_s(self, step: Step, received_s: float) -> float:
        """Time that the step spent on its way beyond the quickest one of the window."""
        if step.ep != self._offsets_ep:  # `up` starts again with each epoch
            self._offsets_ep = step.ep
            self._offsets.clear()
        offset_s = received_s - step.up / 1000
        # Rising offsets only: the first one is the minimum of the window.
        while self._offsets and self._offsets[-1][1] >= offset_s:
            self._offsets.pop()
        self._offsets.append((received_s, offset_s))
        while self._offsets[0][0] < received_s - LATENESS_WINDOW_S:
            self._offsets.popleft()
        return offset_s - self._offsets[0][1]

    def _replies(self, poll: Poll, latch: Latch | None, flag: Flag, now_s: float) -> list[Reply]:
        # The zone was read when the step was taken: its age is that of the latch, 0 for this step.
        age_ms = round((now_s - latch.at_s) * 1000) if latch and flag is Flag.STALE else 0
        rows = [self._row(name, latch, flag, age_ms) for name in poll.ids]
        alive = int((latch.zones >= 0).sum()) if latch else 0
        size = ROWS_PER_REPLY
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [
            Reply(ep=poll.ep, t=poll.t, q=poll.q, b=self.boot, n=alive, r=batch)
            for batch in batches
        ]

    def _row(self, name: str, latch: Latch | None, flag: Flag, age_ms: int) -> Row:
        i = self._index.get(name)
        if i is None:
            return Row(name, None, Flag.UNKNOWN, 0)
        if latch is None or latch.zones[i] < 0:
            return Row(name, None, Flag.UNAVAILABLE, 0)
        z = int(latch.zones[i])
        if flag is not Flag.OK or latch.a_prev[i] < 0:
            return Row(name, z, flag, age_ms)
        return Row(name, z, flag, age_ms, int(latch.z_prev[i]), int(latch.a_prev[i]))


def target_of(step: Step) -> int:
    """Target g of a step: the number, or the first entry of a list; -1 of an empty list."""
    if isinstance(step.g, list):
        return step.g[0] if step.g else -1
    return step.g
