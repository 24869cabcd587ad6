# SPDX-License-Identifier: MIT
"""The paper's ring benchmark as its released code plays it: our returns beside the published ones.

    python benchmarks/bench_ring.py [--ks 1,5,10,20,50] [--rollouts 20000] [--json]

n = 1 000 agents, horizon 50. Each k is one policy, learned from the game alone and then played on
episodes that training has not seen, without memory and with the belief. The published returns are
read from the paper's figure, to about 0.3.
"""

import argparse
import json
import time

from kofn.controller.core import alternating_marl, load_game, rollout

PUBLISHED = {1: 83.3, 5: 85.9, 10: 87.8, 20: 90.2, 30: 91.3, 50: 93.1}
N, HORIZON, SEED_OF_EPISODES = 1000, 50, 1_000_003


def row(k: int, rollouts: int) -> dict[str, float | int | None]:
    """Learn for polls of k and play."""
    game = load_game("ring-released")
    started = time.perf_counter()
    policy = alternating_marl(game, k, N).policy
    seconds = time.perf_counter() - started
    result: dict[str, float | int | None] = {"k": k, "published": PUBLISHED.get(k)}
    for name, memory in (("memoryless", "none"), ("belief", "auto")):
        played = rollout(
            game,
            policy,
            n=N,
            k=k,
            horizon=HORIZON,
            rollouts=rollouts,
            seed=SEED_OF_EPISODES,
            memory=memory,
        )
        result[name] = round(played.mean, 2)
        result[f"{name}_stderr"] = round(played.stderr, 3)
    return {**result, "grid": policy.grid, "train_s": round(seconds, 1)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ks", default="1,5,10,20,50")
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row(int(k), arguments.rollouts) for k in arguments.ks.split(",")]
    if arguments.json:
        print(json.dumps(rows))
        return
    print("| k | published | memoryless | with belief | standard error | training, s |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        error = max(r["memoryless_stderr"] or 0, r["belief_stderr"] or 0)
        published = r["published"] or "-"
        print(
            f"| {r['k']} | {published} | {r['memoryless']} | {r['belief']} | {error:.2f} "
            f"| {r['train_s']} |"
        )


if __name__ == "__main__":
    main()
