# SPDX-License-Identifier: MIT
"""What `kofn identify crowded30` costs and how far its rows are from one long run, over seeds.

    python benchmarks/bench_identify.py [--seeds 7] [--long 2000] [--option-steps 100] [--arenas 3]
    python benchmarks/bench_identify.py --resample 200

Each line is the command, run with its default of three arenas (each of 30 robots makes the option
steps) by two processes. `l1` is the L1 distance of a row of the plain kernel from that of the long
run: +1 and -1 are the moves along the ring. The long run (`--long` options of one arena, seed 1000)
takes five to ten minutes and is kept in --folder; so are the kernels of seeds, whose time is then
that of the run that made them. `--quick` does little of all in a folder of its own.

With --resample that many replicas of the long run (25 options, some 7 CPU seconds each, kept) stand
for all seeds: 400 times some of them, as many as 1 to 4 arenas of 100 options have, are drawn and
compared with all others. `weighted` is what identify does, `counted` is without the weights that
take the luck of the draw out (`kofn.sim.luck`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from measuring import Row, parser, report

from kofn.controller.core.presets import load_game
from kofn.sim.identify import tally
from kofn.sim.kernel import Kernel, KernelInfo, default_bins, l1_rows
from kofn.sim.luck import weights
from kofn.sim.recording import REPLICA_STEPS, Play, Recording, WorldConfig, record, spread

LONG_SEED = 1000
L1_LIMIT, WALL_LIMIT_S = 0.04, 60.0
KEPT = ("zones", "actions", "targets", "decisions", "places")
"""What is kept of a replica."""


def main() -> None:
    """Identify over and over, and print how far each kernel is from the long run's."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=7)
    options.add_argument("--long", type=int, default=2000, help="option steps of the long run")
    options.add_argument("--option-steps", type=int, default=100)
    options.add_argument("--arenas", type=int, default=3)
    options.add_argument("--resample", type=int, default=0, help="replicas to draw from instead")
    options.add_argument("--folder", type=Path, default=Path("runs/bench_identify"))
    chosen = options.parse_args()
    folder: Path = chosen.folder
    if chosen.quick:
        folder = folder / "quick"
        chosen.seeds, chosen.long, chosen.option_steps = 2, 10, 5
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.resample:
        count, draws = (8, 5) if chosen.quick else (chosen.resample, 400)
        rows = _resampled(_replicas(folder, count), draws)
        title = f"identify crowded30: draws from {count} replicas against the others"
        report(title, rows, as_json=chosen.json)
        return
    long_run, _ = _kernel(folder, LONG_SEED, chosen.long, arenas=1)
    rows = []
    for seed in range(chosen.seeds):
        kernel, wall_s = _kernel(folder, seed, chosen.option_steps, chosen.arenas)
        stay, plus, minus = l1_rows(kernel.plain, long_run.plain)[0, 0].tolist()
        worst = max(stay, plus, minus)
        rows.append(
            {
                "seed": seed,
                "moves": int(kernel.counts.sum()),
                "wall_s": wall_s,
                "l1_stay": stay,
                "l1_plus": plus,
                "l1_minus": minus,
                "l1_max": worst,
                "passes": "yes" if worst <= L1_LIMIT and wall_s <= WALL_LIMIT_S else "no",
            }
        )
    title = (
        f"identify crowded30: {chosen.option_steps} options in each of {chosen.arenas} arenas, "
        f"2 processes, against {int(long_run.counts.sum())} moves; l1_max <= {L1_LIMIT}: "
        f"{np.mean([float(str(row['l1_max'])) <= L1_LIMIT for row in rows]):.0%}"
    )
    report(title, rows, as_json=chosen.json)


def _kernel(folder: Path, seed: int, option_steps: int, arenas: int) -> tuple[Kernel, float]:
    """Return a kernel and the wall time of its command, s; from the folder if it is there."""
    path = folder / f"seed{seed}-{option_steps}x{arenas}.npz"
    if not path.exists():
        command = [
            *(sys.executable, "-m", "kofn.launch", "identify", "crowded30", "--workers", "2"),
            *("--option-steps", str(option_steps), "--arenas", str(arenas)),
            *("--seed", str(seed), "--out", str(path), "--json"),
        ]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ.copy())
        path.with_suffix(".wall").write_text(json.dumps(time.perf_counter() - began))
    return Kernel.load(path), float(json.loads(path.with_suffix(".wall").read_text()))


def _replicas(folder: Path, count: int) -> list[Recording]:
    """Return replicas of the long run, recorded in two processes where they are not yet kept."""
    config = WorldConfig()
    names = [folder / f"replica{i}.npz" for i in range(count)]
    missing = [i for i in range(count) if not names[i].exists()]
    play = Play.uniform(config.layout.zones, config.layout.n_actions)
    jobs = [(config, play, REPLICA_STEPS, (LONG_SEED, i)) for i in missing]
    for at, made in spread(record, jobs, 2) if jobs else ():
        arrays = {name: getattr(made, name) for name in KEPT}
        np.savez_compressed(names[missing[at]], **arrays)
    found = []
    for name in names:
        with np.load(name) as file:
            found.append(Recording(**{key: file[key] for key in KEPT}))
    return found


def _resampled(replicas: list[Recording], draws: int) -> list[Row]:
    """Draw replicas for 1 to 4 arenas, and say how far their rows are from those of the others."""
    game, play = load_game("arena"), Play.uniform(5, 3)
    info = KernelInfo(n=30, period_s=6.0, backend="bullet", option_steps=100, transitions=0,
                      symmetry="ring")  # fmt: skip
    first, rng = default_bins(30, 5, 5), np.random.default_rng(0)
    single = [tally([replica], game, first, by_target=False) for replica in replicas]
    total = sum(single)
    rows: list[Row] = []
    for arenas in (1, 2, 3, 4):
        size = min(4 * arenas, len(replicas) // 2)
        found: dict[str, list[float]] = {"counted": [], "weighted": []}
        for _ in range(draws):
            drawn = rng.permutation(len(replicas))[:size].tolist()
            parts = [replicas[i] for i in drawn]
            counts = sum(single[i] for i in drawn)
            counted = Kernel(counts, first, game, info)
            w = weights(parts, counted, play.pi_l)
            fair = tally(parts, game, first, by_target=False, weights=w)
            others = Kernel(total - counts, first, game, info)
            for name, weighted in (("counted", None), ("weighted", fair)):
                kernel = Kernel(counts, first, game, info, weighted)
                found[name].append(float(l1_rows(kernel.plain, others.plain).max()))
        for name, errors in found.items():
            rows.append(
                {
                    "arenas": arenas,
                    "rows": name,
                    "l1_max_median": float(np.median(errors)),
                    "l1_max_95": float(np.quantile(errors, 0.95)),
                    "share_passes": float(np.mean(np.array(errors) <= L1_LIMIT)),
                }
            )
    return rows


if __name__ == "__main__":
    main()
