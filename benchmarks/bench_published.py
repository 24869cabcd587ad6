# SPDX-License-Identifier: MIT
"""The published algorithm on the published game: do we measure the published returns?

    python benchmarks/bench_published.py [--ks 1,5,10,20,30,50] [--rollouts 20000] [--json]

Learned by `released_marl` (rounded, softmax, selfish, uniform start), played without memory: n =
1 000 agents, horizon 50. "ring-released" is our preset, in which agents act anew on the global
state that moves them. In the released code they move by the action chosen on the state before;
"as released" plays the same policy by that rule. Published returns are read from the paper's
figure, to about 0.3, and are means of 750 episodes.
Exits with 1 if a return is further than 2 from the published one.
"""

import argparse
import json
import sys
import time

from kofn.controller.core import load_game, rollout
from kofn.controller.core.released import released_marl
from kofn.launch.sweep_results import PUBLISHED

N, HORIZON, SEED_OF_EPISODES, NEAR = 1000, 50, 1_000_003, 2.0


def row(k: int, rollouts: int) -> dict[str, float | int | None]:
    """Learn for polls of k and play by both rules."""
    game = load_game("ring-released")
    started = time.perf_counter()
    solution = released_marl(game, k, N)
    seconds = time.perf_counter() - started
    played, other = (
        rollout(
            game,
            solution.policy,
            n=N,
            k=k,
            horizon=HORIZON,
            rollouts=rollouts,
            seed=SEED_OF_EPISODES,
            memory="none",
            act_first=act_first,
        )
        for act_first in (False, True)
    )
    return {
        "k": k,
        "published": PUBLISHED.get(k),
        "ring_released": round(played.mean, 2),
        "as_released": round(other.mean, 2),
        "stderr": round(played.stderr, 3),
        "rounds": len(solution.values),
        "train_s": round(seconds, 1),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ks", default="1,5,10,20,30,50")
    parser.add_argument("--rollouts", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row(int(k), arguments.rollouts) for k in arguments.ks.split(",")]
    if arguments.json:
        print(json.dumps(rows))
    else:
        print("| k | published | ring-released | as released | std error | rounds | training, s |")
        print("|---|---|---|---|---|---|---|")
        for r in rows:
            cells = [r["k"], r["published"] or "-", *list(r.values())[2:]]
            print(f"| {' | '.join(map(str, cells))} |")
    far = [r["k"] for r in rows if abs((r["ring_released"] or 0) - (r["published"] or 0)) > NEAR]
    if any(k in PUBLISHED for k in far):
        print(f"further than {NEAR} from the published return at k = {far}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
