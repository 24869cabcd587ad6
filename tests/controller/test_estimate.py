# SPDX-License-Identifier: MIT
"""How the places of a round are filled, and what the belief is told."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.config import ControllerConfig
from kofn.controller.estimate import Estimate, Estimator
from kofn.controller.last_known import LastKnown, mixing_left
from kofn.controller.poll_round import Answer, Lack, Outcome
from kofn.controller.response_model import ResponseModel

ZONES = 3
DRIFT = np.array([[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.2, 0.0, 0.8]])
MIX = np.full((3, 3), 1 / 3)
KERNELS = np.stack([DRIFT, MIX])
NOBODY = np.zeros(ZONES)
ROBOTS = [f"r{i}" for i in range(8)]


def config(**settings: Any) -> ControllerConfig:
    base: dict[str, Any] = {"fleet": "f", "k": 4, "steps": 9, "robots": 8}
    return ControllerConfig(**(base | settings))


def outcome(
    fresh: dict[str, int] | None = None,
    topped_up: dict[str, int] | None = None,
    silent: tuple[str, ...] = (),
    stale: tuple[str, ...] = (),
) -> Outcome:
    def answers(given: dict[str, int] | None) -> tuple[Answer, ...]:
        return tuple(Answer(robot, zone) for robot, zone in (given or {}).items())

    return Outcome(answers(fresh), answers(topped_up), silent, stale)


def seen_before(zones: dict[str, int], steps: int = 1, **settings: Any) -> Estimator:
    """An estimator that heard `zones` at step 0 and is at step `steps` now."""
    estimator = Estimator(config(**settings), KERNELS)
    estimator.estimate(0, list(zones), outcome(zones), NOBODY)
    for _ in range(steps):
        estimator.advance(0)
    return estimator


def test_places_are_filled_in_order_and_counted_by_kind() -> None:
    estimator = seen_before({"r0": 0, "r1": 1, "r2": 1, "r3": 2})
    found = estimator.estimate(
        1, ROBOTS[:4], outcome({"r0": 0}, {"r4": 2}, ("r1", "r5"), ("r2",)), NOBODY
    )
    assert found.m == (1, 1, 2, 0)
    assert found.remembered == ("r1", "r2")
    assert found.counts.tolist() == [1, 0, 1]
    tau = 0.8  # rows of DRIFT: half the sum of |0.8-0.0|, |0.2-0.8|, |0.0-0.2|
    heard = np.array([1.0, 0.0, 1.0])
    assert found.weights == pytest.approx(heard + 2 * tau * DRIFT[1])
    assert found.share == pytest.approx((heard + 2 * DRIFT[1]) / 4)


def test_places_that_nobody_can_fill_are_padded_and_the_belief_is_not_told() -> None:
    estimator = Estimator(config(), KERNELS)
    found = estimator.estimate(0, ROBOTS[:4], outcome({"r0": 2, "r1": 2}, {}, ("r2", "r3")), NOBODY)
    assert found.m == (2, 0, 0, 2)
    assert found.padded.tolist() == [0, 0, 2]
    assert found.weights.tolist() == [0, 0, 2]
    again = Estimator(config(pad=False), KERNELS)
    found = again.estimate(0, ROBOTS[:4], outcome({"r0": 2, "r1": 2}, {}, ("r2", "r3")), NOBODY)
    assert found.m == (2, 0, 0, 0)


def test_too_few_answers_are_a_fallback_without_memory_or_padding() -> None:
    estimator = seen_before({"r0": 0, "r1": 1, "r2": 1, "r3": 2})
    found = estimator.estimate(1, ROBOTS[:4], outcome({"r0": 0}, {}, ("r1", "r2", "r3")), NOBODY)
    assert found.fallback
    assert found.m == (1, 0, 0, 0)
    assert found.weights.tolist() == [1, 0, 0]  # what was heard was heard
    assert not estimator.estimate(
        2, ROBOTS[:4], outcome({"r0": 0}, {"r4": 0}, ("r1", "r2", "r3")), NOBODY
    ).fallback


def test_known_first_remembers_before_it_takes_others() -> None:
    zones = {"r0": 0, "r1": 1, "r2": 1, "r3": 2}
    came = outcome({"r0": 0, "r3": 1}, {"r4": 2, "r5": 2}, ("r1", "r2"))
    topup_first = seen_before(zones).estimate(1, ROBOTS[:4], came, NOBODY)
    assert (topup_first.m, topup_first.surplus) == ((2, 2, 0, 0), 0)
    known_first = seen_before(zones, fill="known-first").estimate(1, ROBOTS[:4], came, NOBODY)
    assert (known_first.m, known_first.surplus) == ((2, 0, 2, 0), 2)


def test_known_first_asks_others_only_for_robots_it_does_not_know() -> None:
    lack = Lack(missing=("r1", "r6"), unavailable=1, heard=1)
    assert seen_before({"r1": 1}).replacements(4, lack) == 3
    assert seen_before({"r1": 1}, fill="known-first").replacements(4, lack) == 2
    # but always enough to reach m_min
    wanted = seen_before({"r1": 1, "r6": 1}, fill="known-first", m_min=4).replacements(4, lack)
    assert wanted == 3


def test_unavailable_robots_are_not_remembered() -> None:
    estimator = seen_before({"r0": 0, "r1": 1, "r2": 1, "r3": 2})
    found = estimator.estimate(1, ROBOTS[:4], outcome({"r0": 0, "r1": 1, "r2": 1}), NOBODY)
    assert found.m == (3, 0, 0, 1)


def test_surplus_answers_do_not_enter_but_are_remembered() -> None:
    estimator = Estimator(config(k=2, robots=4), KERNELS)
    came = outcome({"r0": 0, "r1": 0}, {"r2": 2})
    found = estimator.estimate(0, ["r0", "r1"], came, NOBODY)
    assert (found.m, found.surplus) == ((2, 0, 0, 0), 1)
    assert found.weights.tolist() == [2, 0, 0]
    assert estimator.last_known.zone("r2") == 2


names = st.sampled_from(ROBOTS)
zones = st.integers(0, ZONES - 1)


@given(
    st.dictionaries(names, zones),
    st.dictionaries(names, zones),
    st.integers(0, 4),
    st.sampled_from(["topup-first", "known-first"]),
    st.sampled_from(["plain", "weighted"]),
    st.integers(0, 2),
)
def test_account_is_honest_whatever_came(
    before: dict[str, int], came: dict[str, int], steps: int, fill: Any, kind: Any, max_age: int
) -> None:
    estimator = seen_before(before, steps, fill=fill, estimator=kind, known_max_age=max_age)
    first, second = ROBOTS[:4], ROBOTS[4:]
    answered = outcome(
        {robot: came[robot] for robot in first if robot in came},
        {robot: came[robot] for robot in second if robot in came},
        tuple(robot for robot in ROBOTS if robot not in came),
    )
    found = estimator.estimate(steps, first, answered, NOBODY)
    fresh, topped_up, remembered, padded = found.m
    assert found.counts.sum() == fresh + topped_up
    assert sum(found.m) <= 4
    assert found.fallback == (len(came) < 2)
    assert fresh + topped_up + found.surplus == len(came)
    assert found.weights.sum() <= fresh + topped_up + remembered + 1e-9
    assert set(found.remembered) <= set(before) - set(came)
    assert len(found.remembered) == remembered
    assert found.padded.sum() == padded
    assert sum(found.share) == pytest.approx(1.0) or not came
    if steps > max_age:
        assert remembered == 0


def test_remembered_answer_is_forgotten_after_its_age() -> None:
    known = LastKnown(KERNELS, 3)
    known.note("r0", 0, 1)
    ages = []
    for _ in range(6):
        ages.append(known.zone("r0"))
        known.advance(0)
    assert ages == [1, 1, 1, 1, None, None]
    assert LastKnown(KERNELS, 0).recall("r0") is None


@given(st.lists(st.integers(0, 1), max_size=6), zones)
def test_remembered_answer_moves_as_the_model_says(targets: list[int], zone: int) -> None:
    known = LastKnown(KERNELS, 10)
    known.note("r0", 0, zone)
    law = np.eye(ZONES)[zone]
    weights = []
    for g in targets:
        known.advance(g)
        law = law @ KERNELS[g]
        recalled = known.recall("r0")
        assert recalled is not None
        assert recalled.law == pytest.approx(law)
        weights.append(recalled.weight)
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(weights))
    if 1 in targets:  # that target mixes the fleet at once: nothing is left of any answer
        assert weights[-1] == pytest.approx(0.0, abs=1e-12)


def test_what_is_left_of_an_answer_is_all_or_nothing_at_the_ends() -> None:
    assert mixing_left(np.eye(4)) == 1.0
    assert mixing_left(np.roll(np.eye(4), 1, axis=1)) == 1.0  # all move alike: still known
    assert mixing_left(np.full((4, 4), 0.25)) == 0.0


def test_newer_answer_replaces_an_older_one_and_not_the_other_way_round() -> None:
    known = LastKnown(KERNELS, 9)
    for _ in range(3):
        known.advance(0)
    known.note("r0", 2, 1)
    known.note("r0", 1, 0)  # a late one
    assert known.zone("r0") == 1
    known.note("r0", 3, 2)
    assert known.zone("r0") == 2


def test_memory_as_seen_neither_moves_nor_weakens() -> None:
    known = LastKnown(KERNELS, 9, "as-seen")
    known.note("r0", 0, 1)
    for _ in range(4):
        known.advance(1)
    recalled = known.recall("r0")
    assert recalled is not None
    assert (recalled.law.tolist(), recalled.weight) == ([0, 1, 0], 1.0)


def test_robots_that_never_come_back_are_forgotten_entirely() -> None:
    known = LastKnown(KERNELS, 5)
    for t in range(1000):
        known.note(f"guest{t}", t, 0)
        known.advance(0)
    assert len(known._places) < 100


def test_a_large_fleet_keeps_its_places_and_only_guests_are_forgotten() -> None:
    known = LastKnown(KERNELS, 5, robots=1000)
    for t in range(20):
        for robot in range(1000):
            known.note(f"r{robot}", t, t % ZONES)
        for guest in range(200):
            known.note(f"guest{t}.{guest}", t, 0)
        known.note("stays", t, 1)
        assert known.zone("stays") == 1
        assert known.zone("r999") == t % ZONES
        known.advance(0)
    assert len(known._places) < 5000
    assert known.zone("guest0.0") is None
    assert known.zone("guest19.0") == 0


def test_response_model_finds_the_chance_to_answer() -> None:
    rng = np.random.default_rng(3)
    chance = np.array([0.4, 0.9, 0.9])
    model = ResponseModel(ZONES)
    for _ in range(600):
        at = rng.integers(0, ZONES, 20)
        up = rng.random(20) < chance[at]
        # of a silent robot is known where it was one step ago
        laws = [DRIFT[:, z] / DRIFT[:, z].sum() @ DRIFT for z in at[~up]]
        model.learn(at[up].tolist(), laws)
    assert model.chance == pytest.approx(chance, abs=0.06)


def test_weights_of_answers_undo_the_chance_and_claim_no_more_than_was_heard() -> None:
    model = ResponseModel(2)
    for _ in range(2000):
        model.learn([0] * 2 + [1] * 8, [np.array([1.0, 0.0])] * 8 + [np.array([0.0, 1.0])] * 2)
    counts = np.array([2.0, 8.0])
    weights = model.weigh(counts)
    assert weights / weights.sum() == pytest.approx([0.5, 0.5], abs=0.01)
    assert weights.sum() < 10
    assert model.weigh(np.zeros(2)).tolist() == [0, 0]


def test_estimate_of_nothing_is_empty() -> None:
    found: Estimate = Estimator(config(m_min=0), KERNELS).estimate(
        0, ROBOTS[:4], outcome(silent=tuple(ROBOTS[:4])), NOBODY
    )
    assert (found.m, found.share, found.fallback) == ((0, 0, 0, 0), [], False)
