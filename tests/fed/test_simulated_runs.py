# SPDX-License-Identifier: MIT
"""A whole run on the event clock."""

from __future__ import annotations

import pytest

from kofn.fed.client import TrainSettings
from kofn.fed.devices import TraceSettings, synthetic_devices
from kofn.fed.selectors import make_selector
from kofn.fed.simulate import (
    Federation,
    RunRecord,
    RunSettings,
    accuracy_at,
    gini,
    rounds_to,
    simulate,
    time_to,
    worst_decile,
)
from kofn.fed.status import FIVE

SETTINGS = RunSettings(m=6, rounds=12, hidden=16, train=TrainSettings(rate=0.1, batch=10))


def run(name: str = "random", seed: int = 1, **settings: object) -> RunRecord:
    federation = Federation.make("digits", 30, "dirichlet:0.5", seed=seed)
    fleet = synthetic_devices(federation.names, TraceSettings(), seed=seed)
    selector = make_selector(name, **settings)  # type: ignore[arg-type]
    return simulate(selector, federation, fleet, SETTINGS, bins=FIVE, seed=seed)


def test_a_run_learns_repeats_and_accounts_for_its_time() -> None:
    first, again = run(), run()
    assert [r.accuracy for r in first.rounds] == [r.accuracy for r in again.rounds]
    assert [r.chosen for r in first.rounds] == [r.chosen for r in again.rounds]
    assert first.rounds[-1].accuracy > 0.7
    ends = [0.0, *(r.end_s for r in first.rounds)]
    for before, record in zip(ends, first.rounds, strict=False):
        # Waiting for somebody to be online is the only other way in which time passes.
        assert record.end_s >= before + record.round_s + record.poll_s - 1e-9
        assert set(record.arrived) <= set(record.chosen)
        assert len(record.chosen) == min(6, record.online)
    assert run(seed=2).rounds[-1].accuracy != first.rounds[-1].accuracy


def test_the_measures_of_a_run() -> None:
    record = run()
    reached = time_to(record, 0.5)
    assert reached is not None
    assert accuracy_at(record, reached) >= 0.5
    assert time_to(record, 1.1) is None
    assert rounds_to(record, 1.1) is None
    assert accuracy_at(record, -1.0) == 0.0
    assert gini([3, 3, 3]) == 0
    assert gini([0, 0, 0, 4]) == pytest.approx(0.75)
    assert worst_decile([0.1, *[0.9] * 9]) == pytest.approx(0.1)
