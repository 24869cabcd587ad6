# SPDX-License-Identifier: MIT
"""What the settings of the bullet world cost in truth: turns on a free floor, and moves in a crowd.

    python benchmarks/bench_fidelity.py [--options 100] [--quick] [--json]

Each variant is compared with fidelity "high" (240 Hz, 50 solver iterations), which follows v and w
to four digits. `turn_error` is the greatest share by which the turn rate of one robot on a free
floor is off, over eight pairs of v and w of five seconds each (of 0.5 rad/s at least). `plus` and
`minus` are the shares of moves that succeed among 30 robots in the ring that act at random, 25
options a world, with standard errors over worlds; `cost` is CPU time for these over that of the
first variant.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from measuring import Row, parser, report

from kofn.hardware.grid import GridLayout
from kofn.sim.bullet import BulletWorld
from kofn.sim.urdf import RobotModel

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
BLOCK = 25
"""Options that one world makes."""

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "merged links": {"model": RobotModel(merge_links=True)},
    "high": {"fidelity": "high"},
    "merged links, high": {"fidelity": "high", "model": RobotModel(merge_links=True)},
}


def turn_error(variant: dict[str, Any]) -> float:
    """Return the greatest relative error of the turn rate of one robot."""
    worst = 0.0
    for v, w in ASKED:
        world = BulletWorld(1, FREE, **variant)
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


def moves(variant: dict[str, Any], options: int) -> tuple[np.ndarray, float]:
    """Return successes of +1 and -1 a world, shape (worlds, 2), and CPU seconds."""
    world = BulletWorld(30, **variant)
    zones = world.spec.n_zones
    shares, cpu_s = [], 0.0
    for seed in range(max(2, options // BLOCK)):
        world.reset(seed)
        generator = np.random.default_rng((seed, 1))
        made, tried = np.zeros(2), np.zeros(2)
        began = time.process_time()
        for _ in range(min(BLOCK, options)):
            zone, actions = world.observe().zones, generator.integers(0, 3, 30)
            world.apply(actions)
            world.advance(world.spec.period_s)
            step = (world.observe().zones - zone) % zones
            for j, (action, wanted) in enumerate(((1, 1), (2, zones - 1))):
                tried[j] += (actions == action).sum()
                made[j] += ((actions == action) & (step == wanted)).sum()
        cpu_s += time.process_time() - began
        shares.append(made / tried)
    world.close()
    return np.array(shares), cpu_s


def main() -> None:
    """Measure all variants and print them."""
    arguments = parser(__doc__)
    arguments.add_argument("--options", type=int, default=100, help="options of 30 robots")
    chosen = arguments.parse_args()
    rows: list[Row] = []
    first_s = 0.0
    for name, variant in VARIANTS.items():
        shares, cpu_s = moves(variant, 2 if chosen.quick else chosen.options)
        first_s = first_s or cpu_s
        plus, minus = shares.mean(axis=0)
        error = shares.std(axis=0, ddof=1) / math.sqrt(len(shares))
        rows.append(
            {
                "variant": name,
                "turn_error": turn_error(variant),
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
