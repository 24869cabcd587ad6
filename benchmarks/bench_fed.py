# SPDX-License-Identifier: MIT
"""Time that a selector adds to a round: poll list, statuses, choice, log.

    python benchmarks/bench_fed.py [--quick] [--json] [--repeats 5]

10 000 registered clients of which about 7 500 are online, k = 100 polled, m = 50 trained. The
learned rule plays with a policy that is in force (its refit is not part of a round: it runs beside
the rounds). The limit is 5 ms for the mean-field rule; random choice is the peer.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from measuring import Row, parser, report

from kofn.fed.selectors import Outcome, PollRequest, Selector, Status, make_selector
from kofn.fed.selectors.learned import LearnedSelector

N, K, M = 10_000, 100, 50
LIMIT_MS = 5.0


def replies(request: PollRequest, rng: np.random.Generator) -> list[Status]:
    """Return statuses of three quarters of those that were polled."""
    asked = [name for name in request.clients if rng.random() < 0.75]
    return [
        Status(name=name, bin=int(rng.integers(4)), loss=float(rng.random()), samples=40)
        for name in asked
    ]


def outcomes(chosen: tuple[str, ...], rng: np.random.Generator) -> list[Outcome]:
    """Return what the server saw of the chosen ones."""
    return [
        Outcome(
            name=name,
            duration_s=float(rng.lognormal()),
            loss=float(rng.random()),
            samples=40,
            arrived=i % 5 != 4,
            loss_rms=1.0,
            accuracy=0.5,
            bin=0,
        )
        for i, name in enumerate(chosen)
    ]


def rounds(selector: Selector, names: list[str], count: int, first: int) -> list[float]:
    """Play rounds and return the seconds that each spent in the selector."""
    spent = []
    for server_round in range(first, first + count):
        rng = np.random.default_rng(server_round)
        online = [name for name, here in zip(names, rng.random(N) < 0.75, strict=True) if here]
        began = time.perf_counter()
        request = selector.wants(server_round, online, rng)
        took = time.perf_counter() - began
        told = replies(request, rng)
        began = time.perf_counter()
        selector.observe(server_round, told)
        selection = selector.select(server_round, online, M, rng)
        took += time.perf_counter() - began
        seen = outcomes(selection.clients, rng)
        began = time.perf_counter()
        selector.update(server_round, seen)
        spent.append(took + time.perf_counter() - began)
    return spent


def main() -> None:
    """Print one row per rule."""
    options = parser(__doc__).parse_args()
    names = [f"client-{i:05d}" for i in range(N)]
    count = 20 if options.quick else 40 * options.repeats
    rows: list[Row] = []
    random_ms = 1.0
    for name in ("random", "power-of-choice", "oort", "fixed-call", "myopic", "mean-field"):
        settings = (
            {"warm_up": 5, "refit_every": 10**6, "refit": "blocking"}
            if name in {"myopic", "mean-field"}
            else {}
        )
        selector = make_selector(name, k=K, **settings)
        selector.register(names)
        rounds(selector, names, 8, 1)
        if isinstance(selector, LearnedSelector):
            assert selector.fits == 1
        spent = rounds(selector, names, count, 9)
        ms = 1000 * statistics.median(spent)
        if name == "random":
            random_ms = ms
        rows.append(
            {
                "selector": name,
                "ms_a_round": ms,
                "p99_ms": 1000 * float(np.percentile(spent, 99)),
                "added_ms": ms - random_ms,
                "of_limit": ms / LIMIT_MS,
                "times_random": ms / random_ms,
            }
        )
        selector.close()
    title = f"selector time in a round, n={N}, k={K}, m={M} (limit {LIMIT_MS:g} ms)"
    report(title, rows, as_json=options.json)


if __name__ == "__main__":
    main()
