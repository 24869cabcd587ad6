# SPDX-License-Identifier: MIT
"""The control loop with real host agents on the memory bus."""

from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.link.hostlog import StepTaken, read_host_log
from kofn.controller.link.memory import Faults
from kofn.controller.link.messages import Cmd, Ctl, Halt, Reply, encode
from kofn.controller.link.transport import Session
from kofn.controller.record import read_decisions, read_run
from kofn.controller.results import Decision


def trace(decisions: list[Decision]) -> list[tuple[Any, ...]]:
    return [(d.t, d.g, d.u, d.asked, d.counts, d.belief) for d in decisions]


def sent(fleet: Any, kind: str) -> list[Any]:
    return [entry.message for entry in read_run(fleet.folder.path) if entry.kind == kind]


def test_same_seed_gives_the_same_trace(make_fleet: Any) -> None:
    first = make_fleet(3, 4).run(seed=5)[1]
    again = make_fleet(3, 4).run(seed=5)[1]
    other = make_fleet(3, 4).run(seed=6)[1]
    assert trace(first) == trace(again)
    assert trace(first) != trace(other)


def test_trace_does_not_depend_on_the_order_of_arrival(make_fleet: Any) -> None:
    plain = make_fleet(3, 4).run(seed=5)[1]
    slow = Faults(seed=3, delay_s={"rep": (0.0, 1.5), "done": (0.0, 5.0)})
    delayed = make_fleet(3, 4, faults=slow).run(seed=5, poll_ttl_s=20.0)[1]
    assert trace(delayed) == trace(plain)


def test_every_step_is_sent_once_and_polled_once(make_fleet: Any) -> None:
    fleet = make_fleet(3, 4)
    summary, decisions = fleet.run(k=3, steps=9)
    assert [step.t for step in sent(fleet, "step")] == list(range(9))
    assert [decision.t for decision in decisions] == list(range(9))
    assert summary.completed
    assert (summary.steps, summary.polls_sent, summary.replies_used) == (9, 27, 27)
    assert summary.robots == 7


def test_at_most_k_states_are_received_per_step(make_fleet: Any) -> None:
    fleet = make_fleet(3, 4)
    summary, _ = fleet.run(k=2, steps=10)
    rows = Counter(reply.t for reply in sent(fleet, "reply") for _ in reply.r)
    assert max(rows.values()) == 2
    assert summary.replies_used <= 2 * 10


def test_step_carries_target_and_the_action_that_led_to_it(make_fleet: Any) -> None:
    fleet = make_fleet(5)
    _, decisions = fleet.run()
    steps = sent(fleet, "step")
    assert [step.g for step in steps] == [decision.g for decision in decisions]
    assert [step.u for step in steps[1:]] == [decision.u for decision in decisions[:-1]]


def test_robots_latch_and_act_on_the_target_of_the_step(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)
    _, decisions = fleet.run(steps=6, k=7)
    rows = [
        [row for row in read_host_log(fleet.logs / f"{host}.jsonl") if isinstance(row, StepTaken)]
        for host in ("h0", "h1")
    ]
    for log in rows:
        assert [row.g for row in log] == [decision.g for decision in decisions]
    for t, decision in enumerate(decisions):  # k = n: the answers are the latched zones of t
        latched = [zone for log in rows for zone in log[t].z]
        assert decision.counts == [latched.count(zone) for zone in range(4)]


def test_record_holds_the_last_transitions_of_the_robots_that_were_polled(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)
    _, decisions = fleet.run(steps=8, k=3)
    lived: dict[str, list[tuple[int, int]]] = {}
    for host, bank in fleet.banks.items():
        log = read_host_log(fleet.logs / f"{host}.jsonl")
        taken = [row for row in log if isinstance(row, StepTaken)]
        for i, robot in enumerate(bank.robots):
            lived[robot] = [(row.z[i], row.a[i]) for row in taken]
    recorded = read_decisions(fleet.folder.path)
    assert recorded[0].transitions == []
    for t in range(1, 8):
        expected = [(*lived[robot][t - 1], lived[robot][t][0]) for robot in decisions[t].asked]
        assert recorded[t].transitions == expected


