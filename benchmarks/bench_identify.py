# SPDX-License-Identifier: MIT
"""What `kofn identify crowded30` costs and how far its rows are from one long run, over seeds.

    python benchmarks/bench_identify.py [--seeds 7] [--long 2000] [--option-steps 100] [--arenas 2]

Each line is the command, run with its default of two arenas (each of 30 robots makes the option
steps) by two processes. `l1` is the L1 distance of a row of the plain kernel from that of the long
run: +1 and -1 are the moves along the ring. The long run (`--long` options of one arena, seed 1000)
takes half an hour and is kept in --folder; so are the kernels of seeds, whose time is then that of
the run that made them. `--quick` does little of all in a folder of its own.
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

from kofn.sim.kernel import Kernel, l1_rows

LONG_SEED = 1000
L1_LIMIT, WALL_LIMIT_S = 0.04, 60.0


def main() -> None:
    """Identify over and over, and print how far each kernel is from the long run's."""
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=7)
    options.add_argument("--long", type=int, default=2000, help="option steps of the long run")
    options.add_argument("--option-steps", type=int, default=100)
    options.add_argument("--arenas", type=int, default=2)
    options.add_argument("--folder", type=Path, default=Path("runs/bench_identify"))
    chosen = options.parse_args()
    folder: Path = chosen.folder
    if chosen.quick:
        folder = folder / "quick"
        chosen.seeds, chosen.long, chosen.option_steps = 2, 10, 5
    folder.mkdir(parents=True, exist_ok=True)
    long_run, _ = _kernel(folder, LONG_SEED, chosen.long, arenas=1)
    rows: list[Row] = []
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


if __name__ == "__main__":
    main()
