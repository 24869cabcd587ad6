# SPDX-License-Identifier: MIT
"""Plain numpy twins of the jitted kernels and brute-force versions of the solvers.

Slow and obvious on purpose: every function follows its definition, agent by agent where it can.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def grid(size: int, n_states: int) -> list[tuple[int, ...]]:
    """Return all histograms in lexicographic order."""
    return [c for c in itertools.product(range(size + 1), repeat=n_states) if sum(c) == size]


def power_matrix(P: Array, size: int) -> Array:
    """Return W as a matrix: the law of the next histogram, agent after agent."""
    n_states = len(P)
    points = grid(size, n_states)
    index = {c: i for i, c in enumerate(points)}
    W = np.zeros((len(points), len(points)))
    for c in points:
        law = {(0,) * n_states: 1.0}
        for j in range(n_states):
            for _ in range(c[j]):
                after: dict[tuple[int, ...], float] = {}
                for h, p in law.items():
                    for l in range(n_states):
                        if P[j, l] > 0:
                            moved = (*h[:l], h[l] + 1, *h[l + 1 :])
                            after[moved] = after.get(moved, 0.0) + p * P[j, l]
                law = after
        for h, p in law.items():
            W[index[c], index[h]] += p
    return W


def elementary_matrix(size: int, n_states: int, i: int, j: int, d: float, a: float) -> Array:
    """Return the matrix of one elementary operation, by its binomial formula."""
    points = grid(size, n_states)
    index = {c: m for m, c in enumerate(points)}
    W = np.zeros((len(points), len(points)))
    for c in points:
        for m in range(c[i] + 1):
            moved = list(c)
            moved[i] -= m
            moved[j] += m
            W[index[c], index[tuple(moved)]] += math.comb(c[i], m) * d ** (c[i] - m) * a**m
    return W


def project(weights: Array, size: int) -> list[int]:
    """Round to the grid by largest remainder, ties to the lower state."""
    total = float(np.sum(weights))
    n_states = len(weights)
    share = [w / total if total > 0 else 1 / n_states for w in weights]
    counts = [math.floor(size * s + 1e-9) for s in share]
    order = sorted(range(n_states), key=lambda i: -(size * share[i] - counts[i] - 1e-9 * i))
    for i in order[: size - sum(counts)]:
        counts[i] += 1
    return counts


def solve_tuples(game: Any, pi_l: Array, k: int, sweeps: int) -> dict[tuple[int, ...], float]:
    """Return the optimal value of each (s_g, s_1, ..., s_k) by plain value iteration."""
    P_pi = np.einsum("gja,gjal->gjl", pi_l, game.P_l)
    r_pi = np.einsum("gja,gja->gj", pi_l, game.r_l)
    S_g, A_g = game.r_g.shape
    tuples = list(itertools.product(range(game.P_l.shape[1]), repeat=k))
    move = np.array(
        [
            [
                [np.prod([P_pi[s, i, j] for i, j in zip(x, y, strict=True)]) for y in tuples]
                for x in tuples
            ]
            for s in range(S_g)
        ]
    )
    V = np.zeros((S_g, len(tuples)))
    mean = np.array([[np.mean([r_pi[s, i] for i in x]) for x in tuples] for s in range(S_g)])
    for _ in range(sweeps):
        Q = np.empty((S_g, len(tuples), A_g))
        for s, a in np.ndindex(S_g, A_g):
            ahead = sum(
                game.P_g[s, a, t] * move[s if game.local_sees == "current" else t] @ V[t]
                for t in range(S_g)
            )
            Q[s, :, a] = game.r_g[s, a] + mean[s] + game.gamma * ahead
        V = Q.max(axis=2)
    return {(s, *x): float(V[s, i]) for s in range(S_g) for i, x in enumerate(tuples)}


def expected_return(game: Any, policy: Any, n: int, k: int, horizon: int) -> float:
    """Return the exact expected return of memoryless play by enumeration, for small n."""
    S_g, S_l = game.P_g.shape[0], game.P_l.shape[1]
    points = grid(n, S_l)
    P_pi, r_pi = game.marginals(policy.pi_l)
    W = [power_matrix(P_pi[s], n) for s in range(S_g)]
    law_g, law_l = game.initial.resolve(S_g, S_l)
    ways = [math.factorial(n) / math.prod(map(math.factorial, c)) for c in points]
    start = [
        w * math.prod(p**c for p, c in zip(law_l, x, strict=True))
        for w, x in zip(ways, points, strict=True)
    ]
    law = np.outer(law_g, start)
    total, weight = 0.0, 1.0
    for _ in range(horizon):
        after = np.zeros_like(law)
        for s, i in np.ndindex(S_g, len(points)):
            N = points[i]
            flow = np.zeros(S_g)
            for c in grid(k, S_l):
                p = math.prod(math.comb(a, b) for a, b in zip(N, c, strict=True)) / math.comb(n, k)
                if p == 0:
                    continue
                a = policy.decide(s, c)
                total += weight * law[s, i] * p * game.r_g[s, a]
                flow += p * game.P_g[s, a]
            total += weight * float(law[s, i]) * float(np.dot(N, r_pi[s])) / n
            for t in range(S_g):
                mover = s if game.local_sees == "current" else t
                after[t] += law[s, i] * flow[t] * W[mover][i]
        law = after
        weight *= game.gamma
    return total


def simulate_agents(
    game: Any, policy: Any, n: int, k: int, horizon: int, rollouts: int, seed: int
) -> Array:
    """Return the returns of memoryless play with n separate agents, shape (rollouts,)."""
    rng = np.random.default_rng(seed)
    S_g, S_l = game.P_g.shape[0], game.P_l.shape[1]
    A_l = game.P_l.shape[2]
    law_g, law_l = game.initial.resolve(S_g, S_l)
    out = np.zeros(rollouts)
    for r in range(rollouts):
        s = rng.choice(S_g, p=law_g)
        law = law_l if game.initial.alpha is None else rng.dirichlet([game.initial.alpha] * S_l)
        x = rng.choice(S_l, size=n, p=law)
        for t in range(horizon):
            polled = rng.permutation(n)[:k]
            a = policy.decide(s, np.bincount(x[polled], minlength=S_l))
            acts = np.array([rng.choice(A_l, p=policy.pi_l[s, i]) for i in x])
            reward = game.r_g[s, a] + np.mean(game.r_l[s, x, acts])
            out[r] += game.gamma**t * reward
            after = rng.choice(S_g, p=game.P_g[s, a])
            mover = s
            if game.local_sees == "next":
                mover = after
                acts = np.array([rng.choice(A_l, p=policy.pi_l[mover, i]) for i in x])
            x = np.array(
                [rng.choice(S_l, p=game.P_l[mover, i, b]) for i, b in zip(x, acts, strict=True)]
            )
            s = after
    return out
