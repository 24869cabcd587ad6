# SPDX-License-Identifier: MIT
r"""Episodes of the n-agent system under a policy, played in counts.

Agents in the same state are exchangeable, so the vector N of counts is all there is to simulate:
actions and moves of the N_j agents in state j are multinomial, the poll is a draw without
replacement. The law of (s_g, N, a_g, reward) is exactly that of n separate agents, and the cost of
a step depends on S_l, A_l and k, not on n.

Each step: poll k agents, update the belief, look up a_g, earn, draw s_g', move the agents.
Random numbers are addressed by (seed, rollout, step, purpose): policies that are compared under the
same seed meet common random numbers.

======  ============  ==================  ==========================
symbol  name          shape               meaning
======  ============  ==================  ==========================
R       returns       (rollouts,)         discounted returns
N       counts        (R, T, S_l)         agents in each local state
======  ============  ==================  ==========================
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _rollout_kernels as kernels
from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_flag,
    check_int,
    check_poll,
    check_real,
    check_seed,
)
from kofn.controller.core._earnings import earnings
from kofn.controller.core._jit import parallel_map, thread_count
from kofn.controller.core._multinomials import prepare
from kofn.controller.core._pooling import pool
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import binomials
from kofn.controller.core.policy import check_policy

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray
    from kofn.controller.core.policy import Policy

#: An endless game is cut where the rest weighs less than this.
_TAIL = 1e-4

#: Largest memory of returns and records, in bytes.
MAX_BYTES = 4 * 2**30

MAX_STATES = 62  # bits of a word in the projection


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """What happened in each step.

    Attributes
    ----------
    s_g, a_g : array of int, shape (rollouts, horizon)
        Global state and action.
    counts, sample : array of int, shape (rollouts, horizon, S_l)
        Agents in each local state, and those of them that were polled.
    mode : array of int, shape (rollouts, horizon)
        A most crowded local state, the lowest of equals.
    mode_known : array of bool, shape (rollouts, horizon)
        Whether the belief's largest state was a most crowded one.
    reward : array, shape (rollouts, horizon)
        Reward of the step, undiscounted.
    """

    s_g: IntArray
    a_g: IntArray
    counts: IntArray
    sample: IntArray
    mode: IntArray
    mode_known: npt.NDArray[np.bool_]
    reward: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Rollouts:
    """The result of `rollout`.

    Attributes
    ----------
    returns : array, shape (rollouts,)
        Discounted return of each episode.
    mode_accuracies : array, shape (rollouts,)
        Share of steps in which the belief's largest state was truly a largest one.
    n, k, horizon, memory
        Fleet size, poll size, steps, and the belief cap that was used, in agents.
    records : Records or None
        Every step, if asked for.
    """

    returns: FloatArray
    mode_accuracies: FloatArray
    n: int
    k: int
    horizon: int
    memory: float
    records: Records | None

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean return (nan for a single rollout)."""
        size = self.returns.size
        return float(self.returns.std(ddof=1) / math.sqrt(size)) if size > 1 else math.nan

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return a confidence interval of the expected return.

        Parameters
        ----------
        level : float
            Probability with which it covers the expectation, by the normal approximation; use
            some hundred rollouts.
        """
        level = check_real("confidence level", level, above=0, below=1)
        if self.returns.size < 2:
            raise InputError("a confidence interval takes at least 2 rollouts, not 1")
        margin = NormalDist().inv_cdf((1 + level) / 2) * self.stderr
        return self.mean - margin, self.mean + margin

    @property
    def mode_accuracy(self) -> float:
        """Mean share of steps in which the belief knew a most crowded state."""
        return float(self.mode_accuracies.mean())


def resolve_horizon(game: Game, horizon: int | None) -> int:
    """Return the steps of an episode: given, the game's, or until the discounted tail is 1e-4."""
    if horizon is None:
        horizon = game.horizon
    if horizon is None:
        return 1 if game.gamma == 0 else max(1, math.ceil(math.log(_TAIL) / math.log(game.gamma)))
    return check_int("horizon", horizon, 1, MAX_TIMES)


def _check_memory(rollouts: int, recorded: int, n_local: int) -> None:
    """Refuse episodes whose returns and records do not fit, before anything is allocated."""
    needed = rollouts * (16 + recorded * (33 + 16 * n_local))
    if needed > MAX_BYTES:
        what = f" with a record of {recorded} steps" if recorded else ""
        raise InputError(
            f"rollouts {rollouts}{what} take {needed} bytes, above the limit of {MAX_BYTES}"
        )


def _mean_kernels(game: Game, pi_l: FloatArray, act_first: bool) -> FloatArray:
    """Return P^pi for each s_g, shape (S_g, S_l, S_l), or for each pair s_g S_g + s_g'."""
    means = np.einsum("sja,tjal->stjl", pi_l, game.P_l) if act_first else game.marginals(pi_l)[0]
    # Arrays of another layout are compiled for anew.
    kernels: FloatArray = np.ascontiguousarray(means.reshape(-1, game.n_local, game.n_local))
    return kernels


