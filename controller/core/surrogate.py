# SPDX-License-Identifier: MIT
r"""The closed system of k agents under a fixed local policy, and its Bellman operator.

.. math:: Q(s_g,c,a) = r_g(s_g,a) + \frac1k \sum_j c_j r^\pi(s_g,j)
   + \gamma \sum_{s'} P_g(s'|s_g,a)\, (W_{s_g} V(s',\cdot))(c), \qquad V = \max_a Q.

With `local_sees="next"` the operator is W_{s'}. W does not depend on a, so each sweep applies it
once to all V(s', .). Operators are *exact* (`symmetric_power`), *sampled* or *rounded*
(`successors`).

Value iteration with the bounds of MacQueen (1966): if V' - V lies in [lo, hi] after a sweep, the
fixed point lies in V' + gamma/(1-gamma) [lo, hi]. The middle is returned, with half the width as
error bound; these bounds close as fast as the fleet mixes, not as gamma^sweeps. They hold for any
V, so the next V may be guessed (`_acceleration`).
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _backup_kernels as backups
from kofn.controller.core import _power_kernels as kernels
from kofn.controller.core._acceleration import Anderson
from kofn.controller.core._jit import parallel_map, thread_count
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.grid import all_counts, check_grid
from kofn.controller.core.successors import rounded_successors, sample_successors
from kofn.controller.core.symmetric_power import Method, SymmetricPower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kofn.controller.core.game import FloatArray, Game

T = TypeVar("T")
Backend = Literal["exact", "sampled", "rounded"]

#: Successors per cell of the sampled backend unless given.
DEFAULT_SAMPLES = 10

#: A grid with fewer points than this is swept faster by one thread.
_WORTH_THREADS = 2000

_MAX_SWEEPS = 100_000

#: Steps that acceleration looks back on.
_LOOK_BACK = 5

#: Multiples of the reachable error bound below which iteration goes on without acceleration.
_PLAIN = 1e3

#: Actions whose values differ by less than this, relative to the largest value, are ties.
_TIE = 1e-11


class Operator(Protocol):
    """One step of k independent agents, acting on functions of histograms."""

    def apply_to(self, values: FloatArray, lane: int, out: FloatArray) -> None:
        """Write the images of values[:, lane : lane + B'] to `out`: shapes (M, B) and (M, B')."""


class Successors:
    """An operator that averages over listed successors, shape (M, m)."""

    def __init__(self, successors: npt.NDArray[np.int32]) -> None:
        self.successors = successors

    def apply_to(self, values: FloatArray, lane: int, out: FloatArray) -> None:
        """Write the means of values[:, lane : lane + B'] over the successors to `out`."""
        kernels.average_successors(values, lane, self.successors, out)


class Surrogate:
    """The closed system of k agents under a fixed local policy.

    Holds the operators and applies the Bellman operator. Values are kept as (M, S_g), the global
    states side by side, as the operators want them.
    """

    def __init__(
        self,
        game: Game,
        pi_l: npt.ArrayLike,
        k: int,
        backend: Backend = "exact",
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.n_points = check_grid(k, game.n_local, game.n_global)
        self.game, self.k, self.backend = game, int(k), backend
        self.P_pi, self.r_pi = game.marginals(pi_l)
        self.counts = all_counts(self.k, game.n_local)
        self.samples = 0
        methods: list[Method | Backend] = []
        seeds = np.random.SeedSequence(seed).generate_state(game.n_global)

        def build(s: int) -> Operator:
            if backend == "sampled":
                draws = samples or DEFAULT_SAMPLES
                return Successors(sample_successors(self.P_pi[s], self.k, draws, int(seeds[s])))
            if backend == "rounded":
                return Successors(rounded_successors(self.P_pi[s], self.k))
            return SymmetricPower(self.P_pi[s], self.k, seed=int(seeds[s]))

        self.operators: list[Operator] = [build(s) for s in range(game.n_global)]
        for operator in self.operators:
            if isinstance(operator, Successors):
                methods.append(backend)
                drawn = operator.successors.size if backend == "sampled" else 0
            else:
                assert isinstance(operator, SymmetricPower)  # noqa: S101 - the only other one
                methods.append(operator.method)
                drawn = operator.n_samples
            self.samples += drawn
        self.methods = tuple(methods)
        # r_local[c, s_g] = (1/k) sum_j c_j r^pi(s_g, j)
        self.r_local: FloatArray = np.ascontiguousarray(self.counts @ self.r_pi.T / self.k)
        # Writable copies: numba compiles a second version for read-only arrays.
        self._P_g: FloatArray = np.ascontiguousarray(game.P_g.transpose(0, 2, 1))
        self._r_g = np.array(game.r_g)
        self._spare: dict[int, list[FloatArray]] = {}

    def sweep(
        self, values: FloatArray, action: npt.NDArray[np.int32] | None = None
    ) -> tuple[FloatArray, npt.NDArray[np.int32]]:
        """Apply the Bellman operator once: the optimal one, or that of a fixed action table.

        Parameters
        ----------
        values : array, shape (M, S_g)
        action : array of int, shape (S_g, M), optional

        Returns
        -------
        new values, shape (M, S_g), and greedy actions, shape (S_g, M)

        Raises
        ------
        InputError
            An array has another shape; the kernels would read beyond it.
        """
        shape = self.n_points, self.game.n_global
        for name, given, right in (("values", values, shape), ("action", action, shape[::-1])):
            if given is not None and given.shape != right:
                raise InputError(f"{name} of shape {given.shape} must have shape {right}")
        fixed = action is not None
        chosen = (
            np.empty((self.game.n_global, self.n_points), np.int32) if action is None else action
        )
        out = np.empty_like(values)
        largest = max(float(values.max()), -float(values.min()))
        self._sweep(np.ascontiguousarray(values), out, chosen, largest, fixed=fixed)
        return out, chosen

    def _sweep(
        self,
        values: FloatArray,
        out: FloatArray,
        action: npt.NDArray[np.int32],
        largest: float,
        *,
        fixed: bool,
    ) -> tuple[float, float, float]:
        """Sweep into `out`; return the extremes of its change and its largest magnitude."""
        game, n_points = self.game, self.n_points
        states = range(game.n_global)
        # Rounding must not decide between equal actions.
        slack = _TIE * max(1.0, largest)
        seen: list[tuple[float, float, float]] = []

        def back_up(expected: FloatArray, s: int, first: int, last: int) -> None:
            seen.append(
                backups.backup(
                    expected,
                    self._P_g[s],
                    self._r_g[s],
                    self.r_local,
                    game.gamma,
                    slack,
                    fixed,
                    action[s],
                    values,
                    out,
                    s,
                    first,
                    last,
                )
            )

        def move(operator: int, first: int, last: int, joint: FloatArray) -> None:
            """Apply an operator to the values of some global states."""
            with self._workspace(last - first) as moved:
                self.operators[operator].apply_to(values, first, moved)
                joint[:, first:last] = moved

        def whole(s: int) -> None:
            with self._workspace(game.n_global) as expected:
                self.operators[s].apply_to(values, 0, expected)
                back_up(expected, s, 0, n_points)

        def share(s: int, joint: FloatArray) -> None:
            """Share out the functions of one global state, for want of more states."""
            run(lambda part: move(s, *part, joint), _parts(game.n_global), n_points)

        def back_up_all(states: range, joint: FloatArray) -> None:
            pieces = [(s, *part) for s in states for part in _parts(n_points)]
            run(lambda piece: back_up(joint, *piece), pieces, n_points)

        if game.local_sees == "next":
            with self._workspace(game.n_global) as joint:
                run(lambda s: move(s, s, s + 1, joint), states, n_points)
                back_up_all(states, joint)
        else:
            busy = game.n_global - game.n_global % _threads(n_points)
            run(whole, states[:busy], n_points)
            for s in states[busy:]:
                with self._workspace(game.n_global) as joint:
                    share(s, joint)
                    back_up_all(range(s, s + 1), joint)
        low, high, top = zip(*seen, strict=True)
        return min(low), max(high), max(top)

    @contextmanager
    def _workspace(self, lanes: int) -> Iterator[FloatArray]:
        """Lend an array, shape (M, lanes), that the next sweep uses again."""
        spare = self._spare.setdefault(lanes, [])
        try:
            array = spare.pop()
        except IndexError:
            array = np.empty((self.n_points, lanes))
        yield array
        spare.append(array)

    def solve(
        self,
        values: FloatArray,
        tol: float,
        action: npt.NDArray[np.int32] | None = None,
    ) -> tuple[FloatArray, npt.NDArray[np.int32], int, float]:
        """Iterate `sweep` from `values` until the error bound is at most `tol`.

        Returns
        -------
        values (M, S_g), actions (S_g, M), sweeps, error bound
        """
        gamma = self.game.gamma
        ahead = gamma / (1 - gamma)
        best = math.inf
        last = math.inf
        faster = Anderson(_LOOK_BACK)
        stalled = sweeps = 0
        fixed = action is not None
        chosen = (
            np.empty((self.game.n_global, self.n_points), np.int32) if action is None else action
        )
        old, new = np.array(values, order="C"), np.empty(values.shape)
        largest = max(float(old.max()), -float(old.min()))
        while sweeps < _MAX_SWEEPS:
            sweeps += 1
            low, high, largest = self._sweep(old, new, chosen, largest, fixed=fixed)
            bound = ahead * (high - low) / 2
            # Rounding of values this large limits what can be reached.
            stalled = stalled + 1 if bound >= 0.999 * best else 0
            best = min(best, bound)
            floor = ahead * 8 * np.finfo(np.float64).eps * largest
            if bound <= tol or bound <= floor or (stalled >= 50 and bound <= 100 * floor):
                new += ahead * (high + low) / 2
                return new, chosen, sweeps, bound
            # Near what rounding allows, differences of iterates are noise.
            if bound > _PLAIN * floor:
                if bound > last:
                    faster.reset()
                faster.propose(old, new)
                last = bound
            else:
                old, new = new, old
        raise RunError(f"value iteration did not reach tolerance {tol} in {_MAX_SWEEPS} sweeps")


def _threads(n_points: int) -> int:
    """Return the number of threads that a grid is worth."""
    return thread_count() if n_points >= _WORTH_THREADS else 1


def run(function: Callable[[T], None], items: Sequence[T], n_points: int) -> None:
    """Apply a function to each item, on threads where the grid is worth it."""
    if _threads(n_points) == 1:
        for item in items:
            function(item)
    else:
        parallel_map(function, items)


def _parts(n: int) -> list[tuple[int, int]]:
    """Split range(n) into one interval per thread."""
    pieces = min(n, thread_count())
    edges = [n * p // pieces for p in range(pieces + 1)]
    return list(itertools.pairwise(edges))
