# SPDX-License-Identifier: MIT
r"""Q-learning of the global agent from samples: asynchronous, subsampled, mean-field.

The learner sees transitions (s_g, c, a_g, r, s_g', c') of the closed system of k agents under a
fixed local policy, one at a time, and nothing else of the game:

.. math:: Q(x,a) \leftarrow Q(x,a) + \alpha_N \bigl(r + \gamma \max_{a'} Q(x',a') - Q(x,a)\bigr),
   \quad x = (s_g, c), \quad r = r_g(s_g,a) + \frac1k \sum_j c_j r^\pi(s_g,j)

where N counts the earlier visits to (x, a). Its fixed point is the Q of `g_learn` with the exact
backend. The default step :math:`\alpha_N = 1/(1+(1-\gamma)N)` is the rescaled linear one
(Wainwright 2019, arXiv 1905.06265): it forgets the start as 1/(1+(1-gamma)N), the plain 1/(1+N)
only as N^{-(1-gamma)}. What remains is the noise of the draws, which falls as N^{-1/2}.

Transitions come from a sampler of the game, which visits all pairs in turn (*uniform*) or plays
episodes (*epsilon-greedy*), or from a record (`Transitions`).

======  ===========  ==================  ===========================================
symbol  name         shape               meaning
======  ===========  ==================  ===========================================
Q       q            (S_g, M, A_g)       value of each state and action
V       value        (S_g, M)            max over a of Q
pi_g    action       (S_g, M)            greedy action, ties to the lowest
N       visits       (S_g, M, A_g)       updates of each entry
======  ===========  ==================  ===========================================

Reference: SUBSAMPLE-MFQ, Anand, Karmarkar & Qu 2024, arXiv 2412.00661.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _q_kernels as kernels
from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_choice,
    check_int,
    check_kind,
    check_real,
    check_seed,
    shown,
)
from kofn.controller.core._jit import parallel_map, thread_count
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.grid import MAX_BYTES, all_counts, binomials, check_grid
from kofn.controller.core.rollouts import resolve_horizon
from kofn.controller.core.transitions import Transitions, encode

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

Exploration = Literal["uniform", "epsilon-greedy"]
StepSize = float | Callable[[npt.NDArray[np.int64]], npt.ArrayLike]

#: Transitions drawn from the sampler unless given.
DEFAULT_SAMPLES = 1_000_000

#: Share of random actions in epsilon-greedy episodes unless given.
DEFAULT_EPSILON = 0.1

#: Transitions drawn at a time; small enough to stay in the cache.
_BLOCK = 65536

#: Actions whose values differ by less than this, relative to the value, are ties.
_TIE = 1e-11


@dataclass(frozen=True, slots=True, eq=False)
class QSolution:
    """The result of `q_learn`.

    Attributes
    ----------
    q : array, shape (S_g, M, A_g)
        Learned values; entries without a visit hold the start.
    value : array, shape (S_g, M)
        Largest entry of each cell; of a record, among the actions that were visited.
    action : array of int, shape (S_g, M)
        The action of that entry.
    visits : array of int, shape (S_g, M, A_g)
        Updates of each entry.
    samples : int
        Transitions that were drawn or recorded; replayed ones count once.
    updates : int
        Updates in all, the sum of `visits`.
    k : int
        Agents in a histogram.
    """

    q: FloatArray
    value: FloatArray
    action: npt.NDArray[np.int32]
    visits: IntArray
    samples: int
    updates: int
    k: int


def q_learn(
    game: Game,
    pi_l: npt.ArrayLike | None,
    k: int,
    *,
    transitions: Transitions | None = None,
    samples: int | None = None,
    passes: int | None = None,
    exploration: Exploration = "uniform",
    epsilon: float | None = None,
    horizon: int | None = None,
    step_size: StepSize | None = None,
    start: QSolution | float = 0.0,
    seed: int = 0,
) -> QSolution:
    """Learn the response of the global agent to a local policy from samples, on k agents.

    Parameters
    ----------
    game : Game
        What is sampled; of a record, only its sizes and gamma are used.
    pi_l : array, shape (S_g, S_l, A_l)
        The local policy that everybody follows; None is fine with a record, which carries it.
    k : int
        Agents in a histogram.
    transitions : Transitions, optional
        Learn from this record instead of a sampler. A cell is then worth its best *recorded*
        action: for what was never tried there is no evidence.
    samples : int, optional
        Transitions to draw (1 000 000 unless given).
    passes : int, optional
        How often the record is replayed, in its order (once unless given).
    exploration : {"uniform", "epsilon-greedy"}
        Visit all pairs (s_g, c, a_g) in turn, or play episodes from the game's initial law.
    epsilon : float, optional
        Share of random actions in epsilon-greedy episodes (0.1 unless given).
    horizon : int, optional
        Steps of such an episode; by default as in `rollout`.
    step_size : float or callable, optional
        A constant, or a function from an array of visit numbers N = 0, 1, ... to steps, each above
        0 and at most 1; 1/(1 + (1-gamma) N) unless given.
    start : float or QSolution
        Value that all entries start from, or an earlier result to go on from. Uniform coverage
        goes on exactly as if it had not stopped (same seed); episodes start afresh.
    seed : int
        Same seed, same result, on any number of threads.
    """
    check_kind("game", game, Game)
    points = check_grid(k, game.n_local, game.n_global)
    k = int(k)
    shape = (game.n_global, points, game.n_global_actions)
    _check_memory(shape)
    check_choice("exploration", exploration, get_args(Exploration))
    plays = exploration == "epsilon-greedy"
    if transitions is not None:
        check_kind("transitions", transitions, Transitions)
    _check_fit(transitions, samples, passes, plays, epsilon, horizon)
    seed = check_seed(seed)
    before = _resolve_start(start, shape, k)
    q, visits = before.q.reshape(-1, shape[2]), before.visits.reshape(-1, shape[2])
    most = int(visits.max())
    seen_only = transitions is not None
    if transitions is None:
        drawn = updates = check_int(
            "samples", DEFAULT_SAMPLES if samples is None else samples, 1, 10**15
        )
        steps = _step_table(step_size, most + (drawn if plays else -(-drawn // visits.size)))
        sampler = _Sampler(game, pi_l, k, seed)
        if plays:
            share = check_real(
                "epsilon", DEFAULT_EPSILON if epsilon is None else epsilon, least=0, most=1
            )
            episode = None if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
            sampler.play(drawn, before.updates, share, episode, steps, q, visits)
        else:
            sampler.cover(drawn, before.updates, steps, q, visits)
    else:
        if pi_l is not None:
            game.local_policy(pi_l)
        times = check_int("passes", 1 if passes is None else passes, 1, MAX_TIMES)
        pairs, cells = encode(transitions, game, k)
        steps = _step_table(step_size, most + int(np.bincount(pairs).max()) * times)
        reward = np.array(transitions.reward)  # writable, or numba compiles a second version
        for _ in range(times):
            kernels.replay(pairs, reward, cells, game.gamma, steps, seen_only, q, visits)
        drawn, updates = len(transitions), len(transitions) * times
    kernels.greedy(q, visits, seen_only, _TIE, before.value.reshape(-1), before.action.reshape(-1))
    return replace(before, samples=before.samples + drawn, updates=before.updates + updates)


class _Sampler:
    """Draws transitions of k agents of a game under a local policy."""

    def __init__(self, game: Game, pi_l: npt.ArrayLike | None, k: int, seed: int) -> None:
        if pi_l is None:
            raise InputError("pi_l is missing: without transitions the game is sampled under it")
        P_pi, r_pi = game.marginals(pi_l)
        self.game, self.k = game, k
        # A branch of its own: rollouts under the same seed must not repeat the training's luck.
        self.seed = int(
            np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1, np.uint64)[0] >> 1
        )
        # Writable copies: numba compiles a second version for read-only arrays.
        self.table = np.array(binomials(k, game.n_local))
        self.model = (_cumulative(game.P_g), np.array(game.r_g), _cumulative(P_pi), P_pi, r_pi)

    def cover(
        self, samples: int, offset: int, steps: FloatArray, q: FloatArray, visits: IntArray
    ) -> None:
        """Learn from pairs in turn. Blocks are drawn on all threads, learned from in order."""
        grid = all_counts(self.k, self.game.n_local)
        size = min(samples, _BLOCK)
        pairs, cells, rewards = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)

        def fill(piece: tuple[int, int, int]) -> None:
            block, low, high = piece
            kernels.draw_transitions(
                low,
                high,
                block,
                self.seed,
                self.k,
                self.game.local_sees == "next",
                *self.model,
                grid,
                self.table,
                pairs,
                rewards,
                cells,
            )

        for block in range(offset, offset + samples, _BLOCK):
            filled = min(_BLOCK, offset + samples - block)
            edges = np.linspace(0, filled, thread_count() + 1).astype(int).tolist()
            parallel_map(fill, [(block, low, high) for low, high in itertools.pairwise(edges)])
            kernels.replay(
                pairs[:filled],
                rewards[:filled],
                cells[:filled],
                self.game.gamma,
                steps,
                False,
                q,
                visits,
            )

    def play(
        self,
        samples: int,
        offset: int,
        epsilon: float,
        horizon: int | None,
        steps: FloatArray,
        q: FloatArray,
        visits: IntArray,
    ) -> None:
        """Learn along epsilon-greedy episodes."""
        game = self.game
        episode = resolve_horizon(game, horizon)
        law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
        place, counts = np.zeros(2, np.int64), np.zeros(game.n_local, np.int64)
        # In pieces, so that an interrupt is heard.
        for first in range(offset, offset + samples, 64 * _BLOCK):
            kernels.play(
                min(64 * _BLOCK, offset + samples - first),
                first,
                self.seed,
                self.k,
                game.local_sees == "next",
                *self.model,
                self.table,
                len(q) // game.n_global,
                episode,
                float(game.initial.alpha or 0.0),
                law_g,
                law_l,
                epsilon,
                game.gamma,
                steps,
                q,
                visits,
                place,
                counts,
            )


def _cumulative(P: FloatArray) -> FloatArray:
    """Return the distribution functions of the rows, 1 from the last possible index onwards."""
    cdf: FloatArray = np.cumsum(P, axis=-1)
    after = np.cumsum(P[..., ::-1] > 0, axis=-1)[..., ::-1] <= 1
    cdf[after & (cdf > 0)] = 1.0
    return cdf


def _resolve_start(start: QSolution | float, shape: tuple[int, int, int], k: int) -> QSolution:
    """Return fresh tables to learn in; the value and the action are still to be filled."""
    value, action = np.empty(shape[:2]), np.empty(shape[:2], np.int32)
    if not isinstance(start, QSolution):
        q = np.full(shape, check_real("start", start))
        return QSolution(q, value, action, np.zeros(shape, np.int64), 0, 0, k)
    if start.q.shape != shape or start.k != k:
        raise InputError(
            f"start was learned on {start.k} agents with a table of shape {start.q.shape}, "
            f"not on {k} with {shape}"
        )
    q, visits = start.q.copy(), start.visits.copy()
    return QSolution(q, value, action, visits, start.samples, start.updates, k)


def _step_table(step_size: StepSize | None, longest: int) -> FloatArray:
    """Return the step of each visit, shape (visits,); empty for the default formula."""
    if step_size is None:
        return np.empty(0)
    if not callable(step_size):
        step_size = check_real("step_size", step_size, above=0, most=1)
        longest = 1
    elif 8 * longest > MAX_BYTES:
        raise InputError(
            f"a step size for each of up to {longest} visits takes {8 * longest} bytes, "
            f"above the limit of {MAX_BYTES}"
        )
    try:
        with np.errstate(all="ignore"):
            given = step_size(np.arange(longest)) if callable(step_size) else step_size
        steps = np.array(np.broadcast_to(np.asarray(given, np.float64), (longest,)))
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(
            f"step_size gave no number for each of {longest} visits: {error}"
        ) from None
    bad = ~((steps > 0) & (steps <= 1))
    if bad.any():
        n = int(bad.argmax())
        raise InputError(f"step size of visit {n} is {steps[n]:g}, but must be above 0, at most 1")
    return steps


def _check_memory(shape: tuple[int, int, int]) -> None:
    pairs = math.prod(shape)
    if 16 * pairs > MAX_BYTES:
        raise InputError(
            f"Q-learning on {shape[0] * shape[1]} states with {shape[2]} actions takes "
            f"{16 * pairs} bytes for values and visits, above the limit of {MAX_BYTES}"
        )


def _check_fit(
    transitions: Transitions | None,
    samples: int | None,
    passes: int | None,
    plays: bool,
    epsilon: float | None,
    horizon: int | None,
) -> None:
    """Refuse settings that would be ignored."""
    if transitions is None:
        if passes is not None:
            raise InputError(f"passes {shown(passes)} need transitions to replay")
    elif samples is not None or plays:
        raise InputError("samples and exploration are for the sampler, not for transitions")
    if not plays and (epsilon is not None or horizon is not None):
        raise InputError("epsilon and horizon need exploration 'epsilon-greedy'")