def test_controller_says_goodbye(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.run(steps=2)
    watcher = fleet.bus._retained
    assert b'"OFFLINE"' in watcher["kofn1/test/ctl"]
    assert not [topic for topic in watcher if "/pol/" in topic]


def test_control_run_draws_actions_uniformly_and_sends_a_uniform_policy(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    summary, decisions = fleet.run(dispatcher="random", steps=60, seed=2)
    learned = make_fleet(4).run(steps=60, seed=2)[1]
    assert set(Counter(d.u for d in decisions)) == {0, 1, 2, 3}
    assert summary.dispatcher == "random"
    # the target's uniform numbers are shared: runs on one seed start alike and poll alike
    assert decisions[0].g == learned[0].g
    assert [d.asked for d in decisions] == [d.asked for d in learned]


def test_missing_robots_are_named_in_one_sentence(make_fleet: Any) -> None:
    fleet = make_fleet(3, 2)
    with pytest.raises(RunError, match=r"5 of 9 robots appeared within 4 s \(h0, h1: 5 ready\)"):
        fleet.run(robots=9, wait_s=4.0)
    summary = fleet.folder.read_summary()
    assert summary["completed"] is False
    assert "5 of 9" in summary["error"]


def test_host_that_dies_in_mid_run_leaves_the_frame(make_fleet: Any) -> None:
    fleet = make_fleet(4, 4)

    def kill(decision: Decision) -> None:
        if decision.t == 3:
            fleet.kill("h1")

    summary, decisions = fleet.run(steps=10, progress=kill)
    assert summary.completed
    assert [decision.frame for decision in decisions] == [8] * 4 + [4] * 6
    assert fleet.clock.now() < 1.0  # the will told: nothing had to time out


def test_host_that_comes_back_is_polled_again(make_fleet: Any) -> None:
    fleet = make_fleet(4, 4)

    def cut(decision: Decision) -> None:
        if decision.t == 3:
            fleet.kill("h1")
        if decision.t == 5:
            fleet.add("h2", 4, robots=("h1-0", "h1-1", "h1-2", "h1-3"))

    _, decisions = fleet.run(steps=10, progress=cut)
    assert decisions[4].frame == 4
    assert decisions[-1].frame == 8


def test_silent_host_is_dropped_after_its_time_out(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    fleet.add("mute", 4, mute_at=4)
    summary, decisions = fleet.run(steps=8, k=8, done_timeout_s=10.0, poll_ttl_s=2.0)
    assert summary.completed
    assert summary.dropped_hosts == 1
    assert [decision.frame for decision in decisions] == [8] * 5 + [4] * 3
    assert decisions[4].missing == 4
    assert decisions[4].m == (4, 0, 4, 0)  # k = n: all were heard of at the step before
    assert fleet.clock.now() == pytest.approx(10.0)
    assert fleet.agents["mute"].counters["step_repeated"] == 1


def test_nobody_answers_keeps_the_last_action_and_is_counted(make_fleet: Any) -> None:
    fleet = make_fleet(6, faults=Faults(drop={"rep": 1.0}))
    summary, decisions = fleet.run(steps=5)
    assert summary.fallback_steps == 5
    assert summary.replies_used == 0
    assert (summary.missing, summary.polls_instead) == (30, 15)  # both waves
    assert {decision.u for decision in decisions} == {0}
    assert fleet.clock.now() == pytest.approx(5 * 2.0)  # each round ended at its deadline


def test_empty_frame_ends_the_run_after_the_wait(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def kill(decision: Decision) -> None:
        if decision.t == 2:
            fleet.kill("h0")

    with pytest.raises(RunError, match=r"no robot could be polled for 5 s \(h0: offline\)"):
        fleet.run(progress=kill, wait_s=5.0)
    assert fleet.folder.read_summary()["steps"] == 3


def test_stop_request_ends_gracefully(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    seen: list[Decision] = []
    summary, _ = fleet.run(progress=seen.append, should_stop=lambda: len(seen) >= 3)
    assert not summary.completed
    assert summary.steps == 3
    assert fleet.folder.read_summary()["completed"] is False
    assert len(list(read_run(fleet.folder.path))) > 10


def test_halt_of_this_epoch_ends_the_run(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def halt(decision: Decision) -> None:
        if decision.t == 2:
            order = Halt(ep=1, by="operator", why="test")
            fleet.transports["h0"].publish("kofn1/test/halt", encode(order), retain=True)

    with pytest.raises(RunError, match="operator halted the fleet up to epoch 1: test"):
        fleet.run(progress=halt)


def test_halt_of_an_older_epoch_does_not(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    order = encode(Halt(ep=1, by="operator"))
    fleet.transports["h0"].publish("kofn1/test/halt", order, retain=True)
    assert fleet.run(epoch=2)[0].completed


def test_duplicated_replies_change_nothing(make_fleet: Any) -> None:
    plain = make_fleet(3, 4).run(seed=5)[1]
    fleet = make_fleet(3, 4, faults=Faults(duplicate={"rep": 1.0}))
    summary, doubled = fleet.run(seed=5)
    assert trace(doubled) == trace(plain)
    assert summary.duplicate == summary.replies_used


def test_forged_replies_change_nothing(make_fleet: Any) -> None:
    plain = make_fleet(3, 4).run(seed=5)[1]
    fleet = make_fleet(3, 4)
    forger = fleet.transports["h0"]

    def forge(decision: Decision) -> None:
        for t in (decision.t, decision.t + 1):
            rows = [[robot, 1, 0, 0] for robot in decision.asked]
            forged = {"v": 1, "ep": 1, "t": t, "q": "0" * 16, "b": "x", "n": 9, "r": rows}
            forger.publish("kofn1/test/rep/h0", msgspec.json.encode(forged))
        forger.publish("kofn1/test/rep/h0", b"{not json")

    summary, forged = fleet.run(seed=5, progress=forge)
    assert trace(forged) == trace(plain)
    assert summary.foreign > 0
    assert summary.malformed > 0


def test_retained_reply_is_refused(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    reply = encode(Reply(ep=1, t=0, q="0" * 16, b="x", n=3, r=[]))
    fleet.transports["h0"].publish("kofn1/test/rep/h0", reply, retain=True)
    assert fleet.run(steps=2)[0].malformed == 1


def test_foreign_host_with_the_same_robots_is_refused_by_command(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.add("thief", 3, robots=("x-1", "h0-1", "x-2"))
    summary, decisions = fleet.run(robots=3)
    assert summary.robots == 3
    assert {decision.frame for decision in decisions} == {3}
    refusals = [m for m in sent(fleet, "cmd") if isinstance(m, Cmd)]
    assert [refusal.op for refusal in refusals] == ["REFUSED"]
    assert "h0-1 already belongs to host h0" in refusals[0].why


def test_unavailable_robots_are_counted_apart_from_missing_ones(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    fleet.banks["h0"].up[:2] = False
    summary, _ = fleet.run(k=4, steps=3)
    assert (summary.unavailable, summary.missing, summary.replies_used) == (2, 0, 6)


def test_one_realtime_host_puts_the_run_on_a_grid(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.add("robot", 1, pace="realtime")
    times = []
    summary, _ = fleet.run(
        k=4, steps=5, period_s=6.0, progress=lambda d: times.append(fleet.clock.now())
    )
    assert summary.completed
    assert [ctl.pace for ctl in sent(fleet, "ctl")] == ["lockstep", "realtime"]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([6.0] * 4, abs=0.1)
    assert fleet.clock.now() == pytest.approx(30.0, abs=0.1)
    assert summary.skipped_ticks == 0


def test_overrun_skips_ticks_and_never_queues(make_fleet: Any) -> None:
    fleet = make_fleet()
    fleet.add("robot", 2, pace="realtime")
    times = []

    def overrun(decision: Decision) -> None:
        times.append(fleet.clock.now())
        if decision.t == 1:
            fleet.clock.advance_to(fleet.clock.now() + 15.0)

    summary, _ = fleet.run(k=2, steps=4, period_s=6.0, progress=overrun)
    assert summary.skipped_ticks == 2
    assert times == pytest.approx([0.0, 6.0, 24.0, 30.0], abs=0.1)


def test_game_whose_robots_see_the_next_target_is_refused(make_fleet: Any) -> None:
    one = np.ones((1, 1, 1))
    game = Game(one, np.ones((1, 1)), one[..., None], one, 0.9, local_sees="next", name="late")
    with pytest.raises(InputError, match="game late moves robots with the next target"):
        make_fleet(3).loop(policy=Policy.uniform(game, 2))


def test_second_run_into_the_same_folder_is_refused(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    loop = fleet.loop(steps=1)
    loop.run()
    with pytest.raises(InputError, match="already holds a run"):
        loop.run()


def test_broker_restart_is_survived(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)

    def restart(decision: Decision) -> None:
        if decision.t == 3:
            fleet.bus.restart()

    summary, decisions = fleet.run(steps=8, progress=restart, done_timeout_s=10.0)
    assert summary.completed
    assert decisions[-1].frame == 7
    assert decisions[-1].m == (3, 0, 0, 0)


def test_controller_that_lost_its_connection_for_a_moment_goes_on(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)

    def lose(decision: Decision) -> None:
        if decision.t == 3:
            fleet.bus.break_connection(loop._transport, reconnect=True)

    loop = fleet.loop(steps=8, progress=lose)
    summary = loop.run()
    assert summary.completed
    assert (summary.steps, summary.fallback_steps) == (8, 0)


def test_broker_gone_for_good_ends_the_run_after_the_wait(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def lose(decision: Decision) -> None:
        if decision.t == 3:
            fleet.bus.break_connection(loop._transport)

    loop = fleet.loop(steps=8, wait_s=5.0, progress=lose)
    with pytest.raises(RunError, match="the broker has been gone for 5 s"):
        loop.run()
    assert fleet.folder.read_summary()["steps"] >= 4
    assert fleet.clock.now() < 20.0


def test_controller_gives_way_to_a_later_one(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    first, folder = fleet.loop(steps=50, epoch=1), None

    def second(decision: Decision) -> None:
        nonlocal folder
        if decision.t == 3 and folder is None:
            folder = fleet.folder.path
            summary, _ = fleet.run(steps=5, epoch=2)  # evicts the first from the broker
            assert (summary.completed, summary.fallback_steps) == (True, 0)
            fleet.bus._join(first._transport)  # the first reconnects, as a transport does

    first._progress = second
    with pytest.raises(RunError, match="another controller, of epoch 2, has taken over fleet"):
        first.run()


def test_later_controller_is_not_disturbed_by_one_of_an_earlier_epoch(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    fleet.run(steps=2, epoch=4)
    stale = None

    def forge(decision: Decision) -> None:
        nonlocal stale
        if decision.t == 2:
            stale = fleet.bus.transport()
            stale.open(Session("old", [], lambda c: None, lambda c: []))
            ctl = Ctl(ep=4, b="x", c=9, st="ONLINE", pace="lockstep", period=1, hold=1)
            stale.publish("kofn1/test/ctl", encode(ctl), qos=1, retain=True)

    assert fleet.run(steps=6, epoch=5, progress=forge)[0].completed
    assert stale is not None


def test_epoch_counter_that_went_back_is_explained(
    make_fleet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(3)
    fleet.run(steps=2, epoch=7)
    with pytest.raises(RunError, match="no robot could be polled"):
        fleet.run(steps=2, epoch=3)
    assert "the fleet has had a controller of epoch 7, this one has 3" in caplog.text
    assert "step_old_epoch" in {event.code for event in sent(fleet, "event")}


def test_answer_that_arrived_in_time_counts_when_it_is_read_late(make_fleet: Any) -> None:
    fleet = make_fleet(3, 4)
    loop = fleet.loop(steps=3)
    transport, receive = loop._transport, loop._transport.receive
    stalls: list[float] = []

    def stalled(timeout_s: float) -> Any:
        rounds = loop._link._intake.rounds
        if rounds and len(stalls) < len(rounds):
            stalls.append(fleet.clock.now())
            fleet.bus._deliver_due()  # polls reach the hosts, answers the inbox; nobody reads them
            fleet.clock.advance_to(fleet.clock.now() + 60.0)  # this process was stopped
            return None
        return receive(timeout_s)

    transport.receive = stalled
    summary = loop.run()
    assert len(stalls) == 3
    assert (summary.replies_used, summary.late, summary.fallback_steps) == (9, 0, 0)


def test_host_that_leaves_between_two_ticks_is_waited_for(make_fleet: Any) -> None:
    fleet = make_fleet()
    fleet.add("robot", 2, pace="realtime")

    def lose(decision: Decision) -> None:
        if decision.t == 1:
            fleet.kill("robot")

    with pytest.raises(RunError, match="no robot could be polled"):
        fleet.run(k=2, steps=4, progress=lose)
    assert [step.t for step in sent(fleet, "step")] == [0, 1]  # none into an empty room
    assert [ctl.pace for ctl in sent(fleet, "ctl")] == ["lockstep", "realtime"]


def test_host_that_joins_late_is_polled_from_the_next_step_on(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def join(decision: Decision) -> None:
        if decision.t == 2:
            fleet.add("late", 2)

    summary, decisions = fleet.run(steps=6, progress=join)
    assert [decision.frame for decision in decisions] == [4, 4, 4, 6, 6, 6]
    assert summary.dropped_hosts == 0


def test_too_few_answers_keep_the_last_action(make_fleet: Any) -> None:
    fleet = make_fleet(4)

    def fail(decision: Decision) -> None:
        fleet.banks["h0"].up[:] = decision.t < 2

    _, decisions = fleet.run(steps=5, k=4, progress=fail)
    assert [decision.fallback for decision in decisions] == [False] * 3 + [True] * 2
    assert {decision.u for decision in decisions[2:]} == {decisions[2].u}


def test_hosts_whose_done_was_lost_are_asked_again_when_the_frame_is_empty(
    make_fleet: Any,
) -> None:
    fleet = make_fleet(4, faults=Faults())

    def lose_done(decision: Decision) -> None:
        fleet.bus.faults = Faults(drop={"done": 1.0}) if decision.t == 2 else Faults()

    def heal() -> bool:
        if fleet.clock.now() > 9.0:  # after the host was dropped, at 8 s
            fleet.bus.faults = Faults()
        return False

    summary, decisions = fleet.run(
        steps=6, done_timeout_s=8.0, wait_s=20.0, progress=lose_done, should_stop=heal
    )
    assert summary.completed
    assert summary.dropped_hosts == 1
    assert {decision.frame for decision in decisions} == {4}


probabilities = st.sampled_from([0.0, 0.2, 0.6])
delays = st.sampled_from([(0.0, 0.0), (0.0, 1.0), (0.5, 4.0)])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries({"rep": probabilities, "poll": probabilities, "done": probabilities}),
    st.fixed_dictionaries({"rep": probabilities, "poll": probabilities, "step": probabilities}),
    st.fixed_dictionaries({"rep": delays, "step": delays, "done": delays}),
    st.integers(0, 1000),
    st.integers(1, 7),
)
def test_any_loss_delay_and_repetition_leaves_the_books_in_order(
    make_fleet: Any,
    drop: dict[str, float],
    duplicate: dict[str, float],
    delay_s: dict[str, tuple[float, float]],
    seed: int,
    k: int,
) -> None:
    fleet = make_fleet(
        4, 3, faults=Faults(seed=seed, drop=drop, duplicate=duplicate, delay_s=delay_s)
    )
    summary, decisions = fleet.run(k=k, steps=6, done_timeout_s=8.0, wait_s=60.0, seed=seed)
    fleet.close()
    assert [decision.t for decision in decisions] == list(range(6))
    for decision in decisions:
        asked, instead = len(decision.asked), len(decision.asked_instead)
        assert asked == min(k, decision.frame)
        assert asked + instead == len({*decision.asked, *decision.asked_instead})
        assert instead <= asked
        fresh, topped_up, remembered, padded = decision.m
        assert sum(decision.counts) == fresh + topped_up <= asked
        assert decision.fallback == (fresh + topped_up < -(-asked // 2))
        if decision.fallback:
            assert (remembered, padded) == (0, 0)
        else:
            assert sum(decision.m) == asked  # all places are filled, and it is said with what
        assert len(decision.remembered) == remembered
        assert {*decision.remembered} <= {*decision.asked, *decision.asked_instead}
        assert decision.missing + fresh + topped_up + decision.surplus <= asked + instead
        assert sum(decision.share) == pytest.approx(1.0) or not decision.share
    used = sum(sum(decision.m[:2]) for decision in decisions)
    assert summary.replies_used == used <= k * 6
    assert summary.foreign == summary.malformed == summary.conflict == 0
    replies = [message for message in sent(fleet, "reply") if message.t < 6]
    stray = summary.late + summary.duplicate + summary.stale + summary.unavailable
    answers = summary.replies_used + summary.surplus
    assert sum(len(reply.r) for reply in replies) == answers + stray
