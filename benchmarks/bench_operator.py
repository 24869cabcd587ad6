# SPDX-License-Identifier: MIT
"""Speed of the exact operator, of one Bellman sweep, of a full solve and of rollouts.

    python benchmarks/bench_operator.py [--repeats 5] [--json]

Five zones, `ring-current` under the uniform local policy. Every line is the median and the largest
of the repeats after one warm-up; the machine is named with them. The operator's accuracy at the
same size is printed beside its speed, so that neither is bought with the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core import Policy, SymmetricPower, g_learn, load_game, rollout
from kofn.controller.core._jit import thread_count
from kofn.controller.core.global_learner import Surrogate

if TYPE_CHECKING:
    from collections.abc import Callable

Row = dict[str, float | str]


def measure(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median and the largest wall time in seconds, after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times), max(times)


def main() -> None:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    game = load_game("ring-current")
    pi = game.uniform_local_policy()
    P = game.marginals(pi)[0][0]
    rows: list[Row] = []

    def add(name: str, function: Callable[[], object], **extra: float) -> None:
        median, worst = measure(function, options.repeats)
        rows.append({"name": name, "median_s": median, "max_s": worst, **extra})
        if not options.json:
            more = "  ".join(f"{key}={value:.3g}" for key, value in extra.items())
            print(f"{name:34s} median {median:9.5f} s   max {worst:9.5f} s   {more}")

    if not options.json:
        print(f"{platform.processor() or platform.machine()}, {thread_count()} threads")
    for k in (10, 20, 50):
        operator = SymmetricPower(P, k)
        values = np.random.default_rng(0).random((operator.n_points, 5))
        add(
            f"operator, k={k}, 5 functions",
            partial(operator.apply, values),
            points=operator.n_points,
            check_error=operator.check_error,
        )
    for name in ("ring-current", "ring-released"):
        for k in (20, 50):
            surrogate = Surrogate(load_game(name), pi, k)
            values = np.zeros((surrogate.n_points, 5))
            add(
                f"sweep, {name}, k={k}",
                partial(surrogate.sweep, values),
                states=5 * surrogate.n_points,
            )
    for k in (10, 20):
        add(f"g_learn, k={k}, tol 1e-4", partial(g_learn, game, pi, k, tol=1e-4))
    policy = Policy(game, 10, g_learn(game, pi, 10).action, np.eye(3)[np.zeros((5, 5), int)])
    for n in (1000, 10**9):
        add(
            f"2000 rollouts, n={n:.0e}, k=10",
            partial(rollout, game, policy, n=n, k=10, rollouts=2000),
        )
    if options.json:
        print(json.dumps({"machine": platform.machine(), "threads": thread_count(), "rows": rows}))


if __name__ == "__main__":
    main()
