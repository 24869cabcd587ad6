# SPDX-License-Identifier: MIT
"""`Rollout`: one robot, then k, then all; a fault rate that is too high halts the fleet.

Pure: counts in, a decision out; `live_rollout` carries it out on a running fleet. A stage is passed
after `steps` steps with at most `fault_rate` faults a robot and step; nothing but an operator goes
on after a halt.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Literal

from kofn.controller.core.errors import InputError

OnTrouble = Literal["hold", "rollback", "halt"]
"""What becomes of robots that were let loose when a stage fails (`live_rollout`)."""


class Decision(Enum):
    """What to do after a step."""

    STAY = "stay"
    WIDEN = "widen"
    HALT = "halt"


class Rollout:
    """Stages of a fleet of n robots.

    Parameters
    ----------
    n, k
        Robots in all; robots of the second stage where no `stages` are given.
    steps
        Steps that a stage must last.
    fault_rate
        Faults a robot and step that are still taken, 0 to 1.
    stages
        Robots of each stage, rising, up to n; the last one is n whether named or not.
    """

    def __init__(
        self,
        n: int,
        k: int,
        *,
        steps: int = 10,
        fault_rate: float = 0.0,
        stages: Sequence[int] | None = None,
    ) -> None:
        if not 1 <= k <= n:
            raise InputError(f"second stage of {k} robots must lie in 1..{n}, the fleet size")
        if steps < 1:
            raise InputError(f"steps of a stage {steps} must be at least 1")
        if not 0 <= fault_rate <= 1:
            raise InputError(f"fault_rate {fault_rate} must lie in 0..1")
        sizes = sorted({1, k}) if stages is None else list(stages)
        if sizes != sorted(set(sizes)) or not all(1 <= size <= n for size in sizes):
            raise InputError(f"stages {sizes} must rise, from at least 1 to at most {n} robots")
        self.stages = sorted({*sizes, n})
        self._steps, self._rate = steps, fault_rate
        self._stage = self._done = self._faults = 0
        self.halted = False

    @property
    def allowed(self) -> int:
        """How many robots may move now, the first ones of the list; 0 after a halt."""
        return 0 if self.halted else self.stages[self._stage]

    @property
    def complete(self) -> bool:
        """Whether all robots may move."""
        return not self.halted and self._stage == len(self.stages) - 1

    def observe(self, faults: int) -> Decision:
        """Take the faults of one step among the robots allowed."""
        if self.halted:
            return Decision.HALT
        self._done += 1
        self._faults += faults
        # Against the steps of a whole stage: the first fault of many steps is not a rate of one.
        taken = max(self._done, self._steps) * self.allowed
        if self._faults > self._rate * taken:
            self.halted = True
            return Decision.HALT
        if self._done < self._steps or self.complete:
            return Decision.STAY
        self._stage, self._done, self._faults = self._stage + 1, 0, 0
        return Decision.WIDEN
