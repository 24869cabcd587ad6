# SPDX-License-Identifier: MIT
"""Token buckets, quarantine, and the audit log, on a fake clock."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.link.audit import AuditLog, one_line
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.limits import HostGate, Limits, TokenBucket


@given(
    st.integers(1, 10),
    st.floats(0.1, 5.0),
    st.lists(st.floats(0.0, 3.0), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(
    burst: int, rate: float, gaps: list[float]
) -> None:
    bucket = TokenBucket(burst, rate, 0.0)
    at, taken = 0.0, 0
    for gap in gaps:
        at += gap
        taken += bucket.take(at)
        assert taken <= burst + rate * at + 1e-6


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = TokenBucket(3, 1.0, 10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(10.9)
    assert bucket.take(11.0)
    assert not bucket.take(5.0)  # an older position gives nothing back


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1000.0)


def test_four_replies_a_step_go_through_for_ever(clock: FakeClock) -> None:
    gate = HostGate(clock)
    for _ in range(200):
        gate.new_step()
        assert [gate.admit("h", "rep") for _ in range(4)] == ["ok"] * 4
    assert gate.take_quarantined() == []


def test_replies_without_steps_overflow_and_end_in_quarantine(clock: FakeClock) -> None:
    gate = HostGate(clock, Limits(overflows=20))
    verdicts = Counter(gate.admit("h", "rep") for _ in range(100))
    assert verdicts == {"ok": 8, "overflow": 21, "quarantined": 71}
    assert gate.is_quarantined("h")
    ((host, why),) = gate.take_quarantined()
    assert host == "h"
    assert why == "it sent too many messages of kind rep"
    assert gate.take_quarantined() == []
    assert gate.admit("other", "rep") == "ok"
    assert not gate.is_quarantined("never seen")


def test_one_event_a_second_goes_through_and_ten_do_not(clock: FakeClock) -> None:
    gate = HostGate(clock)
    for _ in range(100):
        clock.advance_to(clock.now() + 1.0)
        assert gate.admit("calm", "evt") == "ok"
        for _ in range(10):
            gate.admit("loud", "evt")
    assert [q.host for q in gate.take_quarantined()] == ["loud"]


def test_an_overflow_now_and_then_is_forgiven(clock: FakeClock) -> None:
    gate = HostGate(clock)
    for _ in range(50):
        clock.advance_to(clock.now() + 60.0)
        assert Counter(gate.admit("h", "roster") for _ in range(15)) == {"ok": 10, "overflow": 5}
    assert not gate.is_quarantined("h")


def test_a_loud_kind_takes_nothing_from_the_others(clock: FakeClock) -> None:
    gate = HostGate(clock)
    for _ in range(15):
        gate.admit("h", "evt")
    assert gate.admit("h", "rep") == "ok"
    assert gate.admit("h", "conn") == "ok"


def test_the_third_conflict_means_quarantine_which_ends_in_a_fresh_start(clock: FakeClock) -> None:
    gate = HostGate(clock, Limits(quarantine_s=600.0))
    for _ in range(2):
        gate.conflict("h")
    assert gate.admit("h", "rep") == "ok"
    gate.conflict("h")
    assert gate.admit("h", "rep") == "quarantined"
    gate.conflict("h")  # changes nothing any more
    assert [why for _, why in gate.take_quarantined()] == [
        "it answered 3 questions in two different ways"
    ]
    clock.advance_to(1599.9)
    assert gate.is_quarantined("h")
    clock.advance_to(1600.0)
    assert not gate.is_quarantined("h")
    gate.conflict("h")
    assert gate.admit("h", "rep") == "ok"


acts = st.tuples(
    st.sampled_from(["a", "b"]),
    st.sampled_from(["rep", "done", "evt", "conflict", "step", "wait"]),
)


@given(st.lists(acts, max_size=300))
def test_no_order_of_events_lets_more_through_than_the_limits(
    events: list[tuple[str, str]],
) -> None:
    """Neither the budget of a step nor a quarantine can be talked around."""
    clock = FakeClock()
    gate = HostGate(clock, Limits(overflows=3, quarantine_s=1e6))
    steps, passed = 0, Counter[tuple[str, str]]()
    isolated: set[str] = set()
    for host, act in events:
        if act == "step":
            steps += 1
            gate.new_step()
        elif act == "wait":
            clock.advance_to(clock.now() + 1.0)
        elif act == "conflict":
            gate.conflict(host)
        else:
            verdict = gate.admit(host, act)
            assert (verdict == "quarantined") == (host in isolated)
            passed[host, act] += verdict == "ok"
        isolated |= {quarantine.host for quarantine in gate.take_quarantined()}
        assert {h for h in ("a", "b") if gate.is_quarantined(h)} == isolated
    for (_, act), count in passed.items():
        assert count <= (8 + 4 * steps if act in {"rep", "done"} else 10 + clock.now())


def test_a_released_host_starts_afresh(clock: FakeClock) -> None:
    gate = HostGate(clock)
    for _ in range(3):
        gate.conflict("h")
    gate.release("h")
    gate.release("nobody")
    assert gate.admit("h", "rep") == "ok"


def test_invented_names_cannot_fill_the_memory(clock: FakeClock) -> None:
    gate = HostGate(clock, Limits(hosts=100))
    verdicts = [gate.admit(f"h{i}", "rep") for i in range(1000)]
    assert verdicts == ["ok"] * 100 + ["overflow"] * 900
    assert len(gate._accounts) == 100
    assert gate.admit("h7", "rep") == "ok"


def test_a_class_of_refusals_is_one_line_a_minute(clock: FakeClock) -> None:
    audit = AuditLog(clock)
    assert audit.note("malformed", "h1", "not a Reply") == (
        'refused class=malformed host=h1 detail="not a Reply"'
    )
    for _ in range(3):
        assert audit.note("malformed", "h1", "not a Reply") is None
    assert audit.note("malformed", "h2") is None
    assert audit.note("foreign", "h2") == "refused class=foreign host=h2"
    assert audit.overdue() == []
    clock.advance_to(1060.0)
    assert audit.note("malformed", "h3") == (
        "refused class=malformed host=h3 unlogged=4 hosts=2 most=h1:3,h2:1"
    )


def test_what_was_only_counted_comes_when_its_minute_is_over(clock: FakeClock) -> None:
    audit = AuditLog(clock)
    for host in ("a", "a", "b"):
        audit.note("overflow", host)
    clock.advance_to(1060.0)
    assert audit.overdue() == ["refused class=overflow unlogged=2 hosts=2 most=a:1,b:1"]
    assert audit.overdue() == []


def test_a_flood_of_names_and_classes_stays_bounded(clock: FakeClock) -> None:
    audit = AuditLog(clock)
    lines = [audit.note("malformed", f"h{i}") for i in range(10_000)]
    assert sum(line is not None for line in lines) == 1
    assert sum(audit.note(f"class{i}", "h") is not None for i in range(1000)) <= 65
    clock.advance_to(1060.0)
    (first, *_) = audit.overdue()
    assert "unlogged=9999" in first
    assert len(first) < 400


@given(st.text(max_size=600))
def test_text_from_the_wire_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * 202
    assert "\n" not in shown


def test_a_forged_log_line_stays_inside_its_line() -> None:
    assert one_line("x\nlevel=ERROR \x1b[31m\u202e") == "x\\nlevel=ERROR \\x1b[31m\\u202e"
