# SPDX-License-Identifier: MIT
"""What each part of the learner is worth: the ring learned with and without it.

    python benchmarks/bench_ablation.py [--game ring-current] [--ks 1,10] [--rollouts 4000]
        [--no-polish] [--json]

n = 1 000 agents. Every row learns anew and plays fresh episodes, the same ones for all rows; the
difference to the first row is paired, with its 95 % margin.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core import Game, Policy, alternating_marl, load_game, polish, rollout

N, SEED_OF_EPISODES = 1000, 2_000_003


class Row(NamedTuple):
    """One way to learn, and the memories to play with."""

    name: str
    learn: Callable[[Game, int], Policy]
    memories: tuple[str, ...] = ("none", "auto")


def _only_uniform(game: Game, k: int) -> Policy:
    start = {"only uniform": game.uniform_local_policy()}
    return alternating_marl(game, k, N, starts=start, restarts=0).policy


def rows(polishing: bool) -> list[Row]:
    """Return the ways to learn, the default first."""
    default: dict[tuple[str, int], Policy] = {}

    def full(game: Game, k: int) -> Policy:
        key = (game.name, k)
        if key not in default:
            default[key] = alternating_marl(game, k, N).policy
        return default[key]

    def on_grid(size: int) -> Callable[[Game, int], Policy]:
        return lambda game, k: alternating_marl(game, k, N, grid=size).policy

    def raw(game: Game, k: int) -> Policy:
        p = full(game, k)
        return Policy(game, p.grid, p.action, p.pi_l)

    result = [
        Row("default: team, all starts, finest grid, tuned", full),
        Row("start: uniform only", _only_uniform),
        Row("start: hold only", lambda g, k: alternating_marl(g, k, N, restarts=1).policy),
        Row("selfish L-LEARN", lambda g, k: alternating_marl(g, k, N, objective="selfish").policy),
        Row("grid 5", on_grid(5)),
        Row("grid 10", on_grid(10)),
        Row("one pair, no prior", raw, ("none",)),
        Row("memory 5 beyond the poll", full, ("+5",)),
        Row("memory 20 beyond the poll", full, ("+20",)),
        Row("memory 1280 beyond the poll", full, ("+1280",)),
    ]
    if polishing:
        result.append(
            Row("polish, 1 pass", lambda g, k: polish(g, full(g, k), n=N, k=k, passes=1).policy)
        )
    return result


def play(game: Game, policy: Policy, k: int, memory: str, rollouts: int) -> npt.NDArray[np.float64]:
    """Return the returns of fresh episodes; memory "+m" is m agents beyond the poll."""
    cap = k + float(memory[1:]) if memory.startswith("+") else memory
    played = rollout(game, policy, n=N, k=k, rollouts=rollouts, seed=SEED_OF_EPISODES, memory=cap)
    return played.returns


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="ring-current")
    parser.add_argument("--ks", default="1,10")
    parser.add_argument("--rollouts", type=int, default=4000)
    parser.add_argument("--no-polish", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    game = load_game(given.game)
    found: list[dict[str, object]] = []
    if not given.json:
        print(f"{game.name}, n = {N}, {given.rollouts} rollouts; differences to the default\n")
        print("| k | row | without memory | with belief | learning, s |")
        print("|---|---|---|---|---|")
    for k in (int(k) for k in given.ks.split(",")):
        base: dict[str, npt.NDArray[np.float64]] = {}
        for row in rows(not given.no_polish):
            began = time.perf_counter()
            policy = row.learn(game, k)
            seconds = round(time.perf_counter() - began, 1)
            entry: dict[str, object] = {"k": k, "row": row.name, "learn_s": seconds}
            cells = {"none": "-", "auto": "-"}
            for memory in row.memories:
                way = "none" if memory == "none" else "auto"
                got = play(game, policy, k, memory, given.rollouts)
                gap = got - base.setdefault(way, got)
                margin = 1.96 * float(gap.std(ddof=1)) / math.sqrt(gap.size)
                entry[way] = round(float(got.mean()), 2)
                entry[f"{way}_gain"] = round(float(gap.mean()), 3)
                entry[f"{way}_margin"] = round(margin, 3)
                cells[way] = f"{got.mean():.2f} ({gap.mean():+.2f} +- {margin:.2f})"
            found.append(entry)
            if not given.json:
                print(
                    f"| {k} | {row.name} | {cells['none']} | {cells['auto']} | {seconds} |",
                    flush=True,
                )
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
