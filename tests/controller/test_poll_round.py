# SPDX-License-Identifier: MIT
"""Invariants of one poll round, whatever arrives in whatever order."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.link.messages import Flag, Reply, Row
from kofn.controller.poll_round import Answer, Lack, Outcome, PollRound, RoundKey

KEY = RoundKey(3, 7, "00000000000000aa")
ZONES = 4
DEADLINE_S = 10.0
HOSTS = {f"r{i}": f"h{i % 3}" for i in range(9)}

Arrival = tuple[str, RoundKey, list[Row], float]

robots = st.sampled_from([*HOSTS, "stranger"])
rows = st.builds(
    Row,
    id=robots,
    z=st.none() | st.integers(0, ZONES + 1),
    flag=st.sampled_from(list(Flag)),
    age_ms=st.just(0),
)
keys = st.sampled_from(
    [KEY, KEY, KEY, RoundKey(3, 7, "0" * 16), RoundKey(3, 6, KEY.q), RoundKey(2, 7, KEY.q)]
)
arrivals = st.tuples(
    st.sampled_from(["h0", "h1", "h2", "intruder"]),
    keys,
    st.lists(rows, max_size=4),
    st.floats(0, 2 * DEADLINE_S),
)


def reply(key: RoundKey, answers: list[Row], boot: str = "boot") -> Reply:
    return Reply(ep=key.ep, t=key.t, q=key.q, b=boot, n=3, r=answers)


def make(k: int = 5, permutation: list[str] | None = None, *, waves: int = 1) -> PollRound:
    order = list(HOSTS) if permutation is None else permutation
    return PollRound(
        KEY,
        permutation=order,
        host_of=HOSTS,
        k=k,
        n_zones=ZONES,
        n_actions=3,
        deadline_s=DEADLINE_S,
        second_wave_s=DEADLINE_S / 2 if waves == 2 else None,
    )


def counts(outcome: Outcome) -> tuple[int, ...]:
    found = Counter(answer.zone for answer in (*outcome.fresh, *outcome.topped_up))
    return tuple(found[zone] for zone in range(ZONES))


def answer(robot: str, zone: int) -> Row:
    return Row(robot, zone, Flag.OK, 0)


@given(st.permutations(list(HOSTS)), st.integers(1, 12))
def test_asks_the_first_k_of_the_permutation_once_with_one_poll_per_host(
    permutation: list[str], k: int
) -> None:
    polls = make(k, permutation).polls(up_ms=5, ttl_ms=100)
    asked = [robot for poll in polls.values() for robot in poll.ids]
    assert sorted(asked) == sorted(permutation[:k])
    assert all(HOSTS[robot] == host for host, poll in polls.items() for robot in poll.ids)
    assert {(poll.ep, poll.t, poll.q, poll.w) for poll in polls.values()} == {(3, 7, KEY.q, 1)}


@given(st.lists(arrivals, max_size=30), st.integers(1, 9))
def test_counts_the_first_zone_of_each_asked_robot(arrived: list[Arrival], k: int) -> None:
    poll_round = make(k)
    first: dict[str, int] = {}
    spoken: set[str] = set()
    for host, key, answers, now_s in arrived:
        poll_round.accept(host, reply(key, answers), now_s)
        for row in answers:
            asked = row.id in poll_round.asked and HOSTS.get(row.id) == host
            if not asked or key != KEY or now_s >= DEADLINE_S:
                continue
            if row.flag is not Flag.OK:
                spoken.add(row.id)
            elif row.z is not None and row.z < ZONES:
                spoken.add(row.id)
                first.setdefault(row.id, row.z)
    outcome = poll_round.close()
    assert {answer.robot: answer.zone for answer in outcome.fresh} == first
    assert set(outcome.silent) == set(poll_round.asked) - spoken
    assert outcome.topped_up == ()


@given(st.lists(arrivals, max_size=20), st.sampled_from([1, 2]))
def test_every_row_is_either_an_answer_or_tallied(arrived: list[Arrival], waves: int) -> None:
    poll_round = make(3, waves=waves)
    tallied = rows_seen = 0
    for host, key, answers, now_s in arrived:
        if poll_round.second_wave_due(now_s):
            poll_round.open_second_wave()
        tally = poll_round.accept(host, reply(key, answers), now_s)
        tallied += tally.total()
        rows_seen += len(answers) if key == KEY else max(1, len(answers))
    assert tallied + sum(counts(poll_round.close())) == rows_seen


@given(st.permutations([(robot, i % ZONES) for i, robot in enumerate(HOSTS)]))
def test_result_does_not_depend_on_the_order_of_arrival(arrived: list[tuple[str, int]]) -> None:
    poll_round = make(6)
    for robot, zone in arrived:
        poll_round.accept(HOSTS[robot], reply(KEY, [answer(robot, zone)]), 1.0)
    assert [zone for _, zone, _ in poll_round.close().fresh] == [0, 1, 2, 3, 0, 1]


@given(
    st.permutations(list(HOSTS)),
    st.sets(st.sampled_from(list(HOSTS))),
    st.sets(st.sampled_from(list(HOSTS))),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_second_wave_replaces_whoever_is_silent_by_the_next_of_the_permutation(
    permutation: list[str], early: set[str], late: set[str], k: int, random: Any
) -> None:
    poll_round = make(k, permutation, waves=2)
    arrivals_ = [(robot, 1.0) for robot in early] + [(robot, 7.0) for robot in late]
    random.shuffle(arrivals_)
    for robot, at_s in sorted(arrivals_, key=lambda arrival: arrival[1]):
        if at_s > 5.0 and poll_round.second_wave_due(5.0):
            poll_round.open_second_wave()
        poll_round.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), at_s)
    if poll_round.second_wave_due(9.0):
        poll_round.open_second_wave()
    lacking = [robot for robot in permutation[:k] if robot not in early]
    assert poll_round.asked == tuple(permutation[: k + len(lacking)][: 2 * k])
    outcome = poll_round.close()
    answered = early | late
    assert [robot for robot, *_ in outcome.fresh] == [r for r in permutation[:k] if r in answered]
    topped_up = [robot for robot in poll_round.second_wave if robot in late]
    assert [robot for robot, *_ in outcome.topped_up] == topped_up


@given(st.lists(arrivals, max_size=20), st.sampled_from([1, 2]))
def test_forged_late_and_foreign_replies_never_change_the_counts(
    arrived: list[Arrival], waves: int
) -> None:
    honest, attacked = make(4, waves=waves), make(4, waves=waves)
    for poll_round in (honest, attacked):
        poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
        if poll_round.second_wave_due(6.0):
            poll_round.open_second_wave()
    for robot in ("r1", "r2", "r4"):
        honest.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), 6.0)
        attacked.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), 6.0)
        for host, key, answers, now_s in arrived:
            foreign_rows = [row for row in answers if HOSTS.get(row.id) != host]
            attacked.accept(host, reply(KEY, foreign_rows), 6.0)
            attacked.accept(host, reply(KEY, answers), DEADLINE_S + now_s)
            if key != KEY:
                attacked.accept(host, reply(key, answers), 6.0)
    assert attacked.close() == honest.close()


def test_second_wave_has_the_same_nonce_and_is_one_message_per_host() -> None:
    poll_round = make(4, waves=2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    assert not poll_round.second_wave_due(4.9)
    assert poll_round.wake_s == 5.0
    assert poll_round.second_wave_due(5.0)
    assert poll_round.open_second_wave()
    assert poll_round.wake_s == DEADLINE_S  # the deadline does not move
    polls = poll_round.polls(up_ms=5, ttl_ms=100, wave=2)
    assert {host: poll.ids for host, poll in polls.items()} == {
        "h1": ["r4"],
        "h2": ["r5"],
        "h0": ["r6"],
    }
    assert {(poll.q, poll.w) for poll in polls.values()} == {(KEY.q, 2)}
    assert not poll_round.second_wave_due(6.0)


def test_second_wave_does_not_wait_when_all_have_said_something() -> None:
    poll_round = make(2, waves=2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    assert not poll_round.second_wave_due(1.0)
    poll_round.accept("h1", reply(KEY, [Row("r1", None, Flag.UNAVAILABLE, 0)]), 1.0)
    assert not poll_round.is_closed(1.0)
    assert poll_round.second_wave_due(1.0)
    assert poll_round.open_second_wave()
    poll_round.accept("h2", reply(KEY, [answer("r2", 3)]), 1.0)
    assert poll_round.is_closed(1.0)
    assert poll_round.close().topped_up == (Answer("r2", 3),)


def test_second_wave_is_not_asked_when_the_first_is_complete_or_the_time_is_up() -> None:
    poll_round = make(2, waves=2)
    assert not poll_round.second_wave_due(DEADLINE_S)
    for robot in ("r0", "r1"):
        poll_round.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), 1.0)
    assert not poll_round.second_wave_due(6.0)


@pytest.mark.parametrize("last", [(ZONES, 0), (0, 3), (0, None), (None, 0)])
def test_row_with_an_impossible_last_transition_does_not_count(
    last: tuple[int | None, int | None],
) -> None:
    poll_round = make()
    tally = poll_round.accept("h0", reply(KEY, [Row("r0", 1, Flag.OK, 0, *last)]), 1.0)
    assert tally == {"out_of_range": 1}
    assert poll_round.close().fresh == ()


def test_last_transition_is_part_of_the_answer() -> None:
    poll_round = make()
    poll_round.accept("h0", reply(KEY, [Row("r0", 1, Flag.OK, 0, 2, 0)]), 1.0)
    assert poll_round.close().fresh == (Answer("r0", 1, (2, 0)),)


def test_how_many_are_replaced_can_be_chosen() -> None:
    seen: list[Lack] = []

    def none(lack: Lack) -> int:
        seen.append(lack)
        return 0

    poll_round = PollRound(
        KEY,
        permutation=list(HOSTS),
        host_of=HOSTS,
        k=4,
        n_zones=ZONES,
        n_actions=3,
        deadline_s=DEADLINE_S,
        second_wave_s=5.0,
        replacements=none,
    )
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    poll_round.accept("h1", reply(KEY, [Row("r1", None, Flag.UNAVAILABLE, 0)]), 1.0)
    poll_round.accept("h2", reply(KEY, [Row("r2", 1, Flag.STALE, 9)]), 1.0)
    assert poll_round.second_wave_due(5.0)
    assert not poll_round.open_second_wave()
    assert seen == [Lack(missing=("r2", "r3"), unavailable=1, heard=1)]
    assert poll_round.asked == ("r0", "r1", "r2", "r3")


def test_first_zone_of_a_robot_counts() -> None:
    poll_round = make(2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 2.0) == {"duplicate": 1}
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 2)]), 3.0) == {"conflict": 1}
    assert counts(poll_round.close()) == (0, 1, 0, 0)


def test_poll_parked_before_its_step_and_answered_twice_is_no_conflict() -> None:
    poll_round = make(2)
    stale = Row("r0", 3, Flag.STALE, 900)
    older = Row("r0", 3, Flag.STALE, 950)
    assert poll_round.accept("h0", reply(KEY, [stale]), 1.0) == {"stale": 1}
    assert poll_round.accept("h0", reply(KEY, [older]), 1.0) == {"stale": 1}
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 2.0) == {}
    outcome = poll_round.close()
    assert outcome.fresh == (Answer("r0", 1),)
    assert outcome.stale == ()


def test_robot_that_becomes_unavailable_after_its_answer_keeps_it() -> None:
    poll_round = make(2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    gone = Row("r0", None, Flag.UNAVAILABLE, 0)
    assert poll_round.accept("h0", reply(KEY, [gone]), 2.0) == {"unavailable": 1}
    assert poll_round.close().fresh == (Answer("r0", 1),)


def test_host_that_starts_anew_contradicts_nobody() -> None:
    poll_round = make(2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    again = reply(KEY, [answer("r0", 2)], boot="next")
    assert poll_round.accept("h0", again, 2.0) == {"duplicate": 1}
    assert poll_round.close().fresh == (Answer("r0", 1),)


def test_zone_that_comes_late_for_a_stale_robot_is_late_and_no_conflict() -> None:
    poll_round = make(2)
    poll_round.accept("h0", reply(KEY, [Row("r0", 3, Flag.STALE, 900)]), 1.0)
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), DEADLINE_S) == {"late": 1}
    assert poll_round.close().fresh == ()


def test_late_zones_are_handed_out_once_with_their_lateness() -> None:
    poll_round = make(2)
    poll_round.close(DEADLINE_S)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), DEADLINE_S + 0.5)
    poll_round.accept("h1", reply(KEY, [Row("r1", None, Flag.UNAVAILABLE, 0)]), DEADLINE_S + 1)
    assert poll_round.take_late() == ([Answer("r0", 1)], [0.5])
    assert poll_round.take_late() == ([], [])


def test_kinds_of_refused_rows_are_told_apart() -> None:
    poll_round = make(4)
    assert poll_round.accept("h1", reply(KEY, [answer("r0", 1)]), 1.0) == {"foreign": 1}
    assert poll_round.accept("h2", reply(KEY, [answer("r8", 1)]), 1.0) == {"foreign": 1}
    assert poll_round.accept("h0", reply(KEY, [answer("r0", ZONES)]), 1.0) == {"out_of_range": 1}
    stale = Row("r1", 2, Flag.STALE, 900)
    assert poll_round.accept("h1", reply(KEY, [stale]), 1.0) == {"stale": 1}
    unavailable = Row("r2", None, Flag.UNAVAILABLE, 0)
    assert poll_round.accept("h2", reply(KEY, [unavailable]), 1.0) == {"unavailable": 1}
    assert poll_round.accept("h0", reply(KEY, [answer("r3", 1)]), DEADLINE_S) == {"late": 1}
    outcome = poll_round.close()
    assert (outcome.silent, outcome.stale) == (("r0", "r3"), ("r1",))


def test_round_closes_when_all_have_answered_or_at_the_deadline() -> None:
    poll_round = make(2)
    assert not poll_round.is_closed(0.0)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    assert not poll_round.is_closed(DEADLINE_S - 1e-6)
    assert poll_round.is_closed(DEADLINE_S)
    poll_round.accept("h1", reply(KEY, [Row("r1", None, Flag.UNAVAILABLE, 0)]), 2.0)
    assert poll_round.is_closed(2.0)


def test_nothing_counts_after_the_close() -> None:
    poll_round = make(2)
    poll_round.close()
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0) == {"late": 1}
    assert counts(poll_round.close()) == (0, 0, 0, 0)
