# SPDX-License-Identifier: MIT
"""Percentiles of a histogram against the sorted values themselves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.histogram import LEAST, MOST, RELATIVE_ERROR, LogHistogram


@given(
    st.lists(st.floats(LEAST, MOST), min_size=1, max_size=60),
    st.sampled_from([0.0, 1.0, 50.0, 99.0, 100.0]),
)
def test_a_percentile_is_right_to_one_percent(values: list[float], percent: float) -> None:
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=1.001 * RELATIVE_ERROR)


def test_what_was_never_measured_is_zero_and_no_time_counts_as_the_least() -> None:
    histogram = LogHistogram()
    assert histogram.percentile(50) == 0.0
    histogram.add(0.0)
    assert histogram.percentile(50) == pytest.approx(LEAST, rel=RELATIVE_ERROR)


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    histogram = LogHistogram()
    for i in range(200_000):
        histogram.add(1e-5 * 1.0002**i)
    assert len(histogram) <= 1164
