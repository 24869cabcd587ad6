# SPDX-License-Identifier: MIT
from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import InputError, histogram_rank
from kofn.controller.core._grid_kernels import project_rank
from kofn.controller.core.grid import (
    MAX_BYTES,
    all_counts,
    binomials,
    check_grid,
    grid_points,
    project,
    rank,
    unrank,
)

if TYPE_CHECKING:
    from types import ModuleType


@pytest.mark.parametrize(("size", "n_states"), [(1, 1), (4, 1), (3, 2), (5, 3), (4, 4), (3, 6)])
def test_the_grid_is_the_lexicographic_list(
    size: int, n_states: int, reference: ModuleType
) -> None:
    assert [tuple(c) for c in all_counts(size, n_states)] == reference.grid(size, n_states)
    assert len(all_counts(size, n_states)) == grid_points(size, n_states)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 2**62))
def test_rank_and_unrank_are_inverse(size: int, n_states: int, number: int) -> None:
    index = number % grid_points(size, n_states)
    counts = unrank(index, size, n_states)
    assert counts.sum() == size
    assert counts.min() >= 0
    assert rank(counts) == index
    assert histogram_rank(counts) == index


def test_histogram_rank_takes_any_fleet() -> None:
    assert histogram_rank([10**9, 0]) == 10**9
    assert histogram_rank([0, 0, 10**9]) == 0


def test_known_sizes_of_the_five_zone_grid() -> None:
    assert [grid_points(k, 5) for k in (10, 20, 50)] == [1001, 10626, 316251]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, -1], r"histogram\[1\] is -1"),
        ([0.5, 0.5], "whole number"),
        ([[1, 2]], "2 axes"),
        ([], "empty"),
        (["a"], "table of numbers"),
    ],
)
def test_histogram_rank_refuses_what_is_no_histogram(counts: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        histogram_rank(counts)  # type: ignore[arg-type]


def test_a_grid_that_does_not_fit_is_refused_with_states_and_bytes() -> None:
    with pytest.raises(InputError, match=r"has \d+ states, and one value function takes \d+ bytes"):
        check_grid(200, 7, 5)
    with pytest.raises(InputError, match="grid size 0"):
        check_grid(0, 3)


weights = st.lists(st.floats(0, 1e6), min_size=1, max_size=7)


@settings(deadline=None)
@given(weights, st.integers(1, 60))
def test_projection_is_the_largest_remainder_rounding(
    reference: ModuleType, values: list[float], size: int
) -> None:
    counts = project(values, size)
    assert counts.sum() == size
    assert counts.tolist() == reference.project(np.array(values), size)


@settings(deadline=None)
@given(weights, st.integers(1, 60))
def test_projection_is_closer_than_one_agent_in_every_state(values: list[float], size: int) -> None:
    if sum(values) > 0:
        ideal = size * np.array(values) / sum(values)
        assert np.abs(project(values, size) - ideal).max() < 1 + 1e-8


def test_ties_of_the_projection_go_to_the_lower_state() -> None:
    assert project([1, 1, 1], 4).tolist() == [2, 1, 1]
    assert project([1 - 1e-14, 1, 1 + 1e-14], 4).tolist() == [2, 1, 1]
    assert project([0, 0, 0], 4).tolist() == [2, 1, 1]


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=6).filter(any))
def test_a_histogram_projects_to_itself(counts: list[int]) -> None:
    assert project(counts, sum(counts)).tolist() == counts
    assert project(np.array(counts) * 0.37, sum(counts)).tolist() == counts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=6), st.integers(1, 40))
def test_the_jitted_projection_equals_the_plain_one(values: list[float], size: int) -> None:
    w = np.array(values)
    jitted = project_rank(w, size, np.array(binomials(size, len(w))), np.zeros(len(w), np.int64))
    assert jitted == rank(project(w, size))


def test_the_table_of_what_fits_ends_where_grids_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    rows = importlib.import_module("bench_growth").what_fits()
    edges = [row for row in rows if row["answer"] == "fits"]
    assert {row["S_l"]: row["k"] for row in edges if row["S_l"] in {5, 7}} == {5: 110, 7: 37}
    for row in rows:
        assert row["answer"] in {"fits", "refused"}
        assert row["allocated_mb"] < 1
        if row["answer"] == "fits":
            assert row["value_bytes"] <= MAX_BYTES
        elif row["S_l"] > 2:  # with two states the number of agents is the limit
            assert row["value_bytes"] > MAX_BYTES
