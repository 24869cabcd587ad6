# SPDX-License-Identifier: MIT
"""A host in counts is a host: what is tested of hosts robot by robot holds for it, too.

The tests imported here run with the fixtures of this module, a crowd whose robots all have names
and hop where their action says.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_host_agent import (  # noqa: F401
    test_after_a_halt_nothing_moves_in_its_epoch,
    test_arriving_policy_is_listed_in_the_roster_and_moves_nothing,
    test_close_stops_motors_before_it_says_farewell,
    test_controller_of_an_old_epoch_hears_why_nobody_obeys,
    test_done_follows_the_end_of_the_option,
    test_halt_of_an_older_epoch_stops_nothing,
    test_hold_comes_after_the_time_that_ctl_says_and_only_a_newer_step_ends_it,
    test_hold_command_stops_and_resume_waits_for_the_next_step,
    test_last_transition_is_omitted_when_it_was_not_lived_through,
    test_lockstep_host_waits_for_ever_without_holding,
    test_open_announces_robots_spaces_and_no_policy,
    test_option_never_outlives_the_ttl_of_its_step,
    test_parked_poll_is_answered_stale_with_age_after_half_its_ttl,
    test_parked_poll_of_a_host_that_was_halted_meanwhile_is_unavailable,
    test_poll_before_any_step_is_unavailable,
    test_poll_older_than_the_latch_is_dropped_and_counted,
    test_poll_that_overtakes_its_step_waits_for_it,
    test_realtime_host_publishes_no_done,
    test_repeated_step_repeats_done_and_acts_once,
    test_rows_come_in_the_order_asked_in_one_reply,
    test_stale_duplicate_and_retained_steps_move_nothing,
    test_step_with_a_policy_that_is_not_held_holds_and_answers_unavailable,
    test_target_out_of_range_holds,
)
from test_host_properties import (
    test_host_keeps_its_laws_under_any_stream_of_messages as host_keeps_its_laws,
)

from kofn.controller.link.clock import FakeClock
from kofn.controller.link.messages import Pace
from kofn.hardware.agent import WHOLE_SHARE
from kofn.sim.crowd import Crowd
from kofn.sim.crowd_host import CrowdAgent, CrowdBank
from kofn.sim.motion import MotionKernel

ZONES, ACTIONS = 5, 3
HOPS = np.stack([np.roll(np.eye(ZONES), shift, axis=1) for shift in (0, 1, -1)], axis=1)


class OpenBank(CrowdBank):
    """A crowd that can be looked into, with the names of `conftest.FakeBank`."""

    def __init__(self, n: int, pace: Pace, clock: FakeClock) -> None:
        names = [f"r-{i}" for i in range(n)]
        crowd = Crowd(n, MotionKernel(HOPS))
        super().__init__(crowd, names, seed=0, pace=pace, clock=clock, option_s=6.0)
        self.calls: list[str] = []
        self.applied: list[npt.NDArray[np.int64]] = []

    def open(self) -> None:
        self.calls.append("open")
        super().open()

    def apply(self, actions: npt.NDArray[np.int64]) -> None:
        self.calls.append("apply")
        self.applied.append(self.crowd.acting.copy())
        super().apply(actions)

    def hold(self) -> None:
        self.calls.append("hold")
        super().hold()

    def close(self) -> None:
        self.calls.append("close")
        super().close()

    @property
    def moving(self) -> bool:
        return self._started_s is not None

    @property
    def zones(self) -> npt.NDArray[np.int64]:
        """Where robots will be found when the next step is taken now."""
        crowd = copy.deepcopy(self.crowd)
        if not self.moving or self._passed_s >= WHOLE_SHARE * self.option_s:
            crowd.move()
        return crowd.ask(np.arange(crowd.n)).zones


@pytest.fixture(name="rig_class")
def _crowd_rig_class(rig_class: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setitem(rig_class.__init__.__globals__, "FakeBank", OpenBank)
    monkeypatch.setitem(rig_class.__init__.__globals__, "HostAgent", CrowdAgent)

    def make(*args: Any, **keys: Any) -> Any:
        rig = rig_class(*args, **keys)
        rig.bank.crowd.ask(np.arange(rig.bank.crowd.n))  # so that looking changes nothing
        return rig

    return make  # type: ignore[return-value]


@pytest.fixture(name="rig")
def _rig(rig_class: Any) -> Any:
    return rig_class()


@pytest.fixture(name="lockstep")
def _lockstep(rig_class: Any) -> Any:
    return rig_class(pace="lockstep")


@pytest.mark.slow
def test_a_crowd_keeps_the_laws_of_hosts_under_any_stream_of_messages(rig_class: Any) -> None:
    host_keeps_its_laws(rig_class)
