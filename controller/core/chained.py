# SPDX-License-Identifier: MIT
r"""The k-chained MDP: the paper's L-LEARN, solved exactly for toy sizes.

Against a fixed pi_g, k replicas of the local agent act one after the other inside a step, so that a
choice is one of A_l actions and not of A_l^k. What the replicas reach is written over what they
left, and the next global state is drawn with the first of them:

.. math::
   F_k(s, s', x) &= \gamma V(s', x) \\
   F_i(s, s', x) &= \max_b \tfrac1k r_l(s, x_i, b)
      + \sum_l P_l(l|s, x_i, b)\, F_{i+1}(s, s', x[x_i := l]), \qquad 0 < i < k \\
   V(s, x) &= r_g(s, a) + \max_b \tfrac1k r_l(s, x_0, b)
      + \sum_{s'} P_g(s'|s, a) \sum_l P_l(l|s, x_0, b)\, F_1(s, s', x[x_0 := l]),

with a = pi_g(s, hist x). The paper counts k S_g (S_g + 1) S_l^k states: replica, s, s' or "not yet
drawn", x. The first replica acts before s' is drawn and the others after it, so
(1 + (k - 1) S_g) S_g S_l^k of them occur.

With `local_sees="next"` agents earn under s and move under s', and the two choices do not bind each
other: V(s, x) = r_g + mean_i max_b r_l(s, x_i, b) + gamma sum_s' P_g(s'|s, a) F_0(s', x), with
F_k(s', x) = V(s', x) and no reward on the way. There is nothing left of s to remember, and
(k + 1) S_g S_l^k states do.

The optimum V is an upper bound: later replicas see s' and where earlier ones went, which no agent
of the fleet does. So its decisions are projected to one pi_l(a|s_g, s_l) by how often they are
taken, the projection is evaluated exactly in the closed system of k agents, and what is lost is
reported as the *inflation*. `joint_optimum` lies in between: all k see each other's states, but
choose at once.

======  ========  ==============  ==========================================================
symbol  name      shape           meaning
======  ========  ==============  ==========================================================
x       -         (k,)            states of the replicas; x_0 the slowest digit of its index
V       value     (S_g, S_l^k)    optimum of the chain at the start of a step
F_i     -         (S_g, S_l^k)    the same before replica i acts, for each s'
======  ========  ==============  ==========================================================

Reference: Anand & Karmarkar 2026, arXiv 2603.03759, Algorithm 2 (L-LEARN).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import (
    MAX_AGENTS,
    check_flag,
    check_int,
    check_kind,
    check_real,
    shown,
)
from kofn.controller.core._replicas import TIE, Replicas, sweep_chain, sweep_joint
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.team import (
    check_action,
    evaluate,
    initial_histograms,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.controller.core._replicas import Choice
    from kofn.controller.core.game import FloatArray

#: Largest chain that is built, in states as the paper counts them.
MAX_STATES = 1_000_000

#: Largest table of `joint_optimum`: replica states times joint actions.
MAX_JOINT = 4_000_000

_MAX_SWEEPS = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class ChainSolution:
    """The result of `chain_learn`.

    Attributes
    ----------
    pi_l : array, shape (S_g, S_l, A_l)
        The projection: decisions of the chain by how often they are taken, or the most frequent
        ones, whichever realises more.
    upper : float
        Optimum of the chain from the game's initial law.
    realised : float
        Value of the projection in the closed system of k agents.
    joint : float or None
        Optimum of k agents that see everything and choose at once, where it was asked for.
    value : array, shape (S_g, S_l^k)
        Optimum of the chain at the start of a step.
    states, needed : int
        States as the paper counts them, and those that occur.
    sweeps : int
        Applications of the chain's Bellman operator.
    error_bound : float
        Largest distance of `value` from the fixed point; `upper` is as close.
    k : int
        Replicas.
    """

    pi_l: FloatArray
    upper: float
    realised: float
    joint: float | None
    value: FloatArray
    states: int
    needed: int
    sweeps: int
    error_bound: float
    k: int

    @property
    def inflation(self) -> float:
        """What the chain promises beyond what a shared policy keeps, in units of the value."""
        return self.upper - self.realised


def chain_states(game: Game, k: int) -> int:
    """Return the states of the chain as the paper counts them, k S_g (S_g + 1) S_l^k."""
    return k * game.n_global * (game.n_global + 1) * int(game.n_local**k)


def needed_states(game: Game, k: int) -> int:
    """Return how many states of the chain occur."""
    steps = 1 + (k - 1) * game.n_global if game.local_sees == "current" else k + 1
    return steps * game.n_global * int(game.n_local**k)


def check_chain(game: Game, k: int, max_states: int = MAX_STATES) -> int:
    """Return the paper's state count, or refuse a chain that is too large, before allocating."""
    check_kind("game", game, Game)
    k = check_int("chain length", k, 1, MAX_AGENTS)
    max_states = check_int("state limit", max_states, 1)
    digits = k * math.log10(game.n_local)
    if digits > 18:  # the power alone would take long to write down
        count = f"more than 1e{int(digits)}"
    else:
        states = chain_states(game, k)
        if states <= max_states:
            return states
        count = str(states)
    raise InputError(
        f"the {k}-chained MDP over {game.n_global} global and {game.n_local} local states has "
        f"{count} states, above the limit of {shown(max_states)}"
    )


