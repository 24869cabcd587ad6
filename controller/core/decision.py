# SPDX-License-Identifier: MIT
r"""A live decision in microseconds: counts -> belief -> cell -> action, compiled.

The same arithmetic as `Belief` and `Policy.decide`, in one call of one kernel that allocates
nothing:

.. math:: b \leftarrow predict(b, s_g(t-1)), \quad b \leftarrow update(b, c), \quad
   a_g = \pi_g(s_g(t), cell(b))

`Policy` itself stays free of numba, for the robots. First use compiles or loads the kernel, so make
the `Decider` before the fleet waits for it.

======  ===========  ==========  ==================================
symbol  name         shape       meaning
======  ===========  ==========  ==================================
b       weights      (S_l,)      pseudo-counts of the belief
c       counts       (S_l,)      fresh counts of one poll
======  ===========  ==========  ==================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import MAX_AGENTS, check_int, check_kind, shown, weights_table
from kofn.controller.core._grid_kernels import project_rank
from kofn.controller.core._jit import jit
from kofn.controller.core._rollout_kernels import predict
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import binomials
from kofn.controller.core.policy import Policy

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

#: In place of a global state: the fleet has not moved since the last decision.
NOT_MOVED = -1


@jit
def predict_kernel(
    belief: F64, kernels: F64, squares: F64, moved_by: int, cap: float, scratch: F64
) -> None:
    """Move the belief in place by one step of the fleet, see `Belief.predict`."""
    predict(belief, kernels, squares, moved_by, cap, scratch)


@jit
def decide_kernel(
    moved_by: int,
    s_g: int,
    counts: F64,
    belief: F64,
    scratch: F64,
    cell: I64,
    kernels: F64,
    squares: F64,
    prior: F64,
    cap: float,
    remembered: bool,
    action: I32,
    grid: int,
    table: I64,
) -> int:
    """Move and inform the belief in place; return the action, or -1 for counts that are none.

    Parameters
    ----------
    counts, belief, scratch : arrays, shape (S_l,)
    cell : array of int, shape (S_l,)
        Scratch.
    squares : array, shape (S_g, S_l)
        Squared norms of the rows of `kernels`, shape (S_g, S_l, S_l).
    table : array of int
        Binomials of the grid.
    """
    for j in range(counts.size):
        if not 0.0 <= counts[j] <= MAX_AGENTS:
            return -1
    if moved_by >= 0:
        predict(belief, kernels, squares, moved_by, cap, scratch)
    fresh = counts.sum()
    if fresh > 0.0:
        room = max(cap - fresh, 0.0)
        total = belief.sum()
        keep = room / total if total > room else 1.0
        for j in range(belief.size):
            belief[j] = keep * belief[j] + counts[j]
    pull = 0.0
    if not remembered:
        size = prior[s_g].sum()
        if size > 0.0:
            pull = size / (size + belief.sum())
    for j in range(belief.size):
        scratch[j] = belief[j] + pull * prior[s_g, j]
    return int(action[s_g, project_rank(scratch, grid, table, cell)])


class Decider:
    """A policy and its belief, ready to decide.

    Parameters
    ----------
    policy : Policy
        Its pair for bare polls is taken where nothing is remembered (`Policy.in_play`).
    k : int
        Poll size.
    memory : "auto", "none" or number
        As in `Policy.memory_cap`.
    start : array, shape (S_l,), optional
        Pseudo-counts to begin with; those of `Policy.belief` by default.
    """

    def __init__(
        self,
        policy: Policy,
        k: int,
        memory: float | str | None = "auto",
        *,
        start: npt.ArrayLike | None = None,
    ) -> None:
        policy = check_kind("policy", policy, Policy).in_play(k, memory)
        game = policy.game
        self._n_global, self._n_local = game.n_global, game.n_local
        self._counts = np.zeros(game.n_local)
        self.weights: FloatArray = policy.belief(k, memory).weights.copy()
        kernels: FloatArray = np.ascontiguousarray(game.marginals(policy.pi_l)[0])
        # Writable copies: numba compiles a second version for read-only arrays.
        self._tables: tuple[F64, I64, F64, F64, F64, float, bool, I32, int, I64] = (
            np.empty(game.n_local),
            np.empty(game.n_local, dtype=np.int64),
            kernels,
            (kernels**2).sum(axis=2),
            np.array(policy.prior),
            policy.memory_cap(k, memory),
            policy.remembers(k, memory),
            np.array(policy.action),
            policy.grid,
            np.array(binomials(policy.grid, game.n_local)),
        )
        if start is not None:
            self.restore(start)
        # Compile, or load the compiled code, now.
        decide_kernel(NOT_MOVED, 0, self._counts, self.weights, *self._tables)
        self._predict(np.zeros(game.n_local), 0)

    def restore(self, weights: npt.ArrayLike) -> None:
        """Continue from recorded pseudo-counts, shape (S_l,)."""
        self.weights = weights_table("weights", weights, 1, self.weights.shape)

    def predict(self, moved_by: int) -> None:
        """Move the belief by one step of the fleet under a global state."""
        moved_by = check_int("moved_by", moved_by, 0, self._n_global - 1)
        self._predict(self.weights, moved_by)

    def _predict(self, weights: FloatArray, moved_by: int) -> None:
        scratch, _, kernels, squares, _, cap, *_ = self._tables
        predict_kernel(weights, kernels, squares, moved_by, cap, scratch)

    def decide(self, moved_by: int, s_g: int, counts: npt.ArrayLike) -> int:
        """Return the global action, after one step of the fleet and one poll.

        Parameters
        ----------
        moved_by : int
            Global state under which the fleet moved since the last decision, or `NOT_MOVED`.
        s_g : int
            Global state now.
        counts : array, shape (S_l,)
            Fresh counts of the poll; zeros where nobody replied.
        """
        # Plain ints are the fast way; whatever else is whole takes the other.
        if not (type(moved_by) is type(s_g) is int and max(moved_by, s_g) < self._n_global):
            moved_by = check_int("moved_by", moved_by, NOT_MOVED, self._n_global - 1)
            s_g = check_int("s_g", s_g, 0, self._n_global - 1)
        if moved_by < NOT_MOVED or s_g < 0:
            raise InputError(
                f"moved_by {shown(moved_by)} and s_g {shown(s_g)} are not both global states"
            )
        try:
            fits = len(counts) == self._n_local  # type: ignore[arg-type]
            np.copyto(self._counts, counts, casting="same_kind")
        except (TypeError, ValueError, OverflowError):
            fits = False
        action = -1
        if fits:
            action = decide_kernel(moved_by, s_g, self._counts, self.weights, *self._tables)
        if action < 0:
            raise InputError(
                f"counts are not {self._n_local} numbers of agents from 0 to {MAX_AGENTS:g}"
            )
        return action
