# SPDX-License-Identifier: MIT
"""`kofn bench link`, at sizes that say nothing of speed."""

import gc
import json
import math
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from kofn_process import Kofn

from kofn.controller.core.errors import RunError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Poll, Step, encode
from kofn.controller.link.policies import pack_file
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.launch.link_bench import Case, measure, play, select, table
from kofn.launch.link_host import ACTIONS, ZONES, BenchAgent, HopBank
from kofn.launch.link_soak import Growth, growth, soak, verdict

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
]


def test_rows_hold_what_scripts_read_and_ratios_against_their_peers() -> None:
    cases = [
        Case(n=6, k=3, hosts=6, rounds=10, period_s=0.1, warm_up=3),
        Case(n=6, k=3, hosts=2, batched=False, rounds=10, period_s=0.1, warm_up=3),
        Case(n=6, k=3, hosts=2, rounds=10, period_s=0.1, warm_up=3),
    ]
    rows = measure(cases, progress=lambda *_: None)
    assert [(row.n, row.k, row.hosts, row.batched) for row in rows] == [
        (6, 3, 6, True),
        (6, 3, 2, False),
        (6, 3, 2, True),
    ]
    assert rows[2].poll_ratio == 1.0
    for row in rows:
        assert row.broker == "mosquitto"
        assert row.rounds == 10
        assert 0 < row.poll_p50_ms <= row.poll_p99_ms
        assert 0 < row.broadcast_p50_ms <= row.broadcast_p99_ms
        assert row.poll_ratio is not None
        assert row.start_s > 0
        assert not row.failed


def test_a_batched_round_takes_one_message_for_each_host_and_one_answer_for_each_robot() -> None:
    settings = {"poll_ttl_s": 5.0}
    outcome = play(Case(n=12, k=12, hosts=2, rounds=5, period_s=0.1, warm_up=3), settings=settings)
    steps = 5 + 3
    assert outcome.summary.poll_messages == 2 * steps
    assert outcome.summary.replies_used == 12 * steps
    assert outcome.taken_by_all == steps
    assert sum(report.counters["polls_answered"] for report in outcome.reports) >= 2 * 5


def test_soak_counts_missed_ticks_and_draws_the_memory_of_all_processes(tmp_path: Path) -> None:
    report = soak(3.0, n=8, k=4, hosts=2, period_s=0.1, out=tmp_path)
    assert report.steps == 30
    assert 0 <= report.missed_share <= 1
    assert report.all_hosts_share > 0.5
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
    series = json.loads((tmp_path / "soak.json").read_text())["rss_mb"]
    assert len(series["hosts"]) == 2
    assert all(len(host) >= 2 for host in series["hosts"])
    assert report.controller_rss_mb > 10


def noisy(slope_mb_s: float, seconds: int, seed: int) -> list[tuple[float, float]]:
    """Memory that wanders by half a megabyte beside its growth."""
    noise = np.random.default_rng(seed).normal(0.0, 0.5, seconds)
    return [(float(s), 50 + slope_mb_s * s + float(noise[s])) for s in range(seconds)]


def test_growth_is_the_slope_of_the_second_half() -> None:
    steady = [(float(s), 50.0) for s in range(100)]
    filling = [(float(s), min(s, 40.0)) for s in range(100)]
    leaking = [(float(s), 50 + 0.01 * s) for s in range(100)]
    assert growth(steady) == growth(filling) == Growth(0.0, 0.0, 0.0)
    assert growth(leaking) == pytest.approx((36.0, 36.0, 36.0))
    assert [growth(series).memory for series in (steady, filling, leaking)] == [
        "flat",
        "flat",
        "grows",
    ]
    assert growth(steady[:30]).memory == "undecided"


def test_the_interval_of_growth_covers_the_true_slope_and_tells_it_from_none() -> None:
    grown = [growth(noisy(0.01, 600, seed)) for seed in range(200)]
    assert sum(one.low <= 36.0 <= one.high for one in grown) >= 194  # 99 %; 193 or less: p = 0.4 %
    assert all(one.memory == "grows" for one in grown)
    still = [growth(noisy(0.0, 600, seed)) for seed in range(200)]
    assert sum(one.memory == "grows" for one in still) <= 5


