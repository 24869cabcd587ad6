# SPDX-License-Identifier: MIT
"""What a host does with steps, polls, timers, halts, commands and policies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.link.hostlog import HostLog, StepTaken, read_host_log
from kofn.controller.link.messages import (
    Ack,
    Cmd,
    Conn,
    Ctl,
    Done,
    Event,
    Flag,
    Halt,
    Reply,
    RobotRange,
    Roster,
    Row,
    encode,
    robot_ids,
)
from kofn.controller.link.policies import pack_policy, spaces_of
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.hardware.agent import REALTIME_SLICE_S, HostAgent
from kofn.hardware.announce import offer
from kofn.hardware.driver import HOLD


def codes(rig: Any) -> list[str]:
    return [event.code for event in rig.all(Event)]


def test_open_announces_robots_spaces_and_no_policy(rig: Any) -> None:
    first = rig.all(Roster)[0]
    assert rig.all(Conn)[0].st == "ONLINE"
    assert robot_ids(first.robots) == list(rig.bank.robots)
    assert isinstance(first.robots, RobotRange)
    assert spaces_of(5, 5, 3) == (first.S, first.G, first.A)
    assert first.have == []
    assert rig.bank.calls[:2] == ["open", "hold"]


def test_arriving_policy_is_listed_in_the_roster_and_moves_nothing(rig: Any) -> None:
    assert rig.all(Roster)[-1].have == [f"sha256:{rig.policy}"]
    assert rig.bank.applied == []


def test_four_newest_policies_are_kept(rig: Any) -> None:
    digests = []
    for i in range(1, 6):
        pi_l = np.full((5, 5, 3), 1 / 3)
        pi_l[0, 0] = [1 - 0.1 * i, 0.1 * i, 0.0]
        digest, payload = pack_policy(pi_l)
        digests.append(f"sha256:{digest}")
        rig.publish_policy(digest, payload)
    rig.run(0.0)
    assert rig.all(Roster)[-1].have == digests[1:]


def test_close_stops_motors_before_it_says_farewell(rig: Any) -> None:
    rig.step(0)
    rig.agent.close()
    assert rig.bank.calls[-2:] == ["hold", "close"]
    rig.run(0.0)
    assert (rig.all(Conn)[-1].st, rig.all(Conn)[-1].c) == ("OFFLINE", 1)
    rig.agent.close()


def test_broken_connection_publishes_the_will_of_that_connection(rig: Any) -> None:
    rig.bus.break_connection(rig.transport)
    rig.run(0.0)
    last = rig.all(Conn)[-1]
    assert (last.st, last.b, last.c) == ("CONNECTION_BROKEN", "boot-1", 1)


def test_reply_equals_the_latch_whatever_the_world_did_since(rig: Any) -> None:
    latched = rig.bank.zones.copy()
    rig.step(0, run_s=3.0)
    rig.bank.zones = (latched + 1) % 5
    rows = rig.poll(0)
    assert [row.z for row in rows] == latched.tolist()
    assert {(row.flag, row.age_ms) for row in rows} == {(Flag.OK, 0)}


def test_rows_come_in_the_order_asked_in_one_reply(rig: Any) -> None:
    rig.step(0)
    rows = rig.poll(0, ids=["r-4", "r-0", "r-2"])
    assert [row.id for row in rows] == ["r-4", "r-0", "r-2"]
    assert len(rig.all(Reply)) == 1


def test_unknown_robot_is_flag_3_and_unavailable_is_flag_2_without_zone(rig: Any) -> None:
    rig.bank.up[1] = False
    rig.step(0)
    rows = rig.poll(0, ids=["nobody", "r-1", "r-0"])
    assert rows[0] == Row("nobody", None, Flag.UNKNOWN, 0)
    assert rows[1] == Row("r-1", None, Flag.UNAVAILABLE, 0)
    assert rows[2].flag is Flag.OK
    assert rig.bank.applied[0][1] == -1
    assert rig.all(Reply)[-1].n == 5


def test_last_transition_is_what_the_robot_saw_and_did(lockstep: Any) -> None:
    before = lockstep.bank.zones.copy()
    lockstep.step(0)
    actions = lockstep.bank.applied[0]
    lockstep.step(1)
    rows = lockstep.poll(1)
    assert [(row.z_prev, row.a_prev) for row in rows] == list(
        zip(before.tolist(), actions.tolist(), strict=True)
    )
    assert all(row.z_prev is None and row.a_prev is None for row in lockstep_first_rows(lockstep))


def lockstep_first_rows(rig: Any) -> list[Row]:
    fresh = type(rig)(pace="lockstep")
    fresh.step(0)
    return list(fresh.poll(0))


@pytest.mark.parametrize("cut", ["missed step", "halt", "early step"])
def test_last_transition_is_omitted_when_it_was_not_lived_through(rig: Any, cut: str) -> None:
    rig.step(0, run_s=2.0)
    if cut == "missed step":
        rig.run(4.0)
        rig.step(2)
        rows = rig.poll(2)
    elif cut == "halt":
        rig.send(Halt(ep=1, by="operator"), run_s=4.0)
        rig.step(1, ep=2)
        rows = rig.poll(1, ep=2)
    else:
        rig.step(1)
        rows = rig.poll(1)
    assert all(row.flag is Flag.OK and row.z_prev is None for row in rows)


def test_transition_of_a_robot_whose_action_was_altered_is_omitted(lockstep: Any) -> None:
    lockstep.step(0)
    lockstep.bank.altered = np.arange(6) == 2
    lockstep.step(1)
    assert [row.id for row in lockstep.poll(1) if row.z_prev is None] == ["r-2"]


def test_realtime_transition_survives_an_option_cut_by_a_few_milliseconds(rig: Any) -> None:
    rig.step(0, run_s=5.9)
    rig.step(1)
    assert all(row.a_prev is not None for row in rig.poll(1))


def test_target_may_be_a_list_of_which_the_first_counts(rig_class: Any) -> None:
    pi_l = np.zeros((5, 5, 3))
    pi_l[..., 0] = 1.0
    pi_l[3] = [0.0, 1.0, 0.0]
    rig = rig_class(pi_l=pi_l)
    rig.step(0, g=[3, 1])
    assert set(rig.bank.applied[0].tolist()) == {1}


@pytest.mark.parametrize(("g", "code"), [(5, "step_target"), ([], "step_target")])
def test_target_out_of_range_holds(rig: Any, g: Any, code: str) -> None:
    rig.step(0, g=g)
    assert rig.bank.applied == []
    assert rig.counters[code] == 1


def test_same_seed_host_and_step_draw_the_same_whatever_came_before(rig_class: Any) -> None:
    first, second, other = rig_class(40), rig_class(40), rig_class(40, host="host-b")
    for t in range(4):
        first.step(t, run_s=6.0)
    for rig in (second, other):
        rig.bank.zones = first.bank.zones.copy()
        rig.step(3)
    np.testing.assert_array_equal(first.bank.applied[3], second.bank.applied[0])
    assert (other.bank.applied[0] != second.bank.applied[0]).any()


def test_stale_duplicate_and_retained_steps_move_nothing(rig: Any) -> None:
    rig.step(5, ep=3, run_s=6.0)
    for t, ep in ((5, 3), (4, 3), (0, 3), (99, 2)):
        rig.step(t, ep=ep)
    rig.send(rig.step_message(6, 3), retained=True)
    assert len(rig.bank.applied) == 1
    assert rig.counters["step_repeated"] == 1
    assert rig.counters["step_stale"] == 2
    assert rig.counters["step_old_epoch"] == 1
    assert rig.counters["step_retained"] == 1


def test_ctl_of_a_higher_epoch_makes_older_steps_inert_and_moves_nothing(rig: Any) -> None:
    rig.send(ctl(ep=7), retained=True)
    rig.step(0, ep=6)
    assert rig.bank.applied == []
    assert rig.counters["step_old_epoch"] == 1
    rig.step(0, ep=7)
    assert len(rig.bank.applied) == 1


def test_controller_of_an_old_epoch_hears_why_nobody_obeys(rig: Any) -> None:
    rig.send(ctl(ep=7), retained=True)
    rig.step(0, ep=6)
    (event,) = [e for e in rig.all(Event) if e.code == "step_old_epoch"]
    assert event.text == "step of epoch 6, but a controller of epoch 7 was here"


def ctl(ep: int = 1, **changes: Any) -> Ctl:
    fields: dict[str, Any] = {
        "ep": ep,
        "b": "boot-c",
        "c": 1,
        "st": "ONLINE",
        "pace": "realtime",
        "period": 6000,
        "hold": 0,
    }
    return Ctl(**{**fields, **changes})


@pytest.mark.parametrize("state", ["OFFLINE", "CONNECTION_BROKEN"])
def test_controller_that_goes_offline_stops_nothing(rig: Any, state: str) -> None:
    rig.step(0, run_s=1.0)
    rig.send(ctl(st=state), run_s=1.0)
    assert rig.bank.moving


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[]", b'{"v":2}', b"null", b"0" * 70_000])
@pytest.mark.parametrize("kind", ["step", "poll", "ctl", "halt", "cmd", "pol"])
def test_malformed_payload_is_counted_and_nothing_happens(
    rig: Any, kind: str, payload: bytes
) -> None:
    topics = rig.topics
    name = {"poll": rig.host, "cmd": rig.host, "pol": "ab" * 32}.get(kind)
    topic = topics.of(kind, name) if name else getattr(topics, kind)
    rig.agent.on_message(Inbound(topic, payload, retained=False, at_s=0.0))
    assert rig.counters[f"{kind}_malformed"] == 1
    assert rig.bank.applied == []


def test_step_that_spent_longer_than_its_ttl_on_its_way_is_dropped(rig: Any) -> None:
    rig.step(0, run_s=6.0)
    late = rig.step_message(1)
    rig.run(6.5)  # the network held it back
    rig.send(late)
    assert rig.counters["step_expired"] == 1
    assert len(rig.bank.applied) == 1


def test_step_that_waited_longer_than_its_ttl_in_the_queue_is_dropped(rig: Any) -> None:
    step = rig.step_message(0)
    rig.run(7.0)
    rig.agent.on_message(Inbound(rig.topics.step, encode(step), retained=False, at_s=0.5))
    assert rig.counters["step_expired"] == 1
    assert rig.bank.applied == []


def test_poll_before_any_step_is_unavailable(rig: Any) -> None:
    assert {(row.z, row.flag) for row in rig.poll(0)} == {(None, Flag.UNAVAILABLE)}


def test_poll_that_overtakes_its_step_waits_for_it(rig: Any) -> None:
    rig.step(0, run_s=6.0)
    assert rig.poll(1) == []
    latched = rig.bank.zones.copy()
    rig.step(1)
    reply = rig.all(Reply)[-1]
    assert (reply.t, [row.z for row in reply.r]) == (1, latched.tolist())
    assert {row.flag for row in reply.r} == {Flag.OK}


def test_parked_poll_is_answered_stale_with_age_after_half_its_ttl(rig: Any) -> None:
    rig.step(0, run_s=6.0)
    rig.poll(1, ttl=2000)
    rig.run(0.999)
    assert rig.all(Reply) == []
    rig.run(0.002)
    (reply,) = rig.all(Reply)
    assert {(row.flag, row.age_ms) for row in reply.r} == {(Flag.STALE, 7000)}


def test_only_one_poll_is_parked(rig: Any) -> None:
    rig.step(0, run_s=6.0)
    rig.poll(1, q="a" * 16)
    rig.poll(1, q="b" * 16)
    assert [(r.q, r.r[0].flag) for r in rig.all(Reply)] == [("a" * 16, Flag.STALE)]
    rig.step(1)
    assert [r.q for r in rig.all(Reply)] == ["a" * 16, "b" * 16]


def test_parked_poll_of_a_host_that_was_halted_meanwhile_is_unavailable(rig: Any) -> None:
    rig.step(0, run_s=6.0)
    rig.poll(1, ttl=2000)
    rig.send(Halt(ep=1, by="operator"), run_s=1.0)
    (reply,) = rig.all(Reply)
    assert {(row.z, row.flag) for row in reply.r} == {(None, Flag.UNAVAILABLE)}


def test_poll_older_than_the_latch_is_dropped_and_counted(rig: Any) -> None:
    rig.step(3, run_s=1.0)
    assert rig.poll(2) == []
    rig.run(5.0)
    assert rig.all(Reply) == []
    assert rig.counters["poll_old"] == 1


def test_retained_poll_is_not_answered(rig: Any) -> None:
    rig.step(0)
    rig.send(rig.poll_message(0), retained=True)
    assert rig.all(Reply) == []
    assert rig.counters["poll_retained"] == 1


def test_long_reply_is_split_below_the_payload_limit(rig_class: Any) -> None:
    rig = rig_class(1200)
    rig.step(0)
    rows = rig.poll(0)
    assert [row.id for row in rows] == list(rig.bank.robots)
    assert [len(reply.r) for reply in rig.all(Reply)] == [500, 500, 200]


def test_option_never_outlives_the_ttl_of_its_step(rig: Any) -> None:
    rig.step(0, ttl=2000, run_s=1.99)
    assert rig.bank.moving
    rig.run(0.01)
    assert not rig.bank.moving
    assert rig.counters["ttl_over"] == 1


def test_hold_comes_after_the_time_that_ctl_says_and_only_a_newer_step_ends_it(rig: Any) -> None:
    rig.send(ctl(hold=9000))
    rig.step(0, ttl=60_000, run_s=8.99)
    assert rig.counters.get("hold_timer", 0) == 0
    rig.run(0.01)
    assert rig.counters["hold_timer"] == 1
    assert rig.bank.calls[-1] == "hold"
    rig.step(0)
    rig.run(0.5)
    assert not rig.bank.moving
    rig.step(1)
    assert rig.bank.moving


def test_hold_time_is_three_periods_by_default(rig: Any) -> None:
    rig.step(0, run_s=17.9)
    assert "hold_timer" not in rig.counters
    rig.run(0.1)
    assert rig.counters["hold_timer"] == 1
    assert "hold_timer" in codes(rig)


def test_lockstep_host_waits_for_ever_without_holding(lockstep: Any) -> None:
    lockstep.step(0, run_s=1000.0)
    assert lockstep.counters == {"policies": 1, "steps_taken": 1}
    assert {row.flag for row in lockstep.poll(0)} == {Flag.OK}


@pytest.mark.parametrize("retained", [False, True])
def test_after_a_halt_nothing_moves_in_its_epoch(rig: Any, retained: bool) -> None:
    rig.step(0, ep=4, run_s=1.0)
    rig.send(Halt(ep=4, by="operator"), retained=retained)
    rig.run(0.0)
    assert not rig.bank.moving
    rig.step(1, ep=4)
    rig.agent.on_message(Inbound(rig.topics.halt, b"", retained=False, at_s=0.0))
    rig.send(Halt(ep=2, by="operator"))
    rig.step(2, ep=4)
    assert len(rig.bank.applied) == 1
    assert {row.flag for row in rig.poll(2, ep=4)} == {Flag.UNAVAILABLE}
    assert codes(rig).count("halted") == 2
    rig.step(0, ep=5)
    assert len(rig.bank.applied) == 2


def test_halt_of_an_older_epoch_stops_nothing(rig: Any) -> None:
    rig.step(0, ep=4, run_s=1.0)
    rig.send(Halt(ep=3, by="operator"))
    assert rig.bank.moving


def test_hold_command_stops_and_resume_waits_for_the_next_step(rig: Any) -> None:
    rig.step(0, run_s=1.0)
    hold = Cmd(ep=1, id="c1", op="HOLD", ttl=1000)
    rig.send(hold)
    assert not rig.bank.moving
    rig.step(1)
    assert len(rig.bank.applied) == 1
    rig.send(Cmd(ep=1, id="c2", op="RESUME", ttl=1000), run_s=1.0)
    assert not rig.bank.moving
    rig.step(2, run_s=1.0)
    assert rig.bank.moving
    rig.send(hold)  # repeated: acknowledged, not executed
    assert rig.bank.moving
    assert [(ack.id, ack.ok) for ack in rig.all(Ack)] == [("c1", True), ("c2", True), ("c1", True)]


def test_command_of_an_old_epoch_is_refused_and_a_retained_one_dropped(rig: Any) -> None:
    rig.step(0, ep=3, run_s=1.0)
    rig.send(Cmd(ep=2, id="c1", op="HOLD", ttl=1000))
    assert (rig.all(Ack)[-1].ok, rig.bank.moving) == (False, True)
    rig.send(Cmd(ep=3, id="c2", op="HOLD", ttl=1000), retained=True)
    assert rig.bank.moving
    assert rig.counters["cmd_retained"] == 1


def test_step_with_a_policy_that_is_not_held_holds_and_answers_unavailable(rig: Any) -> None:
    rig.step(0, run_s=1.0)
    rig.step(1, pol="sha256:" + "0" * 64)
    assert not rig.bank.moving
    assert {row.flag for row in rig.poll(1)} == {Flag.UNAVAILABLE}
    assert codes(rig) == ["step_policy"]
    rig.step(2)
    assert rig.bank.moving
    assert {row.flag for row in rig.poll(2)} == {Flag.OK}


def test_policy_for_other_spaces_is_held_but_not_obeyed(rig: Any) -> None:
    digest, payload = pack_policy(np.full((5, 4, 3), 1 / 3))
    rig.publish_policy(digest, payload)
    rig.step(0, pol=f"sha256:{digest}")
    assert rig.bank.applied == []
    assert "spaces" in rig.agent.holding


def test_policy_that_does_not_hash_to_its_topic_is_dropped_with_an_event(rig: Any) -> None:
    rosters = len(rig.all(Roster))
    rig.publish_policy("ab" * 32, rig.policy_payload)
    rig.run(0.0)
    assert codes(rig) == ["pol_malformed"]
    assert len(rig.all(Roster)) == rosters


def test_events_are_limited_to_one_a_second_and_count_repeats(rig: Any) -> None:
    for _ in range(50):
        rig.agent.on_message(Inbound(rig.topics.step, b"{", retained=False, at_s=0.0))
    rig.run(0.0)
    assert [event.n for event in rig.all(Event)] == [1]
    rig.controller.publish(rig.topics.step, b"{")
    rig.run(1.1)
    assert [event.n for event in rig.all(Event)] == [1, 50]


def test_done_follows_the_end_of_the_option(lockstep: Any) -> None:
    lockstep.step(0)
    (done,) = lockstep.all(Done)
    assert (done.ep, done.t, done.n, done.sim) == (1, 0, 6, 6000)


def test_repeated_step_repeats_done_and_acts_once(lockstep: Any) -> None:
    lockstep.step(0)
    zones = lockstep.bank.zones.copy()
    lockstep.step(0)
    first, second = lockstep.all(Done)
    assert first == second
    assert len(lockstep.bank.applied) == 1
    np.testing.assert_array_equal(lockstep.bank.zones, zones)


def test_polls_are_answered_between_slices_of_the_option(lockstep: Any) -> None:
    agent = lockstep.agent
    step, poll = lockstep.step_message(0), lockstep.poll_message(0)
    agent.on_message(Inbound(lockstep.topics.step, encode(step), retained=False, at_s=0.0))
    assert agent.on_time() == 0.0  # busy: call again at once
    topic = lockstep.topics.of("poll", lockstep.host)
    agent.on_message(Inbound(topic, encode(poll), retained=False, at_s=0.0))
    assert lockstep.bank.moving
    while agent.on_time() is not None:
        pass
    lockstep.run(0.0)
    kinds = [type(message) for message in lockstep.heard if isinstance(message, (Reply, Done))]
    assert kinds == [Reply, Done]


def test_a_realtime_bank_that_says_when_it_has_work_is_left_alone_until_then(
    rig_class: Any,
) -> None:
    plain = rig_class()
    timed = rig_class(make_bank=type("Timed", (type(plain.bank),), {"due_s": lambda _: 0.75}))
    for rig, wake_s in ((plain, REALTIME_SLICE_S), (timed, 0.75)):
        payload = encode(rig.step_message(0))
        rig.agent.on_message(Inbound(rig.topics.step, payload, retained=False, at_s=0.0))
        assert rig.agent.on_time() == wake_s
        assert rig.bank.moving


def test_a_poll_that_came_with_its_step_is_answered_before_the_robots_are_set_off(rig: Any) -> None:
    """The controller waits for it; the latch is read already."""
    rig.poll(0)
    rig.heard.clear()
    calls = rig.bank.calls
    calls.clear()
    for message in (rig.step_message(0), rig.poll_message(0)):
        rig.agent.on_message(Inbound(rig.topic(message), encode(message), False, 0.0))
    assert calls == []
    rig.agent.on_time()
    assert calls == ["apply"]
    rig.run(0.0)
    (reply,) = rig.all(Reply)
    assert [row.flag for row in reply.r] == [Flag.OK] * len(rig.bank.robots)


class Guard:
    """Safety that has nothing to say."""

    link_s = 60.0

    def floor(self) -> tuple[int, int]:
        return -1, -1

    def see_epoch(self, epoch: int) -> None: ...

    def see_halt(self, epoch: int, by: str, why: str, *, live: bool) -> bool:
        return True

    def see_link(self, silence_s: float) -> None: ...

    def take_troubles(self) -> list[str]:
        return []


def test_robots_that_can_hurt_take_or_refuse_a_step_at_once(rig_class: Any) -> None:
    """Armed between a step and the next turn of the loop, they must not move on it."""
    rig = rig_class(guard=Guard())
    message = rig.step_message(0)
    rig.agent.on_message(Inbound(rig.topics.step, encode(message), False, rig.clock.now()))
    assert len(rig.bank.applied) == 1
    rig.agent.on_time()
    assert len(rig.bank.applied) == 1


def test_a_step_whose_time_is_over_before_the_robots_are_set_off_moves_nobody(rig: Any) -> None:
    """A process that was frozen between reading a step and acting on it."""
    message = rig.step_message(0, ttl=500)
    rig.agent.on_message(Inbound(rig.topics.step, encode(message), False, rig.clock.now()))
    rig.clock.advance_to(rig.clock.now() + 0.6)
    rig.agent.on_time()
    assert rig.bank.applied == []
    assert rig.bank.calls[-1] == "hold"


@pytest.mark.parametrize(
    "stop",
    [
        Halt(ep=1, by="operator"),
        Cmd(ep=1, id="0" * 16, op="HOLD", ttl=10_000),
        Cmd(ep=1, id="0" * 16, op="LEAVE", ttl=10_000),
    ],
    ids=["halt", "hold", "leave"],
)
def test_a_step_that_came_with_an_order_to_stop_moves_nobody(
    rig_class: Any, tmp_path: Path, stop: Halt | Cmd
) -> None:
    path = tmp_path / "host.jsonl"
    with HostLog(path) as log:
        rig = rig_class(log=log)
        for message in (rig.step_message(0), stop):
            rig.agent.on_message(Inbound(rig.topic(message), encode(message), False, 0.0))
        rig.run(20.0)
        assert rig.bank.applied == []
        assert "hold" in rig.bank.calls
        rig.agent.close()
    (taken,) = [row for row in read_host_log(path) if isinstance(row, StepTaken)]
    assert set(taken.a) == {HOLD}


def test_realtime_host_publishes_no_done(rig: Any) -> None:
    rig.step(0, ttl=60_000, run_s=10.0)
    assert not rig.bank.moving
    assert rig.all(Done) == []


def test_the_end_of_an_option_at_its_full_length_is_no_incident(rig: Any) -> None:
    rig.step(0, run_s=10.0)
    assert not rig.bank.moving
    assert "ttl_over" not in rig.counters


def test_a_step_repeated_in_mid_option_does_not_repeat_the_last_done(lockstep: Any) -> None:
    lockstep.step(0)
    agent, topic = lockstep.agent, lockstep.topics.step
    payload = encode(lockstep.step_message(1))
    for _ in range(2):
        agent.on_message(Inbound(topic, payload, retained=False, at_s=0.0))
        agent.on_time()
    assert lockstep.bank.moving
    lockstep.run(0.0)
    assert [done.t for done in lockstep.all(Done)] == [0]


def test_truth_log_holds_what_was_latched_and_done(rig_class: Any, tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    with HostLog(path) as log:
        rig = rig_class(log=log, pace="lockstep")
        rig.bank.up[2] = False
        zones = rig.bank.zones.copy()
        rig.step(0, u=1)
    (row,) = read_host_log(path)
    zones[2] = -1
    assert isinstance(row, StepTaken)
    assert (row.ep, row.t, row.g, row.u, row.z) == (1, 0, 2, 1, zones.tolist())
    assert row.a == rig.bank.applied[0].tolist()


def test_failing_open_releases_the_bank(rig_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = rig_class()
    with pytest.raises(RuntimeError):  # open already
        rig.agent.open()
    assert rig.bank.calls[-1] == "close"


class ListTransport:
    """Hands out a list of messages and keeps what is sent, as a real connection would."""

    def __init__(self, inbound: list[Inbound | None]) -> None:
        self.inbound = inbound
        self.sent: list[str] = []
        self.connected = True
        self.statistics: dict[str, int] = {}

    def open(self, session: Session, timeout_s: float = 10.0) -> None: ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        self.sent.append(topic.split("/")[2])
        return True

    def receive(self, timeout_s: float) -> Inbound | None:
        return self.inbound.pop(0) if self.inbound else None

    def close(self, farewell: tuple[Outbound, ...] = ()) -> None: ...


def test_run_answers_polls_while_the_world_computes_and_ends_when_told(rig_class: Any) -> None:
    rig = rig_class(pace="lockstep")
    policy = rig.topics.of("pol", rig.policy)
    inbound = [
        Inbound(policy, rig.policy_payload, retained=True, at_s=0.0),
        Inbound(rig.topics.step, encode(rig.step_message(0)), retained=False, at_s=0.0),
        None,
        Inbound(
            rig.topics.of("poll", rig.host), encode(rig.poll_message(0)), retained=False, at_s=0.0
        ),
        None,
    ]
    transport = ListTransport(inbound)
    rig.agent._transport = transport
    turns = 0

    def stop() -> bool:
        nonlocal turns
        turns += 1
        return turns > 10

    rig.agent.run(stop)
    assert turns == 11
    assert transport.sent == ["rep", "done"]


def test_run_reads_a_flood_in_portions_and_loses_nothing(rig: Any) -> None:
    rig.step(0)
    poll = Inbound(
        rig.topics.of("poll", rig.host), encode(rig.poll_message(0)), retained=False, at_s=0.0
    )
    transport = ListTransport([poll] * 200)
    rig.agent._transport = transport
    turns = iter([False] * 5)
    rig.agent.run(lambda: next(turns, True))
    assert transport.sent == ["rep"] * 200


def test_a_robot_named_twice_is_refused(rig_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="two robots of the same name"):
        offer(["a", "b", "a"])
    with pytest.raises(InputError, match="at least one"):
        offer([])
    assert offer(["a-1", "a-0"]) == ["a-1", "a-0"]


def test_roster_that_would_outgrow_a_payload_is_refused_at_the_start(rig: Any) -> None:
    def build(n: int) -> HostAgent:
        rig.bank.robots = tuple(f"robot-{i:058d}" for i in range(n, 0, -1))
        return HostAgent(
            fleet="yard",
            host="host-b",
            bank=rig.bank,
            transport=rig.transport,
            clock=rig.clock,
            seed=0,
        )

    build(930)
    with pytest.raises(InputError, match=r"Roster of 64\d\d\d bytes exceeds the limit of 64000"):
        build(955)


def test_agent_imports_neither_numba_nor_pybullet() -> None:
    code = (
        "import sys, kofn.hardware.agent, kofn.hardware.driver_bank, kofn.hardware.drivers.dry_run;"
        "print([m for m in ('numba', 'pybullet', 'paho', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
