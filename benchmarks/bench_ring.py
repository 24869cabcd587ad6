# SPDX-License-Identifier: MIT
"""The paper's ring benchmark: our returns beside the published ones.

    python benchmarks/bench_ring.py [--game ring-released,ring-paper,ring-current]
        [--ks 1,5,10,20,50] [--rollouts 20000] [--polish 0] [--json]

n = 1 000 agents and the horizon of each game. Each k is one policy, learned from the game alone and
then played on episodes that training has not seen, without memory and with the belief. The
published returns are for ring-released, read from the paper's figure to about 0.3. Training times
are those of this run, with whatever else the machine was doing.
"""

import argparse
import json
import os
import platform
import time

from kofn.controller.core import alternating_marl, load_game, rollout
from kofn.launch.sweep_results import PUBLISHED

GAMES = "ring-released,ring-paper,ring-current"
N, SEED_OF_EPISODES = 1000, 1_000_003


def row(name: str, k: int, rollouts: int, polish: int) -> dict[str, object]:
    """Learn for polls of k and play."""
    game = load_game(name)
    started = time.perf_counter()
    policy = alternating_marl(game, k, N, polish=polish).policy
    seconds = time.perf_counter() - started
    published = PUBLISHED.get(k) if name == "ring-released" else None
    result: dict[str, object] = {"game": name, "k": k, "published": published}
    for way, memory in (("memoryless", "none"), ("belief", "auto")):
        played = rollout(
            game, policy, n=N, k=k, rollouts=rollouts, seed=SEED_OF_EPISODES, memory=memory
        )
        result[way] = round(played.mean, 2)
        result[f"{way}_stderr"] = round(played.stderr, 3)
        result[f"{way}_mode_accuracy"] = round(played.mode_accuracy, 3)
    return {
        **result,
        "grid": policy.grid,
        "memory": policy.memory,
        "two_pairs": policy.bare is not None,
        "train_s": round(seconds, 1),
    }


def main() -> None:
    """Print a table for each game."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default=GAMES)
    parser.add_argument("--ks", default="1,5,10,20,50")
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--polish", type=int, default=0, help="passes of coordinate search")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    everything: list[dict[str, object]] = []
    if not given.json:
        print(f"n = {N}, {given.rollouts} rollouts, polish {given.polish}; {machine}")
    for name in given.game.split(","):
        if not given.json:
            print(f"\n{name}, horizon {load_game(name).horizon}\n")
            print("| k | published | memoryless | with belief | standard error | training, s |")
            print("|---|---|---|---|---|---|")
        for k in given.ks.split(","):
            r = row(name, int(k), given.rollouts, given.polish)
            everything.append(r)
            if not given.json:
                error = max(float(str(r[f"{w}_stderr"])) for w in ("memoryless", "belief"))
                print(
                    f"| {r['k']} | {r['published'] or '-'} | {r['memoryless']} | {r['belief']} "
                    f"| {error:.2f} | {r['train_s']} |",
                    flush=True,
                )
    if given.json:
        print(json.dumps({"machine": machine, "n": N, "rows": everything}))


if __name__ == "__main__":
    main()