def _solve(
    sweep: Callable[[FloatArray], FloatArray], shape: tuple[int, int], gamma: float, tol: float
) -> tuple[FloatArray, int, float]:
    """Iterate to the fixed point with MacQueen's bounds; return it, the sweeps, the bound."""
    values = np.zeros(shape)
    ahead = gamma / (1 - gamma)
    for sweeps in range(1, _MAX_SWEEPS + 1):
        new = sweep(values)
        low, high = float((new - values).min()), float((new - values).max())
        bound = ahead * (high - low) / 2
        values = new
        floor = ahead * 64 * np.finfo(np.float64).eps * float(np.abs(new).max())
        if bound <= max(tol, floor):
            return new + ahead * (high + low) / 2, sweeps, bound
    raise RunError(f"the chain did not reach tolerance {tol} in {_MAX_SWEEPS} sweeps")


def count_decisions(
    replicas: Replicas, choices: list[list[Choice]], tol: float = 1e-9
) -> tuple[FloatArray, FloatArray]:
    """Return how often each action is taken when moving and when earning, (S_g, S_l, A_l) each.

    Discounted, from the initial law; once the law stands still up to `tol` the rest is geometric.
    """
    game, k = replicas.game, replicas.k
    moves, earns = np.zeros(game.r_l.shape), np.zeros(game.r_l.shape)
    best = np.argmax(game.r_l >= game.r_l.max(axis=2, keepdims=True) - TIE, axis=2)
    law, weight = replicas.law, 1.0
    for _ in range(10_000):
        step, earned = np.zeros_like(moves), np.zeros_like(earns)
        after = np.zeros_like(law)
        spread = [law[s] * game.P_g[s][replicas.action[s]].T for s in range(game.n_global)]
        for s in range(game.n_global):
            if game.local_sees == "next":
                for i in range(k):
                    here = replicas.digits[:, i]
                    seen = np.bincount(here, weights=law[s], minlength=game.n_local)
                    earned[s, np.arange(game.n_local), best[s]] += seen
                mass = np.sum([flow[s : s + 1] for flow in spread], axis=0)
            else:
                mass = spread[s]
            for i in range(k):
                choice = choices[s][k - 1 - i]
                moved = np.zeros_like(mass)
                for a in range(game.n_local_actions):
                    part = np.where(choice == a, mass, 0.0)
                    step[s, :, a] += np.bincount(
                        replicas.digits[:, i], weights=part.sum(axis=0), minlength=game.n_local
                    )
                    moved += replicas.push(part, i, game.P_l[s, :, a])
                mass = moved
            if game.local_sees == "next":
                after[s] += mass[0]
            else:
                after += mass
        change = float(np.abs(after - law).sum())
        last = change * weight <= tol
        times = weight / (1 - game.gamma) if last else weight
        moves += times * step
        earns += times * earned
        law, weight = after, weight * game.gamma
        if last:
            break
    return moves, earns


