# SPDX-License-Identifier: MIT
"""`LiveRollout`: a new policy on a running fleet, first on one robot, then on some, then on all.

    all hosts but those of the first stage are held
    the new policy goes to the hosts; steps go over to it
    each stage is watched for `steps` steps; the next hosts resume
    trouble: what was let loose is held, or goes back to the old policy, or the fleet is halted

A step names one policy, the fleet is never mixed: so robots of later stages stand still. Trouble is
a rate of faults above its limit (`rollout`), too few answers, a reward too far below the one
before, a halt, the end of the run, no step for `stall_s`, or a host that does not obey. Stages
count robots; a host resumes whole. Robots that were unavailable before come with the last stage and
are not waited for; hosts that somebody else holds stay held.

Nothing here talks to robots: orders go to the controller, what happens is read from its record
(`rollout_run`). A roll-out that is killed leaves the others held, for the operator to resume.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from kofn.controller.availability import RETRY_STEPS
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.order_box import Op
from kofn.controller.record import Entry
from kofn.launch.rollout import Decision, OnTrouble, Rollout
from kofn.launch.rollout_watch import Figures, StepSeen, Watch, faults, figures

log = logging.getLogger(__name__)

SETTLING_STEPS = 2
"""Steps after an order that are not judged: hosts that resume miss the one that is under way."""
LATEST_STEPS = SETTLING_STEPS + RETRY_STEPS
"""Who was asked just before it resumed is not asked again for `RETRY_STEPS`, and lacks so long."""
LOOK_S = 0.2


class RolloutSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage is passed.

    Attributes
    ----------
    stages
        Robots of each stage, rising; all robots come last by themselves.
    steps
        Steps that a stage is watched, and steps before that it is compared with.
    fault_rate
        Faults a robot and step that are taken, 0 to 1.
    answer_rate
        Least share of polled robots that must answer in a stage, 0 to 1.
    reward_drop
        By how much the mean reward of a stage may lie below that of before; None: not judged, for
        one robot says little about a reward over all.
    on_trouble
        "hold": all that was let loose stands still. "rollback": it does, then all go on with the
        old policy. "halt": the run ends.
    stall_s
        So long without a step is trouble, wall seconds.
    """

    stages: Sequence[int] = (1,)
    steps: int = 10
    fault_rate: float = 0.0
    answer_rate: float = 0.5
    reward_drop: float | None = None
    on_trouble: OnTrouble = "hold"
    stall_s: float = 60.0

    def checked(self) -> "RolloutSettings":
        """Return self; raises `InputError` naming the value and its range."""
        if not 0 <= self.answer_rate <= 1:
            raise InputError(f"answer_rate {self.answer_rate} must lie in 0..1")
        if self.reward_drop is not None and self.reward_drop < 0:
            raise InputError(f"reward_drop {self.reward_drop} must not be negative")
        if self.stall_s <= 0:
            raise InputError(f"stall_s {self.stall_s} must be positive")
        return self


class Trouble(Exception):  # noqa: N818  a judgement, not an error
    """Why the roll-out does not go on."""


class Steered(Protocol):
    """A run that goes on; `rollout_run.RunningFleet` is the real one."""

    def order(self, op: Op, hosts: Sequence[str] = (), *, file: str = "", why: str = "") -> None:
        """Give an order and wait until it is carried out; raises `RunError`."""
        ...

    def entries(self) -> Iterable[Entry]:
        """Return the records since the last call."""
        ...

    def policy_sha256(self) -> str:
        """Return the hash of the policy in force."""
        ...

    def over(self) -> bool:
        """Whether the run has ended."""
        ...


