# SPDX-License-Identifier: MIT
"""How much the time given to a certificate tightens it: bounds by K, gaps by budget.

    python benchmarks/bench_certificate.py [--budgets 30,120,600] [--quick] [--policy FILE] [--json]

`ring-current` with n = 1 000 agents and horizon 50. A policy is learned for polls of k (or read
from a file) and certified with each budget in turn, from nothing each time. Of all policies, even
those that see every agent, none earns more than the bound, so the gap is what is left to be won or
proved away. Exits with 1 unless the bounds fall with K and a longer budget gives a smaller gap.
"""

import argparse
import itertools
import json
import sys
import time

from kofn.controller.core import Policy, alternating_marl, certify, load_game
from kofn.controller.core.certificates import Certificate

N, HORIZON = 1000, 50

#: Bounds of one optimum carry their own rounding errors, far below this.
ROUNDING = 1e-6


def falls(certificate: Certificate) -> bool:
    """Whether no bound lies above the one of the next smaller K of its kind."""
    return all(
        b.upper <= a.upper + ROUNDING
        for a, b in itertools.pairwise(certificate.bounds)
        if a.kind == b.kind
    )


def table(certificate: Certificate) -> list[str]:
    """Return the bounds as a markdown table, a line per K."""
    kinds: dict[int, dict[str, float]] = {}
    for bound in certificate.bounds:
        kinds.setdefault(bound.K, {})[bound.kind] = bound.upper
    lines = ["| K | any dispatcher | any policy | welfare gap |", "|---|---|---|---|"]
    for K, upper in sorted(kinds.items()):
        cells = [f"{upper[kind]:.3f}" if kind in upper else "" for kind in ("global", "team")]
        gap = (upper["team"] / certificate.value - 1) if "team" in upper else None
        cells.append("" if gap is None else f"{100 * gap:.2f} %")
        lines.append(f"| {K} | {' | '.join(cells)} |")
    return lines


def summary(certificates: dict[float, Certificate]) -> list[str]:
    """Return one line per budget as a markdown table."""
    lines = [
        "| budget, s | spent, s | largest K | deployed return | any policy | welfare gap |",
        "|---|---|---|---|---|---|",
    ]
    for budget, c in certificates.items():
        low, high = c.value_ci
        lines.append(
            f"| {budget:g} | {c.seconds:.0f} | {c.grid['team']} "
            f"| {c.value:.2f} ± {(high - low) / 2:.2f} | {c.upper_team:.3f} "
            f"| {100 * c.welfare_gap_relative:.2f} % |"
        )
    return lines


def shrinks(certificates: dict[float, Certificate]) -> bool:
    """Whether each longer budget left a smaller gap, or one as small where it reached no larger K.

    From a second of play on (a budget of 10 s) the value is that of the same 20 000 episodes.
    """
    ordered = [certificates[budget] for budget in sorted(certificates)]
    return all(
        b.welfare_gap_relative < a.welfare_gap_relative
        or (b.grid["team"] == a.grid["team"] and b.upper_team <= a.upper_team + ROUNDING)
        for a, b in itertools.pairwise(ordered)
    )


def main() -> None:
    """Certify with each budget and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", help="seconds; default 30,120,600, quick: 2,10")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--policy", help="a file of kofn train; default: one is learned")
    parser.add_argument("--quick", action="store_true", help="a short learning and small budgets")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    budgets = [
        float(part)
        for part in (options.budgets or ("2,10" if options.quick else "30,120,600")).split(",")
    ]
    game = load_game("ring-current")
    began = time.perf_counter()
    if options.policy:
        policy = Policy.load(options.policy)
        policy.check_game(game)
    elif options.quick:
        policy = alternating_marl(game, options.k, N, grid=10, restarts=1, rounds=1).policy
    else:
        policy = alternating_marl(game, options.k, N).policy
    learned_s = time.perf_counter() - began
    certificates: dict[float, Certificate] = {}
    for budget in budgets:
        certificates[budget] = certify(
            game, policy, n=N, k=options.k, horizon=HORIZON, budget_s=budget
        )
        if not options.json:
            print(f"budget {budget:g} s:\n")
            print("\n".join(table(certificates[budget])) + "\n", flush=True)
    good = shrinks(certificates) and all(falls(c) for c in certificates.values())
    if options.json:
        rows = [{"budget_s": b, **c.to_dict()} for b, c in certificates.items()]
        print(json.dumps({"learned_s": learned_s, "good": good, "rows": rows}))
    else:
        print("\n".join(summary(certificates)))
    if not good:
        sys.exit("a bound rose with K, or a longer budget left no smaller gap")


if __name__ == "__main__":
    main()
