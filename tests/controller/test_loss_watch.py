# SPDX-License-Identifier: MIT
"""The chi-square test, and the alarm that loss depends on where robots are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.chi_square import independence_p_value, upper_tail
from kofn.controller.loss_watch import FIRST_TEST, WINDOW, LossWatch


@pytest.mark.parametrize(
    ("x", "degrees", "p_value"),
    [  # the usual tables of critical values
        (3.841458820694124, 1, 0.05),
        (6.634896601021213, 1, 0.01),
        (9.487729036781154, 4, 0.05),
        (18.46682695290317, 4, 0.001),
        (23.20925115895436, 10, 0.01),
        (124.3421134004058, 100, 0.05),
    ],
)
def test_upper_tail_gives_the_tabulated_levels(x: float, degrees: int, p_value: float) -> None:
    assert upper_tail(x, degrees) == pytest.approx(p_value, rel=1e-9)


@given(st.floats(1e-6, 300), st.integers(1, 20))
def test_upper_tail_of_even_degrees_is_a_poisson_sum(x: float, half: int) -> None:
    terms = (-x / 2 + i * math.log(x / 2) - math.lgamma(i + 1) for i in range(half))
    exact = sum(math.exp(term) for term in terms)
    assert upper_tail(x, 2 * half) == pytest.approx(exact, rel=1e-9, abs=1e-13)


@given(st.floats(0, 300))
def test_upper_tail_of_one_degree_is_the_error_function(x: float) -> None:
    assert upper_tail(x, 1) == pytest.approx(math.erfc(math.sqrt(x / 2)), rel=1e-8, abs=1e-13)


def test_p_value_of_a_table_worked_by_hand() -> None:
    # common rate 0.75: (90-75)^2/(100*.75*.25) twice = 24, one degree of freedom
    assert independence_p_value([100, 100], [90, 60]) == pytest.approx(math.erfc(math.sqrt(12)))


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        ([], []),
        ([100], [50]),
        ([100, 0], [50, 0]),
        ([100, 100], [100, 100]),
        ([100, 100], [0, 0]),
        ([8, 8], [4, 3]),
    ],
)
def test_nothing_to_test_gives_no_p_value(asked: list[int], heard: list[int]) -> None:
    assert independence_p_value(asked, heard) is None


def watch(chances: list[float], robots: int, seed: int) -> LossWatch:
    rng = np.random.default_rng(seed)
    found = LossWatch(len(chances))
    for i in range(robots):
        zone = int(rng.integers(len(chances)))
        found.add(zone, heard=bool(rng.random() < chances[zone]))
        if i % 10 == 9:  # a step of k = 10
            found.test()
    return found


def test_alarm_is_raised_by_a_loss_that_depends_on_the_zone() -> None:
    for seed in range(20):
        assert watch([0.4, 0.9, 0.9, 0.9, 0.9], 1000, seed).alarm


def test_alarm_stays_quiet_under_random_loss() -> None:
    alarms = [watch([0.8] * 5, 5000, seed).alarm for seed in range(100)]
    assert sum(alarms) == 0  # 6 tests each at level 1e-4: 0.06 expected


def test_alarm_is_raised_when_the_loss_sets_in_late() -> None:
    rng = np.random.default_rng(1)
    found = LossWatch(2)
    for i in range(3 * WINDOW):
        zone = i % 2
        chance = 0.9 if i < 1.2 * WINDOW or zone else 0.5
        found.add(zone, heard=bool(rng.random() < chance))
        if i % 10 == 9:
            p_value = found.test()
            if i < 1.2 * WINDOW:
                assert p_value is None
    assert found.alarm


def test_alarm_is_repeated_once_per_window() -> None:
    found = LossWatch(2)
    raised = []
    for i in range(2 * WINDOW):
        found.add(i % 2, heard=i % 2 == 0)
        if found.test() is not None:
            raised.append(i + 1)
    assert raised == [FIRST_TEST, WINDOW + FIRST_TEST]


def test_tests_are_spaced_by_doubling() -> None:
    found = LossWatch(2, level=0.5)
    for i in range(FIRST_TEST):
        found.add(i % 2, heard=i % 3 == 0)
    assert found.test() is None  # equal rates
    raised = []
    for i in range(FIRST_TEST, 4 * FIRST_TEST):
        found.add(i % 2, heard=i % 2 == 0)
        if found.test() is not None:
            raised.append(i + 1)
    assert raised == [2 * FIRST_TEST]


def test_rates_are_published_by_zone() -> None:
    found = LossWatch(3)
    for zone, heard in ((0, True), (0, False), (1, True)):
        found.add(zone, heard=heard)
    assert found.rates == [0.5, 1.0, None]
    assert (found.asked, found.heard) == ([2, 1, 0], [1, 1, 0])
