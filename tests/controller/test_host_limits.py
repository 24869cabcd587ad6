# SPDX-License-Identifier: MIT
"""What one host may say: enough for every honest one, an end for the others, and the allow-list."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.fleet_link import ROWS_PER_REPLY, host_limits
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.limits import HostGate
from kofn.controller.link.messages import Event, RobotRange, encode
from kofn.controller.record import RunFolder, read_decisions
from kofn.controller.results import Decision
from kofn.hardware import host_core


@given(st.integers(1, 5000), st.integers(1, 200))
def test_a_host_that_answers_all_polls_in_both_waves_never_overflows(k: int, steps: int) -> None:
    assert ROWS_PER_REPLY == host_core.ROWS_PER_REPLY
    replies = 2 * -(-k // ROWS_PER_REPLY)
    gate = HostGate(FakeClock(), host_limits(k))
    for _ in range(steps):
        gate.new_step()
        assert {gate.admit("h", "rep") for _ in range(replies)} == {"ok"}


def test_a_host_that_stood_still_for_a_hundred_steps_is_not_put_into_quarantine() -> None:
    gate = HostGate(FakeClock(), host_limits(100))
    for _ in range(100):
        gate.new_step()
    verdicts = [gate.admit("h", kind) for _ in range(100) for kind in ("rep", "rep")]
    assert verdicts.count("ok") >= 16
    assert "quarantined" not in verdicts


def test_one_host_answers_for_a_thousand_polled_robots(make_fleet: Any) -> None:
    fleet = make_fleet(2800)
    rng = np.random.default_rng(0)

    def change(_: object = None) -> None:
        fleet.banks["h0"].up[:] = rng.random(2800) < 0.5

    change()
    summary, decisions = fleet.run(k=600, steps=4, progress=change)
    assert all(len(decision.asked_instead) > 250 for decision in decisions)
    assert (summary.overflow, summary.quarantined_hosts) == (0, 0)
    assert sum(sum(decision.counts) for decision in decisions) > 4 * 400


def test_reconnects_and_broker_restarts_put_nobody_into_quarantine(make_fleet: Any) -> None:
    fleet = make_fleet(3, 4)

    def restart(decision: Decision) -> None:
        fleet.bus.restart()
        fleet.bus.break_connection(fleet.transports["h0"], reconnect=True)

    summary, decisions = fleet.run(steps=12, progress=restart)
    assert summary.completed
    assert (summary.overflow, summary.quarantined_hosts) == (0, 0)
    assert decisions[-1].frame == 7


def test_a_large_fleet_that_is_there_already_is_taken_in_whole(make_fleet: Any) -> None:
    fleet = make_fleet(*[1] * 150)
    summary, _ = fleet.run(k=20, steps=3)
    assert summary.robots == 150
    assert (summary.overflow, summary.quarantined_hosts) == (0, 0)


def flood(fleet: Any, host: str, at: int) -> Any:
    event = encode(Event(b=f"boot-{host}", code="noise", n=1, text="a\nforged line"))

    def progress(decision: Decision) -> None:
        if decision.t == at:
            for _ in range(500):
                fleet.transports[host].publish(f"kofn1/test/evt/{host}", event)

    return progress


def test_a_host_that_floods_is_left_out_and_named_once(
    make_fleet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(3, 4)
    caplog.set_level("INFO")
    summary, decisions = fleet.run(steps=9, progress=flood(fleet, "h1", 3))
    assert summary.completed
    assert summary.quarantined_hosts == 1
    assert summary.overflow == 201  # one above what is forgiven
    assert [decision.frame for decision in decisions] == [7] * 4 + [3] * 5
    assert caplog.text.count("host quarantined host=h1") == 1
    assert "too many messages of kind evt" in caplog.text
    assert "\nforged" not in caplog.text


@pytest.mark.parametrize("pace", ["lockstep", "realtime"])
def test_a_host_is_back_when_its_quarantine_is_over(make_fleet: Any, pace: Any) -> None:
    fleet = make_fleet(3)
    fleet.add("h1", 4, pace=pace)
    fleet.add("slow", 1, pace="realtime")  # keeps the clock going
    summary, decisions = fleet.run(steps=120, k=2, progress=flood(fleet, "h1", 3))
    frames = [decision.frame for decision in decisions]
    assert frames[:4] == [8] * 4
    assert 95 <= frames.count(4) <= 105  # 600 s of 6 s each
    assert frames[-1] == 8
    assert summary.quarantined_hosts == 1


def allowing(**hosts: Any) -> AllowList:
    return AllowList.of("test", hosts)


def listed(fleet: Any, allow_list: AllowList, **settings: Any) -> Any:
    loop = fleet.loop(**settings)
    loop._allow_list = allow_list
    return loop.run()


def test_a_host_that_is_not_on_the_list_is_not_listened_to(
    make_fleet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(3, 4)
    mine = allowing(h0=RobotRange(prefix="h0-", count=5))
    summary = listed(fleet, mine, robots=3, steps=6)
    assert (summary.completed, summary.robots) == (True, 3)
    assert summary.unlisted >= 3  # presence, roster, done
    assert {decision.frame for decision in read_decisions(fleet.folder.path)} == {3}
    assert caplog.text.count("refused class=unlisted host=h1") == 1


def test_a_roster_may_only_select_from_the_list(
    make_fleet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(3, 4)
    mine = allowing(h0=("h0-0", "h0-1", "h0-2", "h1-3"), h1=RobotRange(prefix="h1-", count=3))
    summary = listed(fleet, mine, robots=3)
    assert (summary.robots, summary.unlisted) == (3, 0)
    assert caplog.text.count("host=h1 reason=robot h1-3 is not its own on the allow-list") == 1


def test_a_list_that_leaves_too_few_robots_is_named_when_the_fleet_does_not_appear(
    make_fleet: Any,
) -> None:
    fleet = make_fleet(3, 4)
    mine = allowing(h0=RobotRange(prefix="h0-", count=3), h1=("h1-0",))
    with pytest.raises(RunError, match=r"h1: refused, robot h1-1 and 2 more is not its own"):
        listed(fleet, mine, wait_s=2.0)


def test_the_list_of_another_fleet_is_refused(make_fleet: Any, tmp_path: Path) -> None:
    fleet = make_fleet(3)
    loop = fleet.loop()
    with pytest.raises(InputError, match="that of fleet 'other', not of 'test'"):
        type(loop)(
            loop._config,
            loop._policy,
            fleet.bus.transport(),
            fleet.clock,
            RunFolder(tmp_path),
            1,
            allow_list=AllowList.of("other", {}),
        )
