# SPDX-License-Identifier: MIT
"""What a poll says when some robots do not answer, by strategy: error / bias of the lossy zone.

    python benchmarks/bench_bias.py [--steps 300] [--seed 0] [--json]

The control loop polls a host on the memory bus that loses answers; `kofn.controller.bias_study`
says how. Cells: mean total-variation error of the estimated distribution over zones / bias of the
mass of the zone in which answers are lost. The true mass is 0.2.
"""

import argparse
import json
import time

from kofn.launch.benching import bias, bias_table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    began = time.perf_counter()
    scores = bias(steps=arguments.steps, seed=arguments.seed)
    if arguments.json:
        print(json.dumps([score._asdict() for score in scores]))
        return
    print("\n".join(bias_table(scores)))
    print(f"\n{arguments.steps} steps a cell, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
