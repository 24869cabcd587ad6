# SPDX-License-Identifier: MIT
"""The k-chained MDP written out: states, successors and probabilities, one act per transition.

`chained` solves the chain without ever listing its transitions; a learner that draws them, like
`ucfh`, needs the list. States are ordered by act and then by what is remembered:

- "current": act 0 knows (s_g, x); act i > 0, of replica i, knows (s_g, s', x);
- "next": act 0 earns and draws s', nobody chooses; act i > 0, of replica i - 1, knows (s', x).

The last act of a step leads to act 0 of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._replicas import Replicas
from kofn.controller.core.chained import check_chain, needed_states
from kofn.controller.core.errors import InputError
from kofn.controller.core.team import check_action

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray

#: Largest chain that is written out, in states that occur.
MAX_STATES = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class ChainTables:
    """The k-chained MDP written out, one act of one replica per transition.

    Attributes
    ----------
    successor : array of int, shape (N, C)
        States that may follow; the same for all actions.
    width : array of int, shape (N,)
        How many of them are meant.
    probability : array, shape (N, A_l, C)
    reward : array, shape (N, A_l)
    start : array, shape (N,)
        Law of the first state.
    agent : array of int, shape (N, 2)
        s_g and s_l of the replica that moves; -1 where nobody does.
    phases : array of int, shape (acts + 1,)
        States of act p are phases[p]..phases[p + 1] - 1.
    """

    successor: IntArray
    width: IntArray
    probability: FloatArray
    reward: FloatArray
    start: FloatArray
    agent: IntArray
    phases: IntArray


def chain_tables(game: Game, pi_g: npt.ArrayLike, k: int) -> ChainTables:
    """Write the chain of `chained` out as one Markov decision process."""
    check_chain(game, k)
    k = int(k)
    n_states = needed_states(game, k)
    if n_states > MAX_STATES:
        raise InputError(
            f"the chain written out has {n_states} states, above the limit of {MAX_STATES}"
        )
    replicas = Replicas(game, check_action(game, pi_g, k), k)
    S_g, S_l, A_l = game.r_l.shape
    X, x = replicas.size, np.arange(replicas.size)
    powers = S_l ** np.arange(k - 1, -1, -1)
    current = game.local_sees == "current"
    acts = k if current else k + 1
    # Act 0 knows s_g alone; later acts of "current" know s_g and s', those of "next" s' alone.
    lanes = [S_g] + [S_g * S_g if current else S_g] * (acts - 1)
    phases = np.concatenate([[0], np.cumsum([n * X for n in lanes])]).astype(np.int64)
    C = S_g * S_l if current else max(S_g, S_l)
    successor = np.repeat(np.arange(n_states)[:, None], C, axis=1)
    width = np.empty(n_states, dtype=np.int64)
    probability = np.zeros((n_states, A_l, C))
    reward = np.zeros((n_states, A_l))
    agent = np.full((n_states, 2), -1, dtype=np.int64)

    def after(i: int) -> IntArray:
        """Return the tuple in which replica i has gone to l, shape (X, S_l)."""
        moved: IntArray = x[:, None] + (np.arange(S_l) - replicas.digits[:, i, None]) * powers[i]
        return moved

    for s in range(S_g):
        rows = s * X + x
        spread = game.P_g[s][replicas.action[s]]  # (X, S_g)
        own = game.r_g[s][replicas.action[s]]
        targets = np.arange(S_g)
        if current:
            moved = after(0)
            lane = (s * S_g + targets if k > 1 else targets)[None, :, None]
            base = phases[1] if k > 1 else 0
            successor[rows] = (base + lane * X + moved[:, None, :]).reshape(X, -1)
            law = game.P_l[s][replicas.digits[:, 0]]  # (X, A_l, S_l)
            probability[rows] = (spread[:, None, :, None] * law[:, :, None, :]).reshape(X, A_l, -1)
            reward[rows] = own[:, None] + game.r_l[s][replicas.digits[:, 0]] / k
            width[rows] = C
            agent[rows] = np.stack([np.full(X, s), replicas.digits[:, 0]], axis=1)
        else:
            successor[rows, :S_g] = phases[1] + targets[None, :] * X + x[:, None]
            probability[rows, :, :S_g] = spread[:, None, :]
            earned = game.r_l[s].max(axis=1)[replicas.digits].mean(axis=1)
            reward[rows] = (own + earned)[:, None]
            width[rows] = S_g
    for p in range(1, acts):
        i = p if current else p - 1
        for lane in range(lanes[p]):
            s, target = divmod(lane, S_g) if current else (lane, lane)
            rows = phases[p] + lane * X + x
            base = phases[p + 1] + lane * X if p + 1 < acts else target * X
            successor[rows, :S_l] = base + after(i)
            probability[rows, :, :S_l] = game.P_l[s][replicas.digits[:, i]]
            if current:
                reward[rows] = game.r_l[s][replicas.digits[:, i]] / k
            width[rows] = S_l
            agent[rows] = np.stack([np.full(X, s), replicas.digits[:, i]], axis=1)
    start = np.zeros(n_states)
    start[: S_g * X] = replicas.law.ravel()
    return ChainTables(successor, width, probability, reward, start, agent, phases)


def finite_value(
    tables: ChainTables, weight: FloatArray, policy: IntArray | None = None
) -> tuple[float, IntArray]:
    """Return the exact return of a policy, or the best one, and the policy, shape (H, N).

    Parameters
    ----------
    tables : ChainTables
    weight : array, shape (H,)
        How much the reward of each sub-step counts.
    policy : array of int, shape (H, N), optional
    """
    states = np.arange(len(tables.start))
    value = np.zeros(len(states))
    chosen = np.zeros((len(weight), len(states)), dtype=np.int64) if policy is None else policy
    for t in range(len(weight) - 1, -1, -1):
        ahead = (tables.probability * value[tables.successor][:, None, :]).sum(axis=2)
        q = weight[t] * tables.reward + ahead
        if policy is None:
            chosen[t] = np.argmax(q, axis=1)
        value = q[states, chosen[t]]
    return float(tables.start @ value), chosen
