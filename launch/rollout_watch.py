# SPDX-License-Identifier: MIT
r"""What the record of a run says of a fleet on which a new policy is let loose.

Pure: records in, one `StepSeen` a decision out.

.. math:: r(t) = r_g(g, u) + \sum_z \mu_z \sum_a \pi_l(a \mid z, g)\, r_l(g, z, a)

| symbol | name | shape | unit |
|---|---|---|---|
| mu | estimated distribution of the robots over zones (`Decision.share`) | (S_l,) | - |
| r | `reward`, expected from that estimate; NaN where there is none | - | reward |

A *fault* of a step is a robot that took part in the stage and is not to be had: its host reported a
fault, an emergency stop or a hold by its timers, or it answered that it is unavailable, or it is
out of the frame since. The largest of these counts, for they are often one and the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core.policy import Policy
from kofn.controller.link.messages import (
    Cmd,
    Conn,
    Ctl,
    Event,
    Flag,
    Halt,
    Reply,
    Roster,
    robot_ids,
)
from kofn.controller.record import Entry
from kofn.controller.results import Decision

FloatArray = npt.NDArray[np.float64]

TROUBLES = frozenset({"robot_stopped", "hold_timer", "controller_silent", "controller_lost"})
"""Events of a host that count as a fault: FAULT and ESTOP, and holds that nobody ordered."""


class StepSeen(NamedTuple):
    """One decision, and what went wrong since the one before.

    Attributes
    ----------
    t
        Step.
    frame
        Robots that could be polled.
    asked, heard
        Robots asked, and those that gave a zone in time.
    unavailable
        Robots that answered that they are disarmed, stopped or in FAULT.
    troubles
        (host, sentence) of each `TROUBLES` event.
    reward
        As in the module docstring.
    """

    t: int
    frame: int
    asked: int
    heard: int
    unavailable: frozenset[str]
    troubles: tuple[tuple[str, str], ...]
    reward: float


class Watch:
    """Hosts of a run and its steps, from its records.

    Parameters
    ----------
    policy
        The one in force; `change_policy` when another is.
    """

    def __init__(self, policy: Policy) -> None:
        self.halted = ""
        """Who halted the fleet, and why; empty while nobody has."""
        self._robots: dict[str, list[str]] = {}
        self._online: dict[str, tuple[str, int] | None] = {}
        self._held: set[str] = set()
        self._unavailable: set[str] = set()
        self._newly: set[str] = set()
        self._troubles: list[tuple[str, str]] = []
        self._ep = -1
        self.change_policy(policy)

    def change_policy(self, policy: Policy) -> None:
        """From now on rewards are those of `policy`."""
        game = policy.game
        self._r_g: FloatArray = game.r_g
        self._r_l: FloatArray = (policy.pi_l * game.r_l).sum(axis=2)

    def hosts(self) -> dict[str, list[str]]:
        """Hosts online that nobody holds -> those of their robots that were available last."""
        return {
            host: [robot for robot in robots if robot not in self._unavailable]
            for host, robots in sorted(self._robots.items())
            if self._online.get(host) is not None and host not in self._held
        }

    def take(self, entries: Iterable[Entry]) -> list[StepSeen]:
        """Take records in their order; return the steps that were decided in them."""
        seen = []
        for entry in entries:
            message, host = entry.message, entry.host
            if isinstance(message, Decision):
                seen.append(self._step(message))
            elif isinstance(message, Conn):
                here = (message.b, message.c)
                if message.st == "ONLINE":
                    self._online[host] = here
                elif self._online.get(host) == here:
                    self._online[host] = None
            elif isinstance(message, Roster):
                self._robots[host] = robot_ids(message.robots)
            elif isinstance(message, Cmd):
                (self._held.discard if message.op == "RESUME" else self._held.add)(host)
            elif isinstance(message, Reply):
                for row in message.r:
                    out = row.flag is Flag.UNAVAILABLE
                    (self._unavailable.add if out else self._unavailable.discard)(row.id)
                    if out:
                        self._newly.add(row.id)
            elif isinstance(message, Event) and message.code in TROUBLES:
                self._troubles.append((host, f"{message.code}: {message.text}"))
            elif isinstance(message, Ctl):
                self._ep = message.ep
            elif isinstance(message, Halt) and message.ep >= self._ep:
                self.halted = f"halted by {message.by}: {message.why}"
        return seen

    def _step(self, decision: Decision) -> StepSeen:
        troubles, self._troubles = tuple(self._troubles), []
        unavailable, self._newly = frozenset(self._newly), set()
        asked = len(decision.asked) + len(decision.asked_instead)
        g, reward = decision.g, float("nan")
        if decision.share:
            reward = float(self._r_g[g, decision.u] + np.asarray(decision.share) @ self._r_l[g])
        lost = decision.missing + decision.unavailable
        return StepSeen(
            t=decision.t,
            frame=decision.frame,
            asked=asked,
            heard=max(0, asked - lost),
            unavailable=unavailable,
            troubles=troubles,
            reward=reward,
        )


class Figures(NamedTuple):
    """Means over the steps of a stage."""

    steps: int
    faults: int
    answer_rate: float | None
    reward: float | None


def faults(step: StepSeen, hosts: Mapping[str, Sequence[str]]) -> int:
    """Faults of a step among robots that were available when they were let loose, by host."""
    robots = {robot for names in hosts.values() for robot in names}
    told = sum(host in hosts for host, _ in step.troubles)
    gone = len(step.unavailable & robots) + max(0, len(robots) - step.frame)
    return min(len(robots), max(told, gone))


def figures(steps: Sequence[StepSeen], faults: int = 0) -> Figures:
    """Summarise steps; None for what they do not tell."""
    asked = sum(step.asked for step in steps)
    rewards = np.array([step.reward for step in steps])
    known = rewards[np.isfinite(rewards)]
    return Figures(
        steps=len(steps),
        faults=faults,
        answer_rate=sum(step.heard for step in steps) / asked if asked else None,
        reward=float(known.mean()) if known.size else None,
    )