def _mean_parts(parts: FloatArray, pi_l: FloatArray, act_first: bool) -> FloatArray:
    """Return the laws by which agents leave their states, shape (events S_l, S_l + 1)."""
    rule = "sja,tjal->stjl" if act_first else "sja,sjal->sjl"
    means: FloatArray = np.ascontiguousarray(
        np.einsum(rule, pi_l, parts).reshape(-1, parts.shape[-1])
    )
    return means


def rollout(
    game: Game,
    policy: Policy,
    *,
    n: int,
    k: int,
    horizon: int | None = None,
    rollouts: int = 1000,
    seed: int = 0,
    memory: float | str | None = "auto",
    record: bool = False,
    act_first: bool = False,
) -> Rollouts:
    """Play episodes of n agents, k of them polled in each step.

    Parameters
    ----------
    game : Game
        The game to play; the policy may have been made for another one of the same shape.
    policy : Policy
        Global table, local policy and memory.
    n, k : int
        Fleet size (up to 1e12) and poll size, 1 <= k <= n.
    horizon : int, optional
        Steps; the game's own by default. An endless game is cut where the tail weighs 1e-4.
    rollouts : int
        Number of episodes.
    seed : int
        Episodes depend on the seed and their index alone, not on the number of threads.
    memory : "auto", "none" or number
        The policy's own belief memory, none, or a cap in agents.
    record : bool
        Keep every step.
    act_first : bool
        For games with `local_sees="next"`: agents choose their actions by s_g(t), then move under
        s_g(t+1), as in the episodes of the paper's released code.
    """
    check_policy(policy, game)
    k, n = check_poll(k, n)
    rollouts = check_int("rollouts", rollouts, 1, MAX_TIMES)
    seed = check_seed(seed)
    record, act_first = check_flag("record", record), check_flag("act_first", act_first)
    steps = resolve_horizon(game, horizon)
    _check_memory(rollouts, steps if record else 0, game.n_local)
    if game.n_local > MAX_STATES:
        raise InputError(f"{game.n_local} local states exceed the limit of {MAX_STATES}")
    if act_first and game.local_sees != "next":
        raise InputError("agents act first in games with local_sees 'next' only: others always do")
    policy = policy.in_play(k, memory)
    cap = policy.memory_cap(k, memory)
    law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
    seed_bits = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)

    shape = (rollouts, steps) if record else (0, 0)
    records = Records(
        s_g=np.zeros(shape, dtype=np.int64),
        a_g=np.zeros(shape, dtype=np.int64),
        counts=np.zeros((*shape, game.n_local), dtype=np.int64),
        sample=np.zeros((*shape, game.n_local), dtype=np.int64),
        mode=np.zeros(shape, dtype=np.int64),
        mode_known=np.zeros(shape, dtype=np.bool_),
        reward=np.zeros(shape),
    )
    returns, hits = np.empty(rollouts), np.empty(rollouts)
    # Writable copies: numba compiles a second version for read-only arrays.
    P_g, r_g = np.array(game.P_g), np.array(game.r_g)
    P_l, r_l = np.array(game.P_l), np.array(game.r_l)
    pi_l = np.array(policy.pi_l)
    pools = pool(P_l)
    motion = prepare(_mean_parts(pools.parts, pi_l, act_first))
    common = prepare(np.tile(pools.shape, (game.n_global if act_first else 1, 1)))
    gains = earnings(
        pi_l, pools.parts, r_l, by_pair=act_first, apart=game.local_sees == "next" and not act_first
    )
    marginal = _mean_kernels(policy.game, pi_l, act_first)
    squares = (marginal**2).sum(axis=-1)
    first_belief = np.array(policy.belief(k, memory).weights)
    action = np.array(policy.action)
    prior = np.zeros_like(policy.prior) if policy.remembers(k, memory) else np.array(policy.prior)
    table = np.array(binomials(policy.grid, game.n_local))

    def play(bounds: tuple[int, int]) -> None:
        kernels.episodes(
            bounds[0],
            bounds[1],
            seed_bits,
            n,
            k,
            steps,
            policy.grid,
            cap,
            game.gamma,
            game.local_sees == "next",
            act_first,
            float(game.initial.alpha or 0.0),
            law_g,
            law_l,
            P_g,
            r_g,
            motion,
            common,
            gains,
            marginal,
            squares,
            first_belief,
            prior,
            action,
            table,
            returns,
            hits,
            record,
            records.s_g,
            records.a_g,
            records.counts,
            records.sample,
            records.mode,
            records.mode_known,
            records.reward,
        )

    pieces = min(rollouts, 4 * thread_count())
    edges = np.linspace(0, rollouts, pieces + 1).astype(int).tolist()
    parallel_map(play, list(itertools.pairwise(edges)))
    return Rollouts(
        returns=returns,
        mode_accuracies=hits / steps,
        n=n,
        k=k,
        horizon=steps,
        memory=cap,
        records=records if record else None,
    )
