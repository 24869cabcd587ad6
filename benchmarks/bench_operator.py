# SPDX-License-Identifier: MIT
"""Speed and accuracy of the exact operator, of a Bellman sweep and of a full solve.

    python benchmarks/bench_operator.py [--repeats 5] [--quick] [--json]

Five zones, k = 50: 1.58 million states. The operator stands beside the product with its explicit
matrix (k = 10: the largest that is sensible), the sweep beside its limit of 0.35 s, and the solve
to a relative error bound of 1e-4 (of the smallest value) beside 10 s and 1 GB. The uniform local
policy, and that of agents that walk towards the target. Each solve runs in a process of its own,
for its memory; its compilation is not timed, the making of its operators is.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial

import numpy as np
from measuring import Row, median_s, parser, report

from kofn.controller.core import Game, SymmetricPower, g_learn, load_game
from kofn.controller.core.global_learner import Surrogate

PRESETS = ("ring-current", "ring-paper", "ring-released")
LOCAL_POLICIES = ("uniform", "towards")
SWEEP_LIMIT_S, SOLVE_LIMIT_S, SOLVE_LIMIT_MB = 0.35, 10.0, 1000
RELATIVE_BOUND = 1e-4


def local_policy(game: Game, name: str) -> np.ndarray:
    """Return the uniform policy, or that of walking the shorter way round to the target."""
    if name == "uniform":
        return game.uniform_local_policy()
    away = (np.arange(game.n_global)[:, None] - np.arange(game.n_local)) % game.n_local
    return np.eye(3)[np.where(away == 0, 0, np.where(away <= game.n_local // 2, 1, 2))]


def operators(repeats: int) -> list[Row]:
    """Time the operator on five functions, beside its explicit matrix where there is one."""
    game = load_game("ring-current")
    P = game.marginals(game.uniform_local_policy())[0][0]
    rows: list[Row] = []
    for k in (10, 20, 50):
        operator = SymmetricPower(P, k)
        values = np.random.default_rng(0).random((operator.n_points, 5))
        seconds = median_s(partial(operator.apply, values), repeats)
        matrix_s = None
        if k == 10:
            matrix = operator.apply(np.eye(operator.n_points))
            matrix_s = median_s(partial(np.matmul, matrix, values), repeats)
        rows.append(
            {
                "k": k,
                "points": operator.n_points,
                "seconds": seconds,
                "matrix_s": matrix_s,
                "matrix_ratio": matrix_s / seconds if matrix_s else None,
                "check_error": operator.check_error,
            }
        )
    return rows


def sweeps(ks: tuple[int, ...], repeats: int) -> list[Row]:
    """Time one Bellman sweep over all states."""
    rows: list[Row] = []
    for preset in PRESETS:
        game = load_game(preset)
        for k in ks:
            surrogate = Surrogate(game, game.uniform_local_policy(), k)
            values = np.random.default_rng(0).random((surrogate.n_points, game.n_global))
            seconds = median_s(partial(surrogate.sweep, values), repeats)
            rows.append(
                {
                    "preset": preset,
                    "k": k,
                    "states": values.size,
                    "seconds": seconds,
                    "of_limit": seconds / SWEEP_LIMIT_S if k == 50 else None,
                }
            )
    return rows


def solve(preset: str, policy: str, k: int) -> Row:
    """Solve once to the relative bound; seconds, sweeps and peak memory of this process."""
    game = load_game(preset)
    pi_l = local_policy(game, policy)
    # Compile, and learn how large values are.
    scale = float(np.abs(g_learn(game, pi_l, min(8, k)).value).min())
    began = time.perf_counter()
    solution = g_learn(game, pi_l, k, tol=0.95 * RELATIVE_BOUND * scale)
    seconds = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "preset": preset,
        "pi_l": policy,
        "k": k,
        "seconds": seconds,
        "of_limit": seconds / SOLVE_LIMIT_S,
        "sweeps": solution.sweeps,
        "relative_bound": solution.error_bound / float(np.abs(solution.value).min()),
        "peak_mb": peak_mb,
        "of_1_gb": peak_mb / SOLVE_LIMIT_MB,
    }


def main() -> None:
    """Run all measurements and print them."""
    options = parser(__doc__)
    options.add_argument("--solve", nargs=3, metavar=("PRESET", "PI_L", "K"), help="only this")
    chosen = options.parse_args()
    if chosen.solve:
        print(json.dumps(solve(chosen.solve[0], chosen.solve[1], int(chosen.solve[2]))))
        return
    repeats = 2 if chosen.quick else chosen.repeats
    report("exact operator, 5 functions", operators(repeats), as_json=chosen.json)
    ks = (10, 20) if chosen.quick else (20, 50)
    report("one exact sweep (limit 0.35 s at k=50)", sweeps(ks, repeats), as_json=chosen.json)
    rows: list[Row] = []
    for preset in PRESETS:
        for policy in LOCAL_POLICIES:
            command = [sys.executable, __file__, "--solve", preset, policy, str(max(ks))]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    report("g_learn to a relative bound of 1e-4 (limits 10 s, 1 GB)", rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