def test_a_soak_fails_by_missed_ticks_or_by_one_process_that_grows() -> None:
    flat, leak, unclear = Growth(0.1, 0.0, 0.2), Growth(9.0, 3.0, 15.0), Growth(2.0, -5.0, 9.0)
    assert verdict(0.001, {"a": flat, "b": flat}) == ("flat", "")
    assert verdict(0.0, {"a": flat, "b": unclear}) == ("undecided", "")
    assert verdict(0.0, {"a": flat, "b": leak, "c": unclear}) == ("grows", "memory grows in b")
    assert verdict(0.02, {"a": flat})[1] == "2.00% of the ticks were missed, not 0.1%"


class NoWire:
    """A transport that carries nothing."""

    connected = True
    statistics: ClassVar[dict[str, int]] = {}

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Nothing to open."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Forget it."""
        return True

    def receive(self, timeout_s: float) -> None:
        """Nothing comes."""

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Nothing to close."""


@pytest.mark.slow
def test_a_host_holds_no_more_after_many_steps_than_after_some() -> None:
    steps, names, clock = 4000, [f"r{i}" for i in range(200)], MonotonicClock()
    agent = BenchAgent(
        fleet="f",
        host="h",
        bank=HopBank(names, 0.0, clock),
        transport=NoWire(),
        clock=clock,
        seed=0,
    )
    agent.came_s = np.full(steps, 0.0)
    policy = pack_file(np.full((ZONES, ZONES, ACTIONS), 1 / ACTIONS))
    for digest, payload in policy.messages.items():
        agent.on_message(Inbound(f"kofn1/f/pol/{digest}", payload, True, clock.now()))
    common: dict[str, Any] = {"ep": 1, "ttl": 60_000}
    held: list[int] = []
    tracemalloc.start()
    try:
        for t in range(steps):
            now_s, up = clock.now(), int(1000 * clock.now())
            step = Step(
                t=t, up=up, g=0, u=0, pol=f"sha256:{policy.digest}", k=9, m=(9, 0, 0, 0), **common
            )
            ids = [names[(t + i) % 200] for i in range(9)]
            poll = Poll(t=t, up=up, q=f"{t:016x}", w=1, ids=ids, **common)
            agent.on_message(Inbound("kofn1/f/step", encode(step), False, now_s))
            agent.on_message(Inbound("kofn1/f/poll/h", encode(poll), False, now_s))
            agent.on_time()
            if t in (1000, steps - 1):
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert agent.counters["polls_answered"] == steps
    assert held[1] - held[0] < 30_000  # one float kept a step would be 72 kB


def test_soak_of_another_suite_is_refused(kofn: Kofn) -> None:
    done = kofn.run("bench", "core", "--soak", "5")
    assert (done.returncode, "--soak belongs to the suite link" in done.stderr) == (2, True)


def test_a_case_that_fails_is_a_row_with_its_reason_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def play_one(case: Case, *, broker: str) -> object:
        if case.hosts == 6:
            raise RunError("1 of 6 robots appeared within 120 s")
        return play(case, broker=broker)

    monkeypatch.setattr("kofn.launch.link_bench.play", play_one)
    cases = [
        Case(n=6, k=3, hosts=6, rounds=3, period_s=0.1, warm_up=1),
        Case(n=6, k=3, hosts=2, rounds=3, period_s=0.1, warm_up=1),
    ]
    failed, measured = measure(cases, progress=lambda *_: None)
    assert failed.failed == "1 of 6 robots appeared within 120 s"
    assert math.isnan(failed.poll_p50_ms)
    assert failed.poll_ratio is None
    assert measured.poll_ratio == 1.0
    assert "failed: 1 of 6" in table([failed, measured])[1]


def test_a_case_that_there_is_not_is_refused_before_anything_starts(kofn: Kofn) -> None:
    done = kofn.run("bench", "link", "--quick", "--case", "30/7")
    assert done.returncode == 2
    assert "no case '30/7'; known are 30/30, 30/3/per-robot, 30/3" in done.stderr
    assert [case.name for case in select(["1000/4"], quick=False)] == ["1000/4"]
