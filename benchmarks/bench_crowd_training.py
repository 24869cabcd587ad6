# SPDX-License-Identifier: MIT
"""What learning by crowd is worth: policies of the binned and the plain kernel, played by crowd.

    python benchmarks/bench_crowd_training.py [--kernel KERNEL] [--k 5] [--seeds 3] [--polish 1]

Without --kernel one is identified first (`kofn identify crowded30 --seed 1000`, a minute) and kept
in --folder; the rest takes five minutes. Each seed learns a policy from the plain kernel, one from
the binned kernel, and one from the binned kernel with `--polish` passes; all are played by n robots
that move by crowd, in the same episodes (common random numbers). `ahead` is the mean return above
that of the plain kernel's policy of the same seed, `error` its standard error over episodes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measuring import Row, parser, report

from kofn.launch.models import crowd_game
from kofn.launch.training import Learning, train, train_crowd
from kofn.sim.density import density_rollout
from kofn.sim.kernel import Kernel

#: Of the episodes that judge; learning never sees it.
FRESH_SEED = 987_654


def main() -> None:
    """Learn in three ways, play all by crowd, and print the table."""
    options = parser(__doc__)
    options.add_argument("--kernel", type=Path, default=None)
    options.add_argument("--k", type=int, default=5)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--polish", type=int, default=1)
    options.add_argument("--episodes", type=int, default=40_000)
    options.add_argument("--folder", type=Path, default=Path("runs/bench_crowd_training"))
    chosen = options.parse_args()
    kernel = Kernel.load(chosen.kernel or _identified(chosen.folder, quick=chosen.quick))
    episodes, seeds = (2000, 1) if chosen.quick else (chosen.episodes, chosen.seeds)
    how = {"grid": 5, "restarts": 1, "rounds": 1} if chosen.quick else {}
    n, density = kernel.info.n, crowd_game(kernel)
    rows: list[Row] = []
    for seed in range(seeds):
        plain_returns = None
        for name, polish in (("plain", 0), ("binned", 0), ("binned, polished", chosen.polish)):
            began = time.perf_counter()
            learning = Learning(polish=polish, **how)  # type: ignore[arg-type]
            if name == "plain":
                policy = train(kernel.game(), k=chosen.k, n=n, learning=learning, seed=seed).policy
            else:
                policy = train_crowd(
                    kernel, k=chosen.k, n=n, learning=learning, starts={}, seed=seed
                ).policy
            seconds = time.perf_counter() - began
            returns = density_rollout(
                density, policy, n=n, k=chosen.k, rollouts=episodes, seed=FRESH_SEED
            ).returns
            plain_returns = returns if plain_returns is None else plain_returns
            ahead = returns - plain_returns
            rows.append(
                {
                    "seed": seed,
                    "kernel": name,
                    "polish": polish,
                    "return": float(returns.mean()),
                    "ahead": float(ahead.mean()),
                    "error": float(ahead.std() / np.sqrt(episodes)),
                    "learning_s": seconds,
                }
            )
    title = f"policies for {n} robots, {chosen.k} polled, played by crowd ({episodes} episodes)"
    report(title, rows, as_json=chosen.json)


def _identified(folder: Path, *, quick: bool) -> Path:
    """Identify the kernel of thirty robots, unless it is there."""
    path = folder / ("quick.npz" if quick else "kernel.npz")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "kofn.launch", "identify", "crowded30", "--seed", "1000"),
            *("--option-steps", "5" if quick else "100", "--out", str(path), "--json"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


if __name__ == "__main__":
    main()
