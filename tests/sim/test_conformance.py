# SPDX-License-Identifier: MIT
"""The contract checker accepts a right world and names what is wrong with others."""

import numpy as np
import pytest
from jump_world import JumpWorld

from kofn.sim.conformance import check_world
from kofn.sim.world import IntArray, Snapshot


class ForgetsTheSeed(JumpWorld):
    def reset(self, seed: int) -> None:
        super().reset(5)


class IsNeverTheSame(JumpWorld):
    _calls = 0

    def reset(self, seed: int) -> None:
        IsNeverTheSame._calls += 1
        super().reset(IsNeverTheSame._calls)


class CountsZonesFromOne(JumpWorld):
    def observe(self) -> Snapshot:
        seen = super().observe()
        return seen._replace(zones=seen.zones + 1)


class SharesItsMemory(JumpWorld):
    def observe(self) -> Snapshot:
        return super().observe()._replace(zones=self._zones)


class TakesAnyAction(JumpWorld):
    def apply(self, actions: IntArray) -> None:
        super().apply(np.resize(np.clip(actions, -1, 2), self.spec.n))


class LivesOn(JumpWorld):
    def close(self) -> None:
        pass


class RunsLate(JumpWorld):
    def advance(self, duration_s: float) -> None:
        super().advance(duration_s - 0.1 if duration_s > 0.5 else duration_s)


class NeverHolds(JumpWorld):
    def apply(self, actions: IntArray) -> None:
        super().apply(actions)
        self._actions = np.where(actions < 0, 1, actions)


class HurriesWhenAskedToWait(JumpWorld):
    def advance(self, duration_s: float) -> None:
        super().advance(duration_s or 0.1)


class ForgetsWhoIsUp(JumpWorld):
    def observe(self) -> Snapshot:
        seen = super().observe()
        return seen._replace(up=np.ones(self.spec.n))  # type: ignore[arg-type]


class SeesNothing(JumpWorld):
    def observe(self) -> Snapshot:
        seen = super().observe()
        assert seen.poses is not None
        return seen._replace(poses=seen.poses * np.nan)


def test_right_world_passes() -> None:
    check_world(JumpWorld)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (ForgetsTheSeed, "seed changes nothing"),
        (IsNeverTheSame, "another trace"),
        (CountsZonesFromOne, "zones leave 0..4"),
        (SharesItsMemory, "memory"),
        (TakesAnyAction, "one robot too many is not refused"),
        (LivesOn, "after close is not refused"),
        (RunsLate, "time is"),
        (NeverHolds, "robots that hold change their zone"),
        (HurriesWhenAskedToWait, "advancing by 0 s takes time"),
        (ForgetsWhoIsUp, "up is not boolean"),
        (SeesNothing, "poses are not finite"),
    ],
)
def test_broken_world_is_named(broken: type[JumpWorld], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_world(broken)
