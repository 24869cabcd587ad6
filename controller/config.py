# SPDX-License-Identifier: MIT
"""Settings of one controlled run, checked once, here.

| symbol | field | unit |
|---|---|---|
| k | `k`: robots polled per step | - |
| n | `robots`: fleet size; the run starts when so many are eligible | - |
| T | `period_s`: length of a step = of a robot's option | s |
| m_min | `m_min`: answers below which a step keeps the last action | - |
"""

from typing import Literal

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import Pace
from kofn.controller.link.topics import check_name

POLL_TTL_LOCKSTEP_S = 2.0
HOLD_PERIODS = 3
STEP_TTL_PERIODS = 2
MAX_KNOWN_AGE = 1000
_CHOICES = {
    "fill": ("topup-first", "known-first"),
    "known_ageing": ("model", "as-seen"),
    "estimator": ("plain", "weighted"),
}


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the controller of one run is told.

    Attributes
    ----------
    fleet
        Name of the fleet, a level of every topic.
    name
        Name of the run; part of the run folder's name.
    k
        Poll size: how many robots are asked per step.
    steps
        Step messages to send = poll rounds to hold.
    robots
        Fleet size expected; the run starts when so many robots are eligible.
    period_s
        Length of a step in fleet seconds.
    seed
        Seed of everything random in the run except the nonces.
    dispatcher
        "policy" follows the learned action table; "random" is the control run: the global action
        is uniform, and so is the local policy that the robots are given.
    memory
        "auto": the belief's memory as stored in the policy; "none": each poll by itself; a number:
        cap of the belief's pseudo-counts.
    wait_s
        How long to wait for the fleet to appear, for an empty frame to fill again, and for a lost
        broker to come back.
    poll_ttl_s
        Time that a poll round is open; None is 2 s in lockstep, half a period in real time.
    done_timeout_s
        Lockstep: after half of it a step is repeated, after all of it a silent host is dropped.
    hold_s
        Without a valid step for so long, robots hold; None is 3 periods.
    beat_s
        Repeat the controller's presence so often, so that robots with motors notice within their
        `link_s` that it froze; 0 does not (a dead one is told by its last will).
    m_min
        Fewer answers than this (fresh and topped up) keep the last action; None is ceil(k/2).
    waves
        2: robots that have not answered at half of the poll's time are replaced by others, at most
        2k robots in all; 1: they are not.
    fill
        What comes first where first-wave answers are missing: answers of the robots asked instead
        ("topup-first"), or what is remembered of the silent ones ("known-first": right when loss
        depends on where a robot is, and fewer polls).
    known_max_age
        A robot's last answer stands in for a missing one for so many steps; 0 remembers none.
    known_ageing
        "model" moves a remembered answer on through the local model, and weighs it by what is left
        of it; "as-seen" takes the robot to be where it was.
    pad
        Complete the recorded counts to k by drawing from the answers; never fed to the belief.
    estimator
        "plain" counts each answer once; "weighted" divides by the estimated chance to answer from
        its zone, and remembers and pads nothing.
    """

    fleet: str
    k: int
    steps: int
    robots: int
    name: str = "run"
    period_s: float = 6.0
    seed: int = 0
    dispatcher: Literal["policy", "random"] = "policy"
    memory: Literal["auto", "none"] | float = "auto"
    wait_s: float = 30.0
    poll_ttl_s: float | None = None
    done_timeout_s: float = 30.0
    hold_s: float | None = None
    beat_s: float = 0.0
    m_min: int | None = None
    waves: Literal[1, 2] = 2
    fill: Literal["topup-first", "known-first"] = "topup-first"
    known_max_age: int = 20
    known_ageing: Literal["model", "as-seen"] = "model"
    pad: bool = True
    estimator: Literal["plain", "weighted"] = "plain"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be run, one sentence each."""
        check_name("fleet", self.fleet)
        check_name("run", self.name)
        for what, count in (("poll size", self.k), ("steps", self.steps), ("robots", self.robots)):
            if count < 1:
                raise InputError(f"{what} {count} must be at least 1")
        if self.k > self.robots:
            raise InputError(f"poll size {self.k} exceeds fleet size {self.robots}")
        durations = ("period_s", "wait_s", "poll_ttl_s", "done_timeout_s", "hold_s")
        for what in durations:
            duration_s = getattr(self, what)
            if duration_s is not None and not 0 < duration_s < 1e6:
                raise InputError(f"{what} {duration_s} must lie above 0 and below 1000000 s")
        if self.beat_s != 0 and not 0.05 <= self.beat_s <= 10:
            raise InputError(f"beat_s {self.beat_s} must be 0, or lie in 0.05..10 s")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} must lie in 0..2^63-1")
        if not isinstance(self.memory, str) and not 1 <= self.memory < 1e9:
            raise InputError(f"memory {self.memory} must lie in 1..1e9 pseudo-counts")
        if self.m_min is not None and not 0 <= self.m_min <= self.k:
            raise InputError(f"m_min {self.m_min} must lie in 0..{self.k}, the poll size")
        if self.waves not in {1, 2}:
            raise InputError(f"waves {self.waves} must be 1 or 2")
        if not 0 <= self.known_max_age <= MAX_KNOWN_AGE:
            raise InputError(f"known_max_age {self.known_max_age} must lie in 0..{MAX_KNOWN_AGE}")
        for what, choices in _CHOICES.items():
            if getattr(self, what) not in choices:
                raise InputError(f"{what} {getattr(self, what)!r} must be one of {choices}")

    def poll_ttl(self, pace: Pace) -> float:
        """Seconds that a poll round stays open at this pace."""
        if self.poll_ttl_s is not None:
            return self.poll_ttl_s
        return POLL_TTL_LOCKSTEP_S if pace == "lockstep" else 0.5 * self.period_s

    @property
    def hold_ms(self) -> int:
        """Milliseconds without a valid step after which robots hold."""
        hold_s = HOLD_PERIODS * self.period_s if self.hold_s is None else self.hold_s
        return max(1, round(1000 * hold_s))

    @property
    def step_ttl_ms(self) -> int:
        """Milliseconds after which a robot idles that has heard no newer step."""
        return max(1, round(1000 * STEP_TTL_PERIODS * self.period_s))

    def fresh_needed(self, polled: int) -> int:
        """Answers needed to decide when the first wave asked `polled` robots (at most k)."""
        wanted = -(-polled // 2) if self.m_min is None else self.m_min
        return min(wanted, polled)
