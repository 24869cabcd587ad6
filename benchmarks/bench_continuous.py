# SPDX-License-Identifier: MIT
"""The continuous benchmark: 500 agents on a line, k of them seen per step, learned from binning.

    python benchmarks/bench_continuous.py [--ks 1,10,35,75] [--episodes 300] [--quick] [--json]

The simulator is `kofn.controller.core.tracking`. Each k is one policy, learned from the simulator
alone and then played in it, on episodes that training has not seen. `table` is the same local
policy with a histogram table of two agents and its belief instead of the plans.

Two rules written by hand, played on as many episodes, say what the returns mean: one is told where
the majority starts, the other looks at a single agent once; both send the target there for good,
and their agents approach the target until they are as near as one move. The published returns are
those of neural TRPO.
"""

import argparse
import json
import time

import numpy as np
import numpy.typing as npt

from kofn.controller.core.continuous import TableDispatcher, learn_continuous, play_continuous
from kofn.controller.core.global_learner import g_learn
from kofn.controller.core.policy import Policy
from kofn.controller.core.tracking import GAMMA, HORIZON, PLACES, N, Tracking, binned

PUBLISHED = {1: 127.8, 10: 135.5, 35: 145.4, 75: 152.0}
SEED_OF_EPISODES = 1_000_003
#: Global bins, local bins and targets.
SIZES, QUICK_SIZES = (40, 40, 41), (20, 20, 21)
TABLE_GRID, TABLE_MEMORY = 2, 1000.0


def by_hand(rule: str, episodes: int) -> npt.NDArray[np.float64]:
    """Play one of the two rules; return the discounted returns."""
    world = Tracking()
    rng = np.random.default_rng(SEED_OF_EPISODES)
    s_g, s_l = world.reset(rng, episodes, N)
    nearest = np.abs(s_l[:, :, None] - PLACES).argmin(axis=2)
    if rule == "majority":
        crowd = (nearest[:, :, None] == np.arange(len(PLACES))).sum(axis=1).argmax(axis=1)
        target = PLACES[crowd]
    else:
        target = PLACES[nearest[:, 0]]
    returns = np.zeros(episodes)
    for t in range(HORIZON):
        gap = s_g[:, None] - s_l
        a_l = np.where(np.abs(gap) <= 0.05, 0, np.where(gap > 0, 1, 2))
        s_g, s_l, r_g, r_l = world.step(rng, s_g, s_l, target, a_l)
        returns += GAMMA**t * (r_g + r_l.mean(axis=1))
    return returns


def row(k: int, episodes: int, quick: bool) -> dict[str, float | int | None]:
    """Learn for polls of k and play."""
    started = time.perf_counter()
    model = binned(*(QUICK_SIZES if quick else SIZES))
    solution = learn_continuous(model, k=k, rounds=1 if quick else 3)
    seconds = time.perf_counter() - started
    played = play_continuous(
        model, solution.dispatcher, k=k, episodes=episodes, seed=SEED_OF_EPISODES
    )
    pi_l = solution.dispatcher.pi_l
    action = g_learn(model.game, pi_l, TABLE_GRID, tol=1e-2).action
    policy = Policy(model.game, TABLE_GRID, action, pi_l, memory=TABLE_MEMORY)
    table = play_continuous(
        model, TableDispatcher(policy, k), k=k, episodes=episodes, seed=SEED_OF_EPISODES
    )
    return {
        "k": k,
        "published": PUBLISHED.get(k),
        "learned": round(played.mean, 2),
        "learned_stderr": round(played.stderr, 2),
        "table": round(table.mean, 2),
        "table_stderr": round(table.stderr, 2),
        "train_s": round(seconds, 1),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ks", default="1,10,35,75")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="coarser bins, one round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    references = {}
    for name in ("majority", "single look"):
        returns = by_hand(name, arguments.episodes)
        error = float(returns.std(ddof=1) / np.sqrt(returns.size))
        references[name] = {"mean": round(float(returns.mean()), 2), "stderr": round(error, 2)}
    rows = [row(int(k), arguments.episodes, arguments.quick) for k in arguments.ks.split(",")]
    if arguments.json:
        print(json.dumps({"references": references, "rows": rows}))
        return
    for name, r in references.items():
        print(f"rule by hand, {name}: {r['mean']} +- {r['stderr']}")
    print("\n| k | published | learned | standard error | table K = 2 | training, s |")
    print("|---|---|---|---|---|---|")
    for line in rows:
        print(
            f"| {line['k']} | {line['published'] or '-'} | {line['learned']} "
            f"| {line['learned_stderr']} | {line['table']} | {line['train_s']} |"
        )


if __name__ == "__main__":
    main()
