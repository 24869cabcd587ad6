# SPDX-License-Identifier: MIT
"""Hours of simulated time in one process: memory, the pose log's clock, and who is still in play.

    python benchmarks/bench_endurance.py [--hours 2] [--robots 30] [--world bullet] [--json]

A bank plays random options and writes its host log, as `kofn swarm` does. Ten rows are printed over
the time; `memory_mb` is the process's resident memory, `log_error_s` the largest distance of a
logged pose row from the grid of 0.2 s on which it belongs. Ends with exit code 1 when memory grew
by more than 5 MB after the first tenth, when the log's clock is off by more than a microsecond, or
when a robot was lost without being named in the log.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import psutil
from measuring import Row, parser, report

from kofn.controller.core.presets import load_game
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import HostLog, Incident, Poses, read_host_log
from kofn.hardware.ring import RingLayout
from kofn.sim.bank import WorldBank
from kofn.sim.motion import MotionKernel
from kofn.sim.quiet import quiet_stdout
from kofn.sim.worlds import make_world

PARTS = 10
GROWTH_MB = 5.0
LOG_ERROR_S = 1e-6
ROW_S = 0.2


def endure(world: str, robots: int, hours: float, log_path: Path) -> list[Row]:
    """Play `hours` of simulated time; a row after each tenth."""
    memory = psutil.Process().memory_info
    made = make_world(world, robots, RingLayout(), kernel=MotionKernel.of_game(load_game("arena")))
    names = [f"r{i}" for i in range(robots)]
    generator = np.random.default_rng(1)
    options = max(PARTS, round(hours * 3600.0 / made.spec.period_s))
    rows: list[Row] = []
    with HostLog(log_path) as log:
        bank = WorldBank(made, names, seed=1, pace="lockstep", clock=FakeClock(), log=log)
        bank.open()
        for done in range(1, options + 1):
            bank.see_step(done, 0)
            bank.apply(generator.integers(0, made.spec.n_actions, robots))
            while bank.advance():
                pass
            if done % (options // PARTS) == 0 and len(rows) < PARTS:
                reading = bank.read()
                rows.append(
                    {
                        "simulated_h": reading.time_s / 3600.0,
                        "memory_mb": memory().rss / 2**20,
                        "in_play": int(reading.up.sum()),
                        "log_mb": log_path.stat().st_size / 2**20,
                    }
                )
        bank.close()
    return rows


def check_log(path: Path, world: str) -> tuple[float, int]:
    """Return the largest error of the log's clock, s, and how many robots it names as lost."""
    times: list[float] = []
    lost: set[int] = set()
    for row in read_host_log(path):
        if isinstance(row, Poses):
            times.append(row.time_s)
        elif isinstance(row, Incident) and row.kind == "trouble":
            (lost.discard if row.text == "is back" else lost.add)(row.i)
    if world == "finite":
        return 0.0, len(lost)
    grid = np.arange(len(times)) * ROW_S
    return float(np.abs(np.array(times) - grid).max()), len(lost)


def main() -> int:
    """Run and print; 1 when something grew or drifted."""
    options = parser(__doc__)
    options.add_argument("--hours", type=float, default=2.0, help="simulated hours")
    options.add_argument("--robots", type=int, default=30)
    options.add_argument("--world", default="bullet", choices=("bullet", "kinematic", "finite"))
    chosen = options.parse_args()
    hours = min(chosen.hours, 0.05) if chosen.quick else chosen.hours
    with tempfile.TemporaryDirectory(prefix="kofn-") as folder, quiet_stdout():
        path = Path(folder) / "host.jsonl"
        rows = endure(chosen.world, chosen.robots, hours, path)
        error_s, lost = check_log(path, chosen.world)
    grown_mb = float(rows[-1]["memory_mb"] or 0) - float(rows[0]["memory_mb"] or 0)
    in_play = int(rows[-1]["in_play"] or 0)
    report(f"{chosen.robots} robots in world {chosen.world}", rows, as_json=chosen.json)
    verdict = {
        "grown_mb": round(grown_mb, 3),
        "log_error_s": error_s,
        "lost": chosen.robots - in_play,
        "named_as_lost": lost,
    }
    print(json.dumps(verdict))
    sound = grown_mb <= GROWTH_MB and error_s <= LOG_ERROR_S and lost == chosen.robots - in_play
    return 0 if sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
