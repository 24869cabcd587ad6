# SPDX-License-Identifier: MIT
"""What the settings of the bullet world cost in truth: turns on a free floor, and moves in a crowd.

    python benchmarks/bench_fidelity.py [--options 100] [--quick] [--json]

Fidelity "high" (240 Hz, 50 solver iterations) follows v and w to three digits, so each choice is
compared with its own finer steps. `turn_error` is the greatest share by which the turn rate of one
robot on a free floor is off, over eight pairs of v and w of five seconds each (of 0.5 rad/s at
least). `plus` and `minus` are the shares of moves that succeed among 30 robots in the ring that act
at random, 25 options a world, with standard errors over worlds; `cost` is CPU time for these over
that of the first variant.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
from measuring import Row, parser, report

from kofn.hardware.grid import GridLayout
from kofn.sim.bullet import BulletWorld
from kofn.sim.recording import Play, WorldConfig, record_replicas
from kofn.sim.robots import RobotSpec

if TYPE_CHECKING:
    from kofn.sim.worlds import Fidelity

FREE = GridLayout(columns=2, rows=2, cell_m=30.0, walls=False)
ASKED = (
    (0.4, 0.0),
    (0.2, 1.0),
    (0.0, 1.0),
    (0.0, 3.0),
    (0.4, 2.0),
    (0.3, -1.5),
    (0.1, -3.0),
    (-0.2, 0.5),
)
WARM_TICKS, TICKS = 10, 50

VARIANTS: dict[str, tuple[RobotSpec, Fidelity]] = {
    "default": (RobotSpec(), "default"),
    "high": (RobotSpec(), "high"),
    "casters as links": (RobotSpec(merge_links=False), "default"),
    "casters as links, high": (RobotSpec(merge_links=False), "high"),
}


def turn_error(robot: RobotSpec, fidelity: Fidelity) -> float:
    """Return the greatest relative error of the turn rate of one robot."""
    worst = 0.0
    for v, w in ASKED:
        world = BulletWorld(1, FREE, model=robot.model(FREE.robot_radius_m), fidelity=fidelity)
        world.reset(1)
        turned = 0.0
        for tick in range(WARM_TICKS + TICKS):
            before = world.observe().poses
            world.drive(np.full(1, v), np.full(1, w))
            after = world.observe().poses
            assert before is not None
            assert after is not None
            if tick >= WARM_TICKS:
                turned += math.remainder(after[0, 2] - before[0, 2], 2.0 * math.pi)
        world.close()
        rate = turned / (TICKS * world.spec.tick_s)
        worst = max(worst, abs(rate - w) / max(abs(w), 0.5))
    return worst


def moves(robot: RobotSpec, fidelity: Fidelity, options: int) -> tuple[np.ndarray, float]:
    """Return successes of +1 and -1 a world, shape (worlds, 2), and CPU seconds."""
    config = WorldConfig(robot=robot, fidelity=fidelity)
    zones, actions = config.layout.zones, config.layout.n_actions
    began = time.process_time()
    recordings = record_replicas(config, Play.uniform(zones, actions), options, seed=0)
    cpu_s = time.process_time() - began
    shares = []
    for recording in recordings:
        step = np.diff(recording.zones, axis=0) % zones
        tried = [recording.actions == action for action in (1, 2)]
        shares.append([(step[tried[0]] == 1).mean(), (step[tried[1]] == zones - 1).mean()])
    return np.array(shares), cpu_s


def main() -> None:
    """Measure all variants and print them."""
    arguments = parser(__doc__)
    arguments.add_argument("--options", type=int, default=100, help="options of 30 robots")
    chosen = arguments.parse_args()
    rows: list[Row] = []
    first_s = 0.0
    for name, (robot, fidelity) in VARIANTS.items():
        shares, cpu_s = moves(robot, fidelity, 2 if chosen.quick else chosen.options)
        first_s = first_s or cpu_s
        plus, minus = shares.mean(axis=0)
        worlds = len(shares)
        error = shares.std(axis=0, ddof=1) / math.sqrt(worlds) if worlds > 1 else [math.nan] * 2
        rows.append(
            {
                "variant": name,
                "turn_error": turn_error(robot, fidelity),
                "plus": float(plus),
                "plus_se": float(error[0]),
                "minus": float(minus),
                "minus_se": float(error[1]),
                "cost": cpu_s / first_s,
            }
        )
    report("bullet: settings against fidelity high", rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
