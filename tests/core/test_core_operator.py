# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import InputError, SymmetricPower, load_game, symmetric_power
from kofn.controller.core import _power_kernels as kernels
from kofn.controller.core._jit import jit
from kofn.controller.core._vector import sum_rows
from kofn.controller.core.grid import all_counts
from kofn.controller.core.successors import rounded_successors, sample_successors

if TYPE_CHECKING:
    from types import ModuleType

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@st.composite
def stochastic(draw: st.DrawFn, n_states: int) -> Matrix:
    """Dense, sparse, singular, near-singular, permutation and identity matrices."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["dense", "sparse", "singular", "near", "permutation", "identity"]))
    P: Matrix = rng.dirichlet(np.ones(n_states), n_states)
    if kind == "sparse":
        P = rng.dirichlet(np.full(n_states, 0.05), n_states)
    elif kind == "singular":
        P[rng.integers(1, n_states)] = P[0]
    elif kind == "near":
        P[1] = (1 - 1e-9) * P[0] + 1e-9 * P[1]
    elif kind == "permutation":
        P = np.eye(n_states)[rng.permutation(n_states)]
    elif kind == "identity":
        P = np.eye(n_states)
    P /= P.sum(axis=1, keepdims=True)
    return P


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 3, 4]).flatmap(stochastic), st.integers(0, 2**32))
def test_it_equals_enumeration(reference: ModuleType, P: Matrix, seed: int) -> None:
    W = reference.power_matrix(P, 6)
    f = np.random.default_rng(seed).uniform(-1, 1, (len(W), 3))
    operator = SymmetricPower(P, 6)
    assert np.abs(operator.apply(f) - W @ f).max() <= 1e-12
    assert np.abs(operator.apply(f[:, 0]) - W @ f[:, 0]).max() <= 1e-12
    if operator.method == "factored":
        assert np.abs(operator.push(f) - W.T @ f).max() <= 1e-9 * len(W)


@pytest.mark.parametrize(
    "P",
    [
        np.eye(3)[[0, 0, 0]],
        np.eye(3)[[1, 2, 0]],
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5]],
        np.full((3, 3), 1 / 3),
    ],
)
def test_singular_matrices_and_zero_pivots_are_legal(reference: ModuleType, P: Matrix) -> None:
    operator = SymmetricPower(P, 6)
    W = reference.power_matrix(operator.P, 6)
    f = np.random.default_rng(0).standard_normal((len(W), 2))
    assert operator.method == "factored"
    assert np.abs(operator.apply(f) - W @ f).max() <= 1e-12


@pytest.mark.parametrize("n_states", [6, 9])
def test_many_states_agree_with_enumeration(reference: ModuleType, n_states: int) -> None:
    P = np.random.default_rng(n_states).dirichlet(np.ones(n_states), n_states)
    W = reference.power_matrix(P, 3)
    f = np.random.default_rng(1).standard_normal(len(W))
    assert np.abs(SymmetricPower(P, 3).apply(f) - W @ f).max() <= 1e-10


def ring_kernel() -> Matrix:
    game = load_game("ring-released")
    P: Matrix = game.marginals(game.uniform_local_policy())[0][0]
    return P


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_at_fifty_agents_constants_and_linear_functions_go_to_their_means(seed: int | None) -> None:
    P = ring_kernel() if seed is None else np.random.default_rng(seed).dirichlet(np.ones(5), 5)
    operator = SymmetricPower(P, 50)
    assert operator.method == "factored"
    shares = all_counts(50, 5) / 50
    functions = np.column_stack([np.ones(len(shares)), shares])
    exact = np.column_stack([np.ones(len(shares)), shares @ P])
    assert np.abs(operator.apply(functions) - exact).max() <= 1e-10


def test_one_state_is_the_identity() -> None:
    assert SymmetricPower([[1.0]], 4).apply([3.0]).tolist() == [3.0]


def half_turn() -> Matrix:
    return 0.5 * np.eye(5) + 0.5 * np.roll(np.eye(5), 1, axis=1)


def test_a_factorisation_that_fails_its_check_gives_way_to_convolution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(symmetric_power, "CHECK_TOLERANCE", -1.0)
    operator = SymmetricPower(half_turn(), 8)
    assert operator.method == "convolution"
    assert operator.check_error <= 1e-12
    law = np.full((operator.n_points, 1), 1 / operator.n_points)
    assert np.isclose(operator.push(law).sum(), 1)


def test_the_check_sees_an_operator_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off:
        gather, exchange = staticmethod(kernels.gather), staticmethod(kernels.exchange)

        @staticmethod
        def apply_elementary(*arguments: Any) -> None:
            a_of = 6
            apply: Any = kernels.apply_elementary
            apply(*arguments[:a_of], 1.00001 * arguments[a_of], *arguments[a_of + 1 :])

    monkeypatch.setattr(symmetric_power, "kernels", Off)
    assert SymmetricPower(half_turn(), 12, method="factored").check_error > 1e-6


def test_where_convolution_costs_too_much_successors_are_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(symmetric_power, "CHECK_TOLERANCE", -1.0)
    monkeypatch.setattr(symmetric_power, "CONVOLUTION_LIMIT", 0.0)
    operator = SymmetricPower(half_turn(), 12)
    assert operator.method == "sampled"
    assert operator.n_samples > 0
    mean = all_counts(12, 5) @ half_turn()
    seen = operator.apply(all_counts(12, 5).astype(float))
    assert np.abs((seen - mean).mean(axis=0)).max() < 0.1
    law = np.zeros((operator.n_points, 1))
    law[7] = 1.0
    f = np.random.default_rng(0).random((operator.n_points, 1))
    assert np.isclose((operator.push(law) * f).sum(), (law * operator.apply(f)).sum())


@pytest.mark.parametrize(("P", "message"), [([[0.5, 0.4], [0, 1]], "P"), ([[0.5, 0.5]], "square")])
def test_bad_matrices_are_refused(P: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SymmetricPower(P, 3)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(2, 5),
    st.integers(0, 2**32),
    st.integers(1, 4),
)
def test_elementary_kernels_equal_their_binomial_formula(
    reference: ModuleType, size: int, n_states: int, seed: int, lanes: int
) -> None:
    rng = np.random.default_rng(seed)
    i, j = sorted(int(x) for x in rng.permutation(n_states)[:2])
    d, a = (float(x) for x in rng.uniform(-1, 1, 2))
    b = symmetric_power.grid_blocks(size, n_states)
    operation = np.array([i]), np.array([j]), np.array([d]), np.array([a])
    blocks = b.starts, b.lengths, b.lines, b.pairs, b.rows
    W = reference.elementary_matrix(size, n_states, i, j, d, a)
    f = rng.standard_normal((len(W), lanes))
    applied, pushed = f.copy(), f.copy()
    kernels.apply_elementary(applied.reshape(-1), lanes, size, *operation, *blocks)
    kernels.push_elementary(pushed.reshape(-1), lanes, size, *operation, *blocks)
    assert np.abs(applied - W @ f).max() <= 1e-12
    assert np.abs(pushed - W.T @ f).max() <= 1e-12


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(0, 9), st.integers(0, 2**32))
def test_the_vector_loop_sums_rows_of_any_length(n: int, r: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, coef = rng.standard_normal(600), rng.standard_normal(12)
    starts = rng.integers(0, 400, r + 1)
    at = 500
    starts[r] = at  # the last row is the one that is written
    shift = 2
    expected = values.copy()
    expected[at : at + n] = sum(
        coef[1 + q] * values[starts[q] + (r - q) * shift :][:n] for q in range(r + 1)
    )
    sum_rows_once(values, at, n, starts, r, shift, coef)
    assert np.abs(values - expected).max() <= 1e-13


@jit
def sum_rows_once(
    values: Matrix, at: int, n: int, starts: Indices, r: int, shift: int, coef: Matrix
) -> None:
    sum_rows(values, at, n, starts, 0, r, shift, 1, coef, 1)


def test_an_operator_can_write_some_functions_elsewhere() -> None:
    operator = SymmetricPower(ring_kernel(), 7)
    f = np.random.default_rng(0).random((operator.n_points, 5))
    out = np.empty((operator.n_points, 2))
    operator.apply_to(f, 1, out)
    assert np.abs(out - operator.apply(f)[:, 1:3]).max() <= 1e-14


def test_small_weights_are_not_lost() -> None:
    # Coefficients down to 1e-9^40 meet values that make them count.
    P = np.array([[1 - 1e-9, 1e-9, 0.0], [0.0, 1.0, 0.0], [0.0, 1e-9, 1 - 1e-9]])
    operator = SymmetricPower(P, 40)
    shares = all_counts(40, 3) / 40
    moved = operator.apply(shares[:, 1]) - shares[:, 1]
    assert np.abs(moved - 1e-9 * (1 - shares[:, 1])).max() <= 1e-15


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(2, 4).flatmap(stochastic))
def test_the_convolution_kernel_equals_enumeration(
    reference: ModuleType, size: int, P: Matrix
) -> None:
    W = reference.power_matrix(P, size)
    f = np.random.default_rng(0).uniform(-1, 1, (len(W), 2))
    assert np.abs(SymmetricPower(P, size, method="convolution").apply(f) - W @ f).max() <= 1e-13


def test_the_successor_kernel_averages() -> None:
    rng = np.random.default_rng(0)
    f, successors = rng.random((20, 3)), rng.integers(0, 20, (20, 4)).astype(np.int32)
    out = np.empty((20, 2))
    kernels.average_successors(f, 1, successors, out)
    assert np.allclose(out, f[successors, 1:].mean(axis=1), atol=1e-15)


def test_sampled_successors_follow_the_law(reference: ModuleType) -> None:
    P = np.random.default_rng(3).dirichlet(np.ones(3), 3)
    W = reference.power_matrix(P, 3)
    drawn = sample_successors(P, 3, 20_000, seed=1)
    seen = np.array([np.bincount(row, minlength=len(W)) for row in drawn]) / 20_000
    assert np.abs(seen - W).max() < 0.02


def test_rounded_successors_of_a_permutation_are_exact() -> None:
    P = np.eye(3)[[1, 2, 0]]
    counts = all_counts(4, 3)
    moved = counts[rounded_successors(P, 4)[:, 0]]
    assert np.array_equal(moved, counts @ P)
