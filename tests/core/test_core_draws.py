# SPDX-License-Identifier: MIT
"""Looked-up and wide binomials and pooled moves have exactly the laws that they stand for."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kofn.controller.core import _bell, load_game
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


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0, 2), st.floats(-9, 9))
@settings(max_examples=300, deadline=None)
def test_wide_laws_stay_between_the_bounds_that_are_made_for_the_narrowest(
    p: float, wider: float, s: float
) -> None:
    n = math.ceil(_bell.VARIANCE * 10**wider / (p * (1 - p)))
    mean, sigma = n * p, math.sqrt(n * p * (1 - p))
    k = round(mean + s * sigma)
    s = (k - mean) / sigma
    exact = _bell.log_law(n, k, mean, n - mean)
    assert abs(exact + s * s / 2) <= _bell.spread(np.array([s]))[0] + 1e-9


@pytest.mark.parametrize(("n", "p"), [(16_384, 0.5), (84_000, 0.05), (84_000, 0.95)])
def test_the_logarithm_of_a_wide_law_is_exact(n: int, p: float) -> None:
    mean, sigma = n * p, math.sqrt(n * p * (1 - p))
    k0 = round(mean)
    ks = np.arange(round(mean - 9 * sigma), round(mean + 9 * sigma) + 1)
    # By the ratio of neighbours, and from a sum of 1.
    ratios = np.log((n - ks[:-1]) * p / ((ks[:-1] + 1) * (1 - p)))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    logs -= logs[k0 - ks[0]]
    logs += math.log(math.sqrt(2 * math.pi) * sigma / np.exp(logs).sum())
    ours = [_bell.log_law(n, int(k), mean, n - mean) for k in ks]
    assert np.abs(ours - logs).max() < 1e-9


def test_bins_propose_by_their_height_and_none_is_accepted_too_seldom() -> None:
    least, most = _bell.bounds()
    cut, pair = _bell._alias(np.exp(most))
    level = cut - np.arange(_bell.BINS)
    law = np.zeros(_bell.BINS)
    np.add.at(law, pair[::2], level / _bell.BINS)
    np.add.at(law, pair[1::2], (1 - level) / _bell.BINS)
    assert np.abs(law - np.exp(most) / np.exp(most).sum()).max() < 1e-15
    assert (least <= most).all()
    assert np.exp(least).sum() > 0.93 * np.exp(most).sum()


@jit
def _wide_draws(state: np.uint64, n: int, p: float, out: np.ndarray) -> None:
    for i in range(out.size):
        state, out[i] = _bell.bell(state, n, p)


@pytest.mark.parametrize(
    ("n", "p"), [(16_384, 0.5), (90_000, 0.05), (90_000, 0.95), (10**9, 1e-5), (10**9, 0.4)]
)
def test_wide_draws_have_the_law_in_bins_and_at_single_values(n: int, p: float) -> None:
    out = np.empty(400_000, dtype=np.int64)
    _wide_draws(np.uint64(n + 5), n, p, out)
    law = scipy.stats.binom(n, p)
    for edges in (
        np.unique(law.ppf(np.linspace(0.0005, 0.9995, 300))),
        law.ppf(0.5) + np.arange(-40, 41.0),  # parity, or a value that is always missed
    ):
        exact = out.size * np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
        seen = np.bincount(np.searchsorted(edges, out), minlength=exact.size)
        kept = exact > 5
        chi = float(((seen - exact)[kept] ** 2 / exact[kept]).sum())
        freedom = int(kept.sum()) - 1
        assert chi < freedom + 5 * math.sqrt(2 * freedom)
    deviation = (out - n * p) / math.sqrt(n * p * (1 - p))
    assert abs(deviation.mean()) < 5 / math.sqrt(out.size)
    assert abs((deviation**2).mean() - 1) < 5 * math.sqrt(2 / out.size)


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
