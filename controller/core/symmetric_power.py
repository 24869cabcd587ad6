# SPDX-License-Identifier: MIT
r"""The exact operator: k agents that move independently by a stochastic matrix P.

.. math:: (W_P f)(c) = E\, f(C'), \qquad C' = \sum_j Multinomial(c_j, P_j)

is the k-th symmetric power of P on functions of histograms. Symmetric powers multiply,
W_{AB} = W_A W_B, so P is factored into elementary row operations "row i becomes d e_i + a e_j"
(`factoring`) and each is applied by itself. It acts along the grid lines on which only (c_i, c_j)
change: with c_i + c_j = s and r = c_i,

.. math:: (W f)(r) = \sum_{q=0}^r \binom{r}{q} d^q a^{r-q} f(q).

The coefficients do not depend on the line. The work is about S^2 M k / S against M^2 for the
matrix, which is never built. Where the points of the lines lie is in `grid_blocks`.

Each factorisation checks itself on functions with known images: 1, linear and quadratic ones, and
characters prod_j z_j^{c_j}, mapped to prod_j (P z)_j^{c_j}. Where it fails, agents are convolved
one after the other (no cancellation, more work) or, on grids too large for that, successors are
sampled; `method` says which.

======  ============  ==========  ==============================
symbol  name          shape       meaning
======  ============  ==========  ==============================
k       size          scalar      agents
S       n_states      scalar      states
M       n_points      scalar      histograms
B       lanes         scalar      functions mapped at once
======  ============  ==========  ==============================
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _power_kernels as kernels
from kofn.controller.core._arguments import array_of, check_choice, check_seed, distribution, table
from kofn.controller.core.errors import InputError
from kofn.controller.core.factoring import Factors, Operations, factor
from kofn.controller.core.grid import all_counts, binomials, check_grid
from kofn.controller.core.grid_blocks import Blocks, grid_blocks, neighbour_table, relabelled
from kofn.controller.core.successors import sample_successors

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.controller.core.game import FloatArray

__all__ = [
    "CHECK_TOLERANCE",
    "Blocks",
    "Factors",
    "Method",
    "Operations",
    "SymmetricPower",
    "factor",
    "grid_blocks",
]

Method = Literal["factored", "convolution", "sampled"]

#: Relative error of the self-check above which a factorisation is not used.
CHECK_TOLERANCE = 1e-9

#: Elementary steps of one application above which convolution gives way to sampling.
CONVOLUTION_LIMIT = 2e9

#: Successors per histogram where an operator has to be sampled.
FALLBACK_SAMPLES = 16


class SymmetricPower:
    """W_P for one stochastic matrix and one number of agents.

    Parameters
    ----------
    P : array of shape (S, S)
        Stochastic matrix.
    size : int
        k, the number of agents.
    method : {"factored", "convolution", "sampled"}, optional
        Forces a method; by default the first of these that is accurate and affordable.
    seed : int
        For the sampled method.

    Attributes
    ----------
    method : str
        The method in use.
    growth : float
        The factorisation's a-priori error growth per agent.
    check_error : float
        Relative error of the self-check of the method in use (0 by construction if sampled).
    """

    def __init__(
        self, P: npt.ArrayLike, size: int, *, method: Method | None = None, seed: int = 0
    ) -> None:
        self.P = distribution("P", P, 2)
        if self.P.shape[0] != self.P.shape[1]:
            raise InputError(f"P has shape {self.P.shape}, but must be square")
        self.n_states, self._seed = len(self.P), check_seed(seed)
        self.n_points = check_grid(size, self.n_states)
        self.size = int(size)
        if method is not None:
            check_choice("method", method, get_args(Method))
        self.growth, self.check_error = 1.0, 0.0
        self.method: Method = method or "factored"
        self._successors: npt.NDArray[np.int32] | None = None
        if self.n_states == 1:
            return
        if self.method == "factored":
            factors = factor(self.P, self.size)
            self._factors, self._blocks = factors, grid_blocks(self.size, self.n_states)
            # Functions enter and leave renamed; in between they are written backwards.
            back = range(self.n_states)[::-1]
            self._reverse = relabelled(self.size, tuple(back))
            enter = tuple(np.argsort(factors.columns).tolist())
            leave = tuple(factors.rows[p] for p in back)
            natural = tuple(range(self.n_states))
            self._enter = None if enter == natural else relabelled(self.size, enter)
            self._leave = None if leave == natural else relabelled(self.size, leave)
            self.growth = factors.growth
            self.check_error = self._check()
            if method is None and not self.check_error <= CHECK_TOLERANCE:
                work = self.n_states * math.comb(
                    self.size + 2 * self.n_states - 1, 2 * self.n_states - 1
                )
                self.method = "convolution" if work <= CONVOLUTION_LIMIT else "sampled"
                self.check_error = self._check() if self.method == "convolution" else 0.0
        if self.method == "sampled":
            self._successors = sample_successors(self.P, self.size, FALLBACK_SAMPLES, seed)

    def apply(self, values: npt.ArrayLike) -> FloatArray:
        """Return W f for functions on the grid, shape (M,) or (M, B)."""
        f = array_of("functions", values)
        if f.shape[:1] != (self.n_points,) or f.ndim > 2:
            raise InputError(
                f"functions have shape {f.shape}, but the grid asks for ({self.n_points}, B)"
            )
        flat = table("functions", f, f.ndim).reshape(self.n_points, -1)
        self.apply_in_place(flat)
        return flat.reshape(f.shape)

    def apply_in_place(self, values: FloatArray) -> None:
        """Replace functions, a C-contiguous float64 array of shape (M, B), by their images."""
        self.apply_to(values.copy(), 0, values)

    def apply_to(self, values: FloatArray, lane: int, out: FloatArray) -> None:
        """Write the images of values[:, lane : lane + B'] to `out`: shapes (M, B) and (M, B')."""
        lanes = out.shape[1]
        if self.n_states == 1:
            out[...] = values[:, lane : lane + lanes]
        elif self.method == "convolution":
            neighbours, offsets = neighbour_table(self.size, self.n_states)
            table = np.array(binomials(self.size, self.n_states))
            f = np.ascontiguousarray(values[:, lane : lane + lanes])
            out[...] = kernels.convolve(f, self.P, self.size, table, neighbours, offsets)
        elif self._successors is not None:
            kernels.average_successors(values, lane, self._successors, out)
        else:
            if self._enter is None:
                out[...] = values[:, lane : lane + lanes]
            else:
                kernels.gather(values, lane, self._enter, out)
            self._operate(kernels.apply_elementary, self._factors.upper, out)
            kernels.exchange(out, self._reverse)
            self._operate(kernels.apply_elementary, self._factors.lower, out)
            if self._leave is not None:
                kernels.gather(out.copy(), 0, self._leave, out)

    def push(self, measure: FloatArray) -> FloatArray:
        """Return the law of C' when c has the given law: the adjoint of `apply`, shape (M, B).

        Exact for the factored method; by sampled successors for the others.
        """
        out = np.array(measure, dtype=np.float64, order="C")
        if self.n_states == 1:
            return out
        if self.method != "factored":
            moved = np.zeros_like(out)
            successors = self._successors
            if successors is None:
                successors = sample_successors(self.P, self.size, FALLBACK_SAMPLES, self._seed)
            for column in successors.T:
                np.add.at(moved, column, out / successors.shape[1])
            return moved
        out = self._scatter(out, self._leave)
        self._operate(kernels.push_elementary, self._factors.lower, out)
        kernels.exchange(out, self._reverse)
        self._operate(kernels.push_elementary, self._factors.upper, out)
        return self._scatter(out, self._enter)

    @staticmethod
    def _scatter(measure: FloatArray, index: npt.NDArray[np.int32] | None) -> FloatArray:
        if index is None:
            return measure
        moved = np.empty_like(measure)
        moved[index] = measure
        return moved

    def _operate(
        self, kernel: Callable[..., None], operations: Operations, values: FloatArray
    ) -> None:
        o, b = operations, self._blocks
        kernel(
            values.reshape(-1),
            values.shape[1],
            self.size,
            o.i,
            o.j,
            o.d,
            o.a,
            b.starts,
            b.lengths,
            b.lines,
            b.pairs,
            b.rows,
        )

    @property
    def n_samples(self) -> int:
        """Successors drawn; 0 unless the method is sampled."""
        return 0 if self._successors is None else self._successors.size

    def _check(self) -> float:
        """Return the largest relative error on functions whose images are known."""
        shares = all_counts(self.size, self.n_states) / self.size
        v = np.cos(1.0 + 2.0 * np.arange(self.n_states))
        mean, square = self.P @ v, self.P @ v**2
        z = np.where(np.arange(self.n_states) % 2 == 0, 1.0, -1.0)
        y = np.cos(3.0 * np.arange(self.n_states))
        functions = np.column_stack(
            [
                np.ones(self.n_points),
                shares @ v,
                (shares @ v) ** 2,
                self._character(z),
                self._character(y),
            ]
        )
        images = np.column_stack(
            [
                np.ones(self.n_points),
                shares @ mean,
                (shares @ mean) ** 2 + shares @ (square - mean**2) / self.size,
                self._character(self.P @ z),
                self._character(self.P @ y),
            ]
        )
        self.apply_in_place(functions)
        error = np.abs(functions - images).max()
        return float(error) if np.isfinite(error) else math.inf

    def _character(self, z: FloatArray) -> FloatArray:
        """Return prod_j z_j^{c_j} at each point, shape (M,)."""
        powers = z[:, None] ** np.arange(self.size + 1)
        counts = all_counts(self.size, self.n_states)
        result = np.ones(self.n_points)
        for j in range(self.n_states):
            result *= powers[j][counts[:, j]]
        return result
