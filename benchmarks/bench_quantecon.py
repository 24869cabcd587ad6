# SPDX-License-Identifier: MIT
"""Exact `g_learn` against `quantecon.markov.DiscreteDP` on the explicit decision process.

    python benchmarks/bench_quantecon.py [--ks 5,8] [--repeats 5] [--quick] [--json]

`ring-current` under the uniform local policy: five zones, k = 5 (630 states) and k = 8 (2 475).
DiscreteDP gets its kernel for free: only `solve` is timed. Ours is timed from the game's tables on,
factorisations included. DiscreteDP is given all of its methods and both of its formats: dense, and
at k = 5 sparse state-action pairs, which cannot help as no entry of this kernel is zero. `epsilon`
makes it bound the same error as ours, 1e-6 of the value; policy iteration is exact. The values are
compared.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from measuring import Row, interleaved_s, parser, report
from quantecon.markov import DiscreteDP
from scipy import sparse

from kofn.controller.core import Game, SymmetricPower, g_learn, load_game
from kofn.controller.core.grid import all_counts

if TYPE_CHECKING:
    from collections.abc import Callable

METHODS = ("value_iteration", "policy_iteration", "modified_policy_iteration")
RELATIVE_ERROR = 1e-6
#: A solve that takes longer is timed once; nothing is left to compile by then.
SLOW_S = 2.0
#: States up to which the sparse format is tried too.
MOST_SPARSE = 1000


def explicit(game: Game, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards (n, A_g) and kernel (n, A_g, n), with states s_g * M + c."""
    pi_l = game.uniform_local_policy()
    P_pi, r_pi = game.marginals(pi_l)
    counts = all_counts(k, game.n_local)
    M, S_g, A_g = len(counts), game.n_global, game.n_global_actions
    rewards = game.r_g[:, None, :] + (counts @ r_pi.T / k).T[:, :, None]
    kernel = np.empty((S_g, M, A_g, S_g, M))
    for s in range(S_g):
        W = SymmetricPower(P_pi[s], k).apply(np.eye(M))
        # Rounding may leave -1e-18, which is no probability.
        W = np.maximum(W, 0.0)
        W /= W.sum(axis=1, keepdims=True)
        for a in range(A_g):
            kernel[s, :, a] = game.P_g[s, a][None, :, None] * W[:, None, :]
    return rewards.reshape(-1, A_g), kernel.reshape(S_g * M, A_g, S_g * M)


def compare(game: Game, k: int, repeats: int) -> list[Row]:
    """Time both on one k."""
    rewards, kernel = explicit(game, k)
    n, A_g = rewards.shape
    of_states, of_actions = np.repeat(np.arange(n), A_g), np.tile(np.arange(A_g), n)
    processes = {"dense": DiscreteDP(rewards, kernel, game.gamma)}
    if n <= MOST_SPARSE:
        processes["sparse pairs"] = DiscreteDP(
            rewards.ravel(),
            sparse.csr_matrix(kernel.reshape(n * A_g, n)),
            game.gamma,
            of_states,
            of_actions,
        )
    pi_l = game.uniform_local_policy()
    scale = float(np.abs(g_learn(game, pi_l, k).value).max())
    tol = RELATIVE_ERROR * scale
    ours = partial(g_learn, game, pi_l, k, tol=tol)
    value = ours().value.ravel()
    rows: list[Row] = []
    for name, process in processes.items():
        for method in METHODS:
            # The default limit of 250 stops value iteration early; policy iteration may change
            # between equal policies for ever.
            process.max_iter = 20 if method == "policy_iteration" else 100_000
            # DiscreteDP bounds its error by epsilon / 2.
            solved = partial(process.solve, method=method, epsilon=2 * tol)
            began = time.perf_counter()
            gap = float(np.abs(solved().v - value).max())
            seconds = time.perf_counter() - began
            assert gap <= 2.01 * tol, f"{name}, {method}: the values differ by {gap}"
            # In turns: a machine that is slow for a while is slow for both.
            pair: dict[str, Callable[[], object]] = {"kofn": ours}
            if seconds < SLOW_S:
                pair["quantecon"] = solved
            times = interleaved_s(pair, max(repeats, 10))
            theirs = times.get("quantecon", [seconds] * len(times["kofn"]))
            ratios = [a / b for a, b in zip(theirs, times["kofn"], strict=True)]
            rows.append(
                {
                    "k": k,
                    "states": n,
                    "format": name,
                    "method": method,
                    "quantecon_s": statistics.median(theirs),
                    "kofn_s": statistics.median(times["kofn"]),
                    "times_faster": statistics.median(ratios),
                    "value_gap": gap,
                }
            )
    return rows


def main() -> None:
    """Print one row per format and method, and the fastest of them."""
    options = parser(__doc__)
    options.add_argument("--ks", default="5,8")
    chosen = options.parse_args()
    game = load_game("ring-current")
    for k in [5] if chosen.quick else map(int, chosen.ks.split(",")):
        rows = compare(game, k, 1 if chosen.quick else chosen.repeats)
        report(f"g_learn against quantecon.DiscreteDP, k={k}", rows, as_json=chosen.json)
        best = min(rows, key=lambda row: float(row["quantecon_s"] or 0))
        if not chosen.json:
            print(
                f"fastest of quantecon: {best['format']}, {best['method']}; "
                f"kofn is {best['times_faster']:.3g} times faster\n"
            )


if __name__ == "__main__":
    main()
