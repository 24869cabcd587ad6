# SPDX-License-Identifier: MIT
"""The Bellman operators of `chained`, on tables over all tuples of replica states.

Replica i is digit i of the index of a tuple, so letting it act is one small matrix product with the
tuples seen as (digits before, x_i, digits after). Nothing of size S_l^k x S_l^k is ever built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core.grid import rank
from kofn.controller.core.team import initial_histograms

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray

Choice = npt.NDArray[np.int16]

#: Actions whose values differ by less than this, relative to the largest value, are ties.
TIE = 1e-11


class Replicas:
    """The states x of k replicas by index, and what belongs to each.

    Attributes
    ----------
    digits : array of int, shape (S_l^k, k)
        The states of the replicas.
    action : array of int, shape (S_g, S_l^k)
        Global action while the replicas are in x.
    law : array, shape (S_g, S_l^k)
        The game's initial law.
    """

    def __init__(self, game: Game, action: npt.NDArray[np.int32], k: int) -> None:
        self.game, self.k = game, k
        self.size = int(game.n_local**k)
        index = np.arange(self.size)
        powers = game.n_local ** np.arange(k - 1, -1, -1)
        self.digits: IntArray = (index[:, None] // powers) % game.n_local
        counts = np.stack([(self.digits == j).sum(axis=1) for j in range(game.n_local)], axis=1)
        cells = rank(counts)
        self.action = action[:, cells]
        # A histogram's mass is shared equally by the tuples that have it.
        share = 1.0 / np.bincount(cells, minlength=action.shape[1])
        histograms = initial_histograms(game, k) * share[:, None]
        self.law: FloatArray = np.ascontiguousarray(histograms[cells].T)

    def options(self, ahead: FloatArray, i: int, P: FloatArray, r: FloatArray) -> FloatArray:
        """Return the value of each action of replica i, shape (A_l, B, S_l^k).

        Parameters
        ----------
        ahead : array, shape (B, S_l^k)
            Values once it has moved.
        P : array, shape (S_l, A_l, S_l)
            Where it goes from each state.
        r : array, shape (S_l, A_l)
            What it earns.
        """
        S_l, A_l = r.shape
        lanes = ahead.shape[0]
        right = S_l ** (self.k - 1 - i)
        moved = P.reshape(S_l * A_l, S_l) @ ahead.reshape(-1, S_l, right)
        by_action = moved.reshape(-1, S_l, A_l, right) + r[None, :, :, None]
        result: FloatArray = np.moveaxis(by_action, 2, 0).reshape(A_l, lanes, self.size)
        return result

    def push(self, mass: FloatArray, i: int, P: FloatArray) -> FloatArray:
        """Move replica i of a measure, shape (B, S_l^k), by a matrix, shape (S_l, S_l)."""
        S_l = len(P)
        right = S_l ** (self.k - 1 - i)
        moved = P.T @ mass.reshape(-1, S_l, right)
        result: FloatArray = moved.reshape(mass.shape)
        return result


def best_option(options: FloatArray, choices: list[Choice] | None) -> FloatArray:
    """Return the maximum over the first axis; append the lowest maximiser where asked for."""
    best: FloatArray = options.max(axis=0)
    if choices is not None:
        slack = TIE * max(1.0, float(np.abs(best).max()))
        choices.append(np.argmax(options >= best - slack, axis=0).astype(np.int16))
    return best


def sweep_chain(
    replicas: Replicas, values: FloatArray, choices: list[list[Choice]] | None = None
) -> FloatArray:
    """Apply the Bellman operator of the chain to V, shape (S_g, S_l^k).

    `choices` gets, for each s ("current") or s' ("next"), the action of every replica, the last
    replica first: shape (S_g, S_l^k) each, the first replica and all of "next" (1, S_l^k).
    """
    game, k = replicas.game, replicas.k
    out = np.empty_like(values)
    no_reward = np.zeros((game.n_local, game.n_local_actions))
    moved = np.empty_like(values)
    for s in range(game.n_global):
        chosen: list[Choice] | None = None if choices is None else []
        if choices is not None and chosen is not None:
            choices.append(chosen)
        if game.local_sees == "next":
            ahead = values[s : s + 1]
            for i in range(k - 1, -1, -1):
                ahead = best_option(replicas.options(ahead, i, game.P_l[s], no_reward), chosen)
            moved[s] = ahead[0]
            continue
        reward = game.r_l[s] / k
        ahead = game.gamma * values
        for i in range(k - 1, 0, -1):
            ahead = best_option(replicas.options(ahead, i, game.P_l[s], reward), chosen)
        law = game.P_g[s][replicas.action[s]].T  # (s', x)
        # The first replica does not know s' yet.
        first = (replicas.options(ahead, 0, game.P_l[s], no_reward) * law).sum(axis=1)
        first += reward[replicas.digits[:, 0]].T
        out[s] = best_option(first[:, None], chosen)[0] + game.r_g[s][replicas.action[s]]
    if game.local_sees == "next":
        out = earn_and_see(replicas, moved)
    return out


def earn_and_see(replicas: Replicas, moved: FloatArray) -> FloatArray:
    """Return V of "next" from the value once s' is known, both shape (S_g, S_l^k)."""
    game = replicas.game
    out = np.empty_like(moved)
    for s in range(game.n_global):
        action = replicas.action[s]
        earned = game.r_l[s].max(axis=1)[replicas.digits].mean(axis=1)
        ahead = (game.P_g[s][action] * moved.T).sum(axis=1)
        out[s] = game.r_g[s][action] + earned + game.gamma * ahead
    return out


def sweep_joint(replicas: Replicas, values: FloatArray) -> FloatArray:
    """Apply the Bellman operator of k agents that choose at once."""
    game, k = replicas.game, replicas.k
    no_reward = np.zeros((game.n_local, game.n_local_actions))

    def all_actions(ahead: FloatArray, s: int, reward: FloatArray) -> FloatArray:
        # Options of one replica after the other, none decided: (A_l^k, S_l^k), then the best.
        for i in range(k):
            ahead = replicas.options(ahead, i, game.P_l[s], reward).reshape(-1, replicas.size)
        best: FloatArray = ahead.max(axis=0)
        return best

    states = range(game.n_global)
    if game.local_sees == "next":
        moved = [all_actions(values[s : s + 1], s, no_reward) for s in states]
        return earn_and_see(replicas, np.array(moved))
    out = np.empty_like(values)
    for s in states:
        for a in np.unique(replicas.action[s]):
            ahead = game.gamma * game.P_g[s, a][None] @ values
            where = replicas.action[s] == a
            out[s, where] = (game.r_g[s, a] + all_actions(ahead, s, game.r_l[s] / k))[where]
    return out