def projections(decisions: list[FloatArray]) -> list[FloatArray]:
    """Return the shared policies that follow decision counts, or their most frequent action.

    States that are never met act uniformly.
    """
    result: list[FloatArray] = []
    for counts in decisions:
        total = counts.sum(axis=2, keepdims=True)
        met = total > 1e-12
        n_actions = counts.shape[2]
        mean = np.where(met, counts / np.where(met, total, 1.0), 1 / n_actions)
        mode = np.where(met, np.eye(n_actions)[np.argmax(counts, axis=2)], 1 / n_actions)
        result += [mean / mean.sum(axis=2, keepdims=True), mode]
    return result


def realised_value(
    game: Game, pi_g: npt.ArrayLike, pi_l: npt.ArrayLike, k: int, tol: float = 1e-8
) -> float:
    """Return the value of a pair in the closed system of k agents, from the initial law."""
    action = check_action(game, pi_g, k)
    k = int(k)
    tol = check_real("tolerance", tol, above=0)
    law = initial_histograms(game, k)
    surrogate = Surrogate(game, pi_l, k)
    return float((law * evaluate(surrogate, action, np.zeros_like(law), tol)).sum())


def joint_optimum(game: Game, pi_g: npt.ArrayLike, k: int, tol: float = 1e-6) -> float:
    """Return the optimum of k agents that see all their states and choose at once."""
    check_chain(game, k)
    work = (game.n_local * game.n_local_actions) ** int(k)
    if work > MAX_JOINT:
        raise InputError(
            f"the joint optimum of {k} agents takes a table of {work} joint states and actions, "
            f"above the limit of {MAX_JOINT}"
        )
    tol = check_real("tolerance", tol, above=0)
    replicas = Replicas(game, check_action(game, pi_g, k), int(k))
    shape = replicas.law.shape
    values = _solve(lambda v: sweep_joint(replicas, v), shape, game.gamma, tol)[0]
    return float((replicas.law * values).sum())


def chain_learn(
    game: Game,
    pi_g: npt.ArrayLike,
    k: int,
    *,
    tol: float = 1e-6,
    joint: bool = False,
    max_states: int = MAX_STATES,
) -> ChainSolution:
    """Solve the k-chained MDP against a global policy and project it to a shared local policy.

    Parameters
    ----------
    game : Game
    pi_g : array of int, shape (S_g, M(k))
        Global action of each cell of the grid of k agents.
    k : int
        Replicas.
    tol : float
        Error bound of the chain's value to stop at, in units of the value.
    joint : bool
        Also solve for k agents that choose at once; tiny sizes only.
    max_states : int
        A chain with more states, as the paper counts them, is refused before it is built.
    """
    states = check_chain(game, k, max_states)
    action = check_action(game, pi_g, k)
    tol = check_real("tolerance", tol, above=0)
    joint = check_flag("joint", joint)
    k = int(k)
    between = joint_optimum(game, action, k, tol) if joint else None
    replicas = Replicas(game, action, k)
    shape = replicas.law.shape
    values, sweeps, bound = _solve(lambda v: sweep_chain(replicas, v), shape, game.gamma, tol)
    choices: list[list[Choice]] = []
    sweep_chain(replicas, values, choices)
    moves, earns = count_decisions(replicas, choices)
    counted = [moves, moves + earns] if game.local_sees == "next" else [moves]
    candidates = projections(counted)
    worth = [realised_value(game, action, pi, k, tol) for pi in candidates]
    best = int(np.argmax(worth))
    return ChainSolution(
        pi_l=candidates[best],
        upper=float((replicas.law * values).sum()),
        realised=worth[best],
        joint=between,
        value=values,
        states=states,
        needed=needed_states(game, k),
        sweeps=sweeps,
        error_bound=bound,
        k=k,
    )