class LiveRollout:
    """One roll-out.

    Parameters
    ----------
    fleet
        The run.
    old, new
        (file, policy) in force, and to be let loose.
    settings
        Stages and limits.
    clock_s, pause
        Wall time, and a way to let it pass.
    told
        Called with one sentence for each thing that happens.
    """

    def __init__(
        self,
        fleet: Steered,
        old: tuple[Path, Policy],
        new: tuple[Path, Policy],
        settings: RolloutSettings,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        told: Callable[[str], None] = log.info,
    ) -> None:
        self._fleet, self._old, self._new = fleet, old, new
        self._settings = settings.checked()
        self._clock_s, self._pause, self._told = clock_s, pause, told
        self._watch = Watch(old[1])
        self._last_t = -1
        self._loose: list[str] = []
        self._stages: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Go through the stages; return what happened, `complete` first.

        Raises
        ------
        InputError
            Stages that this fleet does not have.
        RunError
            The run does not go on, or a host does not hold when told to: nothing was let loose.
        """
        steps = self._settings.steps
        past: list[StepSeen] = []
        while len(past) < steps:
            try:
                past += self._next_steps()
            except Trouble as trouble:
                raise RunError(f"before the roll-out: {trouble}") from trouble
        before = figures(past[-steps:])
        hosts = self._watch.hosts()
        # Who is available first: a stage is watched by what its robots answer.
        hosts = {
            name: hosts[name] for name in sorted(hosts, key=lambda name: (not hosts[name], name))
        }
        robots = sum(map(len, hosts.values()))
        if not robots:
            raise RunError("no robot of this run is available: a new policy could not be watched")
        rollout = Rollout(
            robots,
            1,
            steps=steps,
            fault_rate=self._settings.fault_rate,
            stages=whole_hosts(self._settings.stages, hosts),
        )
        self._loose = first(hosts, None if rollout.complete else rollout.allowed)
        self._hold([host for host in hosts if host not in self._loose])
        result: dict[str, Any] = {"complete": False, "robots": robots}
        result |= {"policy_sha256": self._new[1].sha256, "before": before._asdict()}
        loose = False
        try:
            self._switch(self._new)
            loose = True
            while True:
                last = rollout.complete
                self._play(rollout, {host: hosts[host] for host in self._loose}, before)
                if last:
                    break
                wider = first(hosts, None if rollout.complete else rollout.allowed)
                self._order("resume", [host for host in wider if host not in self._loose])
                self._loose = wider
        except Trouble as trouble:
            # A policy that never came into force is taken back, whatever trouble asks for.
            how = self._settings.on_trouble if loose else "rollback"
            return result | {"stages": self._stages, **self._end(str(trouble), list(hosts), how)}
        self._told("all robots follow the new policy")
        return result | {"complete": True, "stages": self._stages, "ended": "complete", "why": ""}

    def _hold(self, others: list[str]) -> None:
        """Hold the hosts of later stages; let them go on if one of them does not obey."""
        if not others:
            return
        try:
            self._fleet.order("hold", others, why="roll-out of a policy")
        except RunError:
            with suppress(RunError):  # of the host that did not hold, again
                self._fleet.order("resume", others, why="roll-out given up")
            raise
        self._told(f"{len(others)} hosts hold, {', '.join(self._loose)} go on")

    def _order(self, op: Op, hosts: Sequence[str], *, file: str = "") -> None:
        try:
            self._fleet.order(op, hosts, file=file, why="roll-out of a policy")
        except (RunError, InputError) as error:
            raise Trouble(str(error)) from error

    def _switch(self, policy: tuple[Path, Policy]) -> None:
        """Give a policy to the hosts and wait until steps name it."""
        self._order("policy", [], file=str(policy[0].resolve()))
        give_up_s = self._clock_s() + self._settings.stall_s
        while self._fleet.policy_sha256() != policy[1].sha256:
            if self._fleet.over():
                raise Trouble("the run has ended")
            if self._clock_s() >= give_up_s:
                raise Trouble(
                    f"the hosts do not hold the policy after {self._settings.stall_s:g} s"
                )
            self._pause(LOOK_S)
        self._watch.change_policy(policy[1])
        self._told(f"policy {policy[1].sha256[:12]} is in force")

    def _play(self, rollout: Rollout, hosts: dict[str, list[str]], before: Figures) -> None:
        """Watch one stage to its end; raises `Trouble`."""
        robots = sum(map(len, hosts.values()))
        steps: list[StepSeen] = []
        found = 0
        row: dict[str, Any] = {"robots": robots, "hosts": list(hosts)}
        self._stages.append(row | figures(steps)._asdict())
        coming = self._new_steps()
        resumed_t, settled = self._last_t, False
        while len(steps) < self._settings.steps:
            for step in coming:
                told = [f"{host}: {text}" for host, text in step.troubles if host in hosts]
                age = step.t - resumed_t
                whole = age > SETTLING_STEPS and step.frame >= robots
                settled = settled or whole or age > LATEST_STEPS or bool(told)
                if not settled:  # but a fault counts from the first moment
                    continue
                bad = faults(step, hosts)
                found += bad
                steps.append(step)
                self._stages[-1] = row | figures(steps, found)._asdict()
                if rollout.observe(bad) is Decision.HALT:
                    why = f" ({'; '.join(told)})" if told else ""
                    raise Trouble(
                        f"{found} faults in {len(steps)} steps of {robots} robots, more than "
                        f"fault_rate {self._settings.fault_rate:g}{why}"
                    )
                if len(steps) == self._settings.steps:
                    break
            else:
                coming = self._next_steps()
        seen = figures(steps, found)
        why = objection(seen, before, self._settings)
        if why:
            raise Trouble(why)
        self._told(f"stage of {robots} robots passed: {describe(seen)}; before: {describe(before)}")

    def _new_steps(self) -> list[StepSeen]:
        seen = self._watch.take(self._fleet.entries())
        if seen:
            self._last_t = seen[-1].t
        return seen

    def _next_steps(self) -> list[StepSeen]:
        """Wait for at least one step; raises `Trouble` when none comes."""
        give_up_s = self._clock_s() + self._settings.stall_s
        while True:
            seen = self._new_steps()
            if self._watch.halted:
                raise Trouble(self._watch.halted)
            if seen:
                return seen
            if self._fleet.over():
                raise Trouble("the run has ended")
            if self._clock_s() >= give_up_s:
                raise Trouble(f"no step for {self._settings.stall_s:g} s")
            self._pause(LOOK_S)

    def _end(self, why: str, hosts: list[str], how: OnTrouble) -> dict[str, Any]:
        """Do what trouble asks for; return how it ended."""
        self._told(f"trouble: {why}")
        ended = "over"
        if not (self._watch.halted or self._fleet.over()):
            try:
                ended = self._stop(hosts, how)
            except (Trouble, RunError, InputError) as error:
                why += f"; then {error}"
                ended = "not held"
        return {"ended": ended, "why": why}

    def _stop(self, hosts: list[str], how: OnTrouble) -> str:
        if how == "halt":
            self._order("halt", [])
            return "halted"
        self._order("hold", self._loose)
        if how == "hold":
            return "held"
        # Given while all stand still: the step with which they resume names the old one.
        self._order("policy", [], file=str(self._old[0].resolve()))
        self._order("resume", hosts)
        return "rolled back"


def objection(stage: Figures, before: Figures, settings: RolloutSettings) -> str:
    """What speaks against going on after a stage, one sentence; empty when nothing does."""
    rate, drop = stage.answer_rate, settings.reward_drop
    if rate is None or rate < settings.answer_rate:
        shown = "none" if rate is None else f"{rate:.2f}"
        return f"share of polled robots that answered {shown}, least {settings.answer_rate:g}"
    if drop is not None and stage.reward is not None and before.reward is not None:
        least = before.reward - drop
        if stage.reward < least:
            return (
                f"mean reward {stage.reward:.3f}, least {least:.3f} "
                f"(before {before.reward:.3f}, reward_drop {drop:g})"
            )
    return ""


def describe(seen: Figures) -> str:
    """Say figures in words."""
    rate = "unknown" if seen.answer_rate is None else f"{seen.answer_rate:.2f}"
    reward = "unknown" if seen.reward is None else f"{seen.reward:.3f}"
    return f"{seen.faults} faults in {seen.steps} steps, answered {rate}, reward {reward}"


def first(hosts: Mapping[str, Sequence[str]], robots: int | None) -> list[str]:
    """The first hosts that have `robots` available robots together; None: all hosts."""
    chosen: list[str] = []
    for host in hosts:
        if robots is not None and sum(len(hosts[name]) for name in chosen) >= robots:
            break
        chosen.append(host)
    return chosen


def whole_hosts(stages: Sequence[int], hosts: Mapping[str, Sequence[str]]) -> list[int]:
    """Robots of each stage when hosts resume whole; raises `InputError` where there are fewer."""
    robots = sum(map(len, hosts.values()))
    if list(stages) != sorted(set(stages)) or not all(1 <= size <= robots for size in stages):
        raise InputError(
            f"stages {list(stages)} must rise, from at least 1 to at most {robots} available robots"
        )
    return sorted({sum(len(hosts[name]) for name in first(hosts, size)) for size in stages})
