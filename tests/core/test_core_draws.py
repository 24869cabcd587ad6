# SPDX-License-Identifier: MIT
"""Looked-up binomials and pooled moves have exactly the laws that they stand for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kofn.controller.core import load_game
from kofn.controller.core._binomial_tables import (
    ENTRIES,
    LIMIT,
    MOST,
    OFFSET,
    look_up,
    tables_of,
)
from kofn.controller.core._jit import jit
from kofn.controller.core._pooling import pool


def implied(entries: np.ndarray) -> np.ndarray:
    """Law that an alias table draws from, shape (columns,)."""
    columns = entries.size
    level = (entries >> np.uint64(10)).astype(np.float64) / 2.0**53
    other = (entries & np.uint64(1023)).astype(np.int64)
    law: np.ndarray = level / columns
    np.add.at(law, other, (1.0 - level) / columns)
    return law


def binomial_law(n: int, p: float) -> np.ndarray:
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(n + 1)
    ]  # fmt: skip
    law: np.ndarray = np.exp(np.array(logs))
    return law


@given(st.floats(1e-9, 1 - 1e-9))
@settings(max_examples=20, deadline=None)
def test_every_table_holds_the_binomial_law(p: float) -> None:
    numbers, tables = tables_of(np.array([p]))
    assert numbers.tolist() == [0]
    assert tables.shape == (1, ENTRIES)
    for at, offset in enumerate(OFFSET):
        n = (at % 4) * 4 ** (at // 4)
        law = implied(tables[0, offset : offset + n + 1])
        assert np.abs(law - binomial_law(n, round(p, 15))).max() < 1e-12


@jit
def _draws(state: np.uint64, n: int, tables: np.ndarray, out: np.ndarray) -> None:
    for i in range(out.size):
        state, out[i] = look_up(state, n, tables, 0)


@pytest.mark.parametrize("n", [1, 3, 4, 63, 64, 700, LIMIT - 1])
@pytest.mark.parametrize("p", [0.03, 0.5, 0.97])
def test_look_ups_have_the_moments_of_the_law(n: int, p: float) -> None:
    out = np.empty(40_000, dtype=np.int64)
    _draws(np.uint64(7 * n + 1), n, tables_of(np.array([p]))[1], out)
    deviation = math.sqrt(n * p * (1 - p))
    assert out.min() >= 0
    assert out.max() <= n
    # Five standard errors of the mean, and of the variance of a law near the normal one.
    assert abs(out.mean() - n * p) < 5 * deviation / math.sqrt(out.size)
    fourth = deviation**2 * (1 + 3 * deviation**2 * (1 - 2 / n))
    spread = math.sqrt(max(fourth - deviation**4, 0.0) / out.size)
    # The square of the mean's own error comes on top.
    assert abs(out.var() - deviation**2) < 5 * spread + 25 * deviation**2 / out.size


def test_equal_shares_have_one_table_and_too_many_fall_back() -> None:
    numbers, tables = tables_of(np.array([[0.25, 0.25 + 1e-17], [0.0, 1.0]]))
    assert numbers.tolist() == [[0, 0], [-1, -1]]
    assert len(tables) == 1
    numbers, tables = tables_of(np.linspace(0.1, 0.9, MOST + 5))
    assert len(tables) == MOST
    assert (numbers < 0).sum() == 5


KERNELS = arrays(
    np.float64, (2, 4, 3, 4), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.7, 30.0])
)


@given(KERNELS)
@settings(max_examples=200, deadline=None)
def test_common_part_and_remainders_add_up_to_the_kernel(weights: np.ndarray) -> None:
    weights[..., 0] += 1e-3 * (weights.sum(axis=-1) == 0)
    P_l = weights / weights.sum(axis=-1, keepdims=True)
    u, parts = pool(P_l)
    assert (parts >= 0).all()
    assert np.abs(u.sum(axis=-1) - 1).max() < 1e-12
    assert (u >= 0).all()
    again = parts[..., :-1] + parts[..., -1:] * u[:, None, None, :]
    assert np.abs(again - P_l).max() < 1e-11
    assert np.abs(parts.sum(axis=-1) - 1).max() < 1e-11


def test_a_softmax_of_bonuses_leaves_only_outcomes_with_a_bonus() -> None:
    P_l = np.array(load_game("ring-current").P_l)
    parts = pool(P_l).parts
    outcomes = (parts[..., :-1] > 0).sum(axis=-1)
    # Staying put has a bonus; so has the next zone for those who walk.
    assert outcomes[:, :, 0].tolist() == [[1] * 5] * 5
    assert outcomes[:, :, 1:].max() == 2
