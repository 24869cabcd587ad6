# SPDX-License-Identifier: MIT
"""Time of one live decision: prediction, counts, belief, projection, rank, look-up.

    python benchmarks/bench_decision.py [--repeats 5] [--quick] [--json]

`Decider` against the same steps with `Belief` and `Policy.decide` in numpy, on random polls; both
must choose the same. The limit is 5 microseconds. The mean of a batch of decisions is taken, called
from Python one by one as the control loop does.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from measuring import Row, median_s, parser, report

from kofn.controller.core import Policy, load_game
from kofn.controller.core.decision import Decider
from kofn.controller.core.grid import grid_points

K, LIMIT_S = 10, 5e-6

Poll = tuple[int, int, tuple[int, ...]]


def with_decider(decider: Decider, polls: list[Poll]) -> list[int]:
    """Decide on each poll, compiled."""
    return [decider.decide(moved_by, s_g, counts) for moved_by, s_g, counts in polls]


def with_numpy(policy: Policy, polls: list[Poll]) -> list[int]:
    """Decide on each poll in numpy."""
    belief, remembered = policy.belief(K), policy.remembers(K)
    chosen = []
    for moved_by, s_g, counts in polls:
        belief.predict(moved_by)
        belief.update(counts)
        chosen.append(policy.decide(s_g, belief.weights, remembered=remembered))
    return chosen


def main() -> None:
    """Print one row per grid."""
    options = parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    game = load_game("ring-current")
    size = 2000 if options.quick else 20_000
    polls: list[Poll] = [
        (
            int(rng.integers(game.n_global)),
            int(rng.integers(game.n_global)),
            tuple(int(c) for c in rng.multinomial(K, rng.dirichlet(np.ones(game.n_local)))),
        )
        for _ in range(size)
    ]
    rows: list[Row] = []
    for grid, memory in ((10, None), (25, 60.0), (50, 60.0)):
        shape = (game.n_global, grid_points(grid, game.n_local))
        table = rng.integers(0, game.n_global_actions, shape)
        policy = Policy(game, grid, table, game.uniform_local_policy(), memory=memory)
        assert with_decider(Decider(policy, K), polls) == with_numpy(policy, polls)
        decider_s = median_s(partial(with_decider, Decider(policy, K), polls), options.repeats)
        numpy_s = median_s(partial(with_numpy, policy, polls), options.repeats)
        rows.append(
            {
                "grid": grid,
                "memory": memory,
                "kofn_us": 1e6 * decider_s / size,
                "of_limit": decider_s / size / LIMIT_S,
                "numpy_us": 1e6 * numpy_s / size,
                "times_faster": numpy_s / decider_s,
            }
        )
    report("one live decision (limit 5 us)", rows, as_json=options.json)


if __name__ == "__main__":
    main()
