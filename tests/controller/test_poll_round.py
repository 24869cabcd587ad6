# SPDX-License-Identifier: MIT
"""Invariants of one poll round, whatever arrives in whatever order."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.link.messages import Flag, Reply, Row
from kofn.controller.poll_round import PollRound, RoundKey

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


def reply(key: RoundKey, answers: list[Row]) -> Reply:
    return Reply(ep=key.ep, t=key.t, q=key.q, b="boot", n=3, r=answers)


def make(k: int = 5, permutation: list[str] | None = None) -> PollRound:
    order = list(HOSTS) if permutation is None else permutation
    return PollRound(
        KEY, permutation=order, host_of=HOSTS, k=k, n_zones=ZONES, deadline_s=DEADLINE_S
    )


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
def test_counts_at_most_one_row_per_asked_robot(arrived: list[Arrival], k: int) -> None:
    poll_round = make(k)
    valid: dict[str, int] = {}
    for host, key, answers, now_s in arrived:
        poll_round.accept(host, reply(key, answers), now_s)
        for row in answers:
            countable = key == KEY and now_s < DEADLINE_S and HOSTS.get(row.id) == host
            zone = row.z if row.flag is Flag.OK else -1
            if zone is None or zone >= ZONES:
                continue
            if countable and row.id in poll_round.asked:
                valid.setdefault(row.id, zone)
    outcome = poll_round.close()
    expected = Counter(zone for zone in valid.values() if zone >= 0)
    assert sum(outcome.counts) == len(outcome.zones) <= k
    assert outcome.counts == tuple(expected[zone] for zone in range(ZONES))
    assert outcome.missing == k - len(valid)


@given(st.lists(arrivals, max_size=20))
def test_every_row_is_either_fresh_or_tallied(arrived: list[Arrival]) -> None:
    poll_round = make()
    tallied = rows_seen = 0
    for host, key, answers, now_s in arrived:
        tally = poll_round.accept(host, reply(key, answers), now_s)
        tallied += tally.total()
        rows_seen += len(answers) if key == KEY else max(1, len(answers))
    assert tallied + len(poll_round.close().zones) == rows_seen


@given(st.permutations([(robot, i % ZONES) for i, robot in enumerate(HOSTS)]))
def test_result_does_not_depend_on_the_order_of_arrival(arrived: list[tuple[str, int]]) -> None:
    poll_round = make(6)
    for robot, zone in arrived:
        poll_round.accept(HOSTS[robot], reply(KEY, [answer(robot, zone)]), 1.0)
    assert poll_round.close().zones == (0, 1, 2, 3, 0, 1)


@given(st.lists(arrivals, max_size=20))
def test_forged_late_and_foreign_replies_never_change_the_counts(arrived: list[Arrival]) -> None:
    honest, attacked = make(5), make(5)
    for robot in ("r0", "r1", "r2"):
        honest.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), 1.0)
        attacked.accept(HOSTS[robot], reply(KEY, [answer(robot, 1)]), 1.0)
        for host, key, answers, now_s in arrived:
            foreign_rows = [row for row in answers if HOSTS.get(row.id) != host]
            attacked.accept(host, reply(KEY, foreign_rows), 1.0)
            attacked.accept(host, reply(KEY, answers), DEADLINE_S + now_s)
            if key != KEY:
                attacked.accept(host, reply(key, answers), 1.0)
    assert attacked.close() == honest.close()


def test_first_row_of_a_robot_counts() -> None:
    poll_round = make(2)
    poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 1.0)
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 1)]), 2.0) == {"duplicate": 1}
    assert poll_round.accept("h0", reply(KEY, [answer("r0", 2)]), 3.0) == {"conflict": 1}
    assert poll_round.close().counts == (0, 1, 0, 0)


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
    assert poll_round.close().missing == 2


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
    assert poll_round.close().counts == (0, 0, 0, 0)
