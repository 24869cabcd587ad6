# SPDX-License-Identifier: MIT
"""What the robots of a host in counts say, one by one, adds up to its counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import StepTaken, read_host_log
from kofn.controller.link.messages import Halt, Pace, Row, encode
from kofn.controller.link.transport import Inbound
from kofn.sim.crowd import Crowd
from kofn.sim.crowd_host import CrowdAgent, CrowdBank, CrowdLog
from kofn.sim.motion import MotionKernel

ZONES, ACTIONS = 5, 3


class Counted:
    """A lockstep host in counts with its log, driven without a broker."""

    def __init__(self, n: int, path: Path, rig_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        table = rig_class.__init__.__globals__
        P = np.broadcast_to([0.6, 0.1, 0.1, 0.1, 0.1], (ZONES, ACTIONS, ZONES))
        crowd = Crowd(n, MotionKernel(P))
        self.log = CrowdLog(path, crowd)
        names = [f"r-{i}" for i in range(n)]

        def bank(_n: int, pace: Pace, clock: FakeClock) -> CrowdBank:
            return CrowdBank(
                crowd, names, seed=3, pace=pace, clock=clock, option_s=6.0, log=self.log
            )

        monkeypatch.setitem(table, "FakeBank", bank)
        monkeypatch.setitem(table, "HostAgent", CrowdAgent)
        self.rig = rig_class(n, "lockstep", log=self.log)

    def ask(self, t: int, robots: range) -> list[Row]:
        rows: list[Row] = self.rig.poll(t, ids=[f"r-{i}" for i in robots])
        return rows


@pytest.fixture(name="counted")
def _counted(rig_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counted = Counted(900, tmp_path / "log.jsonl", rig_class, monkeypatch)
    with counted.log:
        yield counted


def test_what_all_robots_say_is_what_the_log_counts(counted: Counted, tmp_path: Path) -> None:
    for t in range(4):
        counted.rig.step(t)
        early = counted.ask(t, range(40 * t, 40 * t + 60))  # some asked before, some not
        late = counted.ask(t, range(40 * t, 40 * t + 60))
        assert early == late
        assert all((row.z_prev is None) == (t == 0) for row in early)
    rows = counted.ask(3, range(900))
    counted.rig.step(4)
    after = counted.ask(4, range(900))
    assert [row.z for row in rows] == [row.z_prev for row in after]
    steps = [row for row in read_host_log(tmp_path / "log.jsonl") if isinstance(row, StepTaken)]
    assert all(sum(step.w) == 900 for step in steps)
    for said, cells in (
        ([(row.z_prev, row.a_prev) for row in rows], steps[2]),
        ([(row.z_prev, row.a_prev) for row in after], steps[3]),
    ):
        assert {cell: said.count(cell) for cell in said} == dict(
            zip(zip(cells.z, cells.a, strict=True), cells.w, strict=True)
        )
    zones = np.bincount([row.z or 0 for row in after], minlength=ZONES)
    logged = np.bincount(steps[4].z, weights=steps[4].w, minlength=ZONES)
    assert np.array_equal(zones, logged)


def test_a_crowd_that_was_stopped_before_it_set_off_stays_where_it_is(counted: Counted) -> None:
    rig = counted.rig
    crowd = rig.bank.crowd
    rig.step(0)
    before = crowd.counts
    for message in (rig.step_message(1), Halt(ep=1, by="operator")):
        rig.agent.on_message(Inbound(rig.topic(message), encode(message), False, 0.0))
    there = crowd.counts
    assert not np.array_equal(there, before)  # the option of step 0 was acted out
    rig.run(0.0)
    rig.step(0, ep=2)
    assert np.array_equal(crowd.counts, there)


def test_an_answer_tells_how_many_robots_there_are(counted: Counted) -> None:
    counted.rig.step(0)
    counted.ask(0, range(3))
    assert counted.rig.heard[-1].n == 900
    assert [row.flag for row in counted.ask(0, range(899, 901))] == [0, 3]
