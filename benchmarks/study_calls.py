# SPDX-License-Identifier: MIT
"""Why the learned rule of the study is not better than a constant call, on tuning seeds alone.

    python benchmarks/study_calls.py [--seeds 900,901,902,903,904,905]

Plays runs as `benchmarks/studies/selectors.toml` has them, k = 20, both partitions, and prints

- each constant call: median simulated seconds to the targets, and the value per second that the
  game (late phase, estimated from the log of `both`) gives it;
- with the baseline `both`: how sure each refit's policy is to be better (`fed/selectors/safe.py`),
  and the times of the rule that asks for 95 %, of one that takes every policy, and of one that
  begins with random calls and takes every policy.

Needs an environment with `kofn[fed-data]`. About five minutes of processor time.
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from kofn.fed.game import CALLS, PHASES, GameSettings, build_game
from kofn.fed.kernel import posterior
from kofn.fed.selectors import learned
from kofn.fed.selectors.base import BaseSelector
from kofn.fed.selectors.calls import CallSelector
from kofn.fed.selectors.fixed_call import FixedCallSelector
from kofn.fed.selectors.learned import LearnedSelector
from kofn.fed.study import Arm, Cell, RunResult, Study, build, load_study, play

STUDY = Path(__file__).with_name("studies") / "selectors.toml"
K = 20
GAME = {"value_power": 4.0, "partial_worth": 0.5}
LEARNED = {"warm_up": 5, "refit_every": 50, "exchanges": 0, "game": GAME}


def runs(study: Study, digest: str, arm: Arm, seeds: list[int]) -> list[RunResult]:
    """Play an arm on all partitions and seeds."""
    alone = msgspec.structs.replace(study, arms=[arm])
    return [
        play(alone, digest, Cell(partition=how, arm=arm.title, k=K, seed=seed))
        for how in study.partitions
        for seed in seeds
    ]


def times(study: Study, found: list[RunResult]) -> str:
    """Return the medians to each target; a run that never reached it takes the horizon."""
    late = study.horizon_s
    return " ".join(
        f"{median(late if r.time_to[i] is None else r.time_to[i] for r in found):6.0f}"  # type: ignore[type-var]
        for i in range(len(study.targets))
    )


def value_per_second(selector: CallSelector) -> np.ndarray[Any, Any]:
    """Return what the game of a run's log says of each constant call, late in the run."""
    found = posterior(selector.log, [call.deadline for call in CALLS], high_worth=1.5)
    settings = GameSettings()
    game = build_game(selector.shape, found, settings, m=selector.m, n=100, k=K)
    states = [selector.shape.state(len(PHASES) - 1, c) for c in range(len(CALLS))]
    ratios: np.ndarray[Any, Any] = game.r_l[states].max(axis=2) @ found.shares / found.seconds
    return ratios


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", default="900,901,902,903,904,905")
    seeds = [int(seed) for seed in parser.parse_args().seeds.split(",")]
    study, digest = load_study(STUDY)
    if not set(seeds) <= set(study.tuning_seeds):
        parser.error(f"seeds other than the tuning seeds {study.tuning_seeds} are for the study")
    ended: list[CallSelector] = []
    refits: list[float] = []
    close, adopt = FixedCallSelector.close, LearnedSelector.adopt

    def noted_close(self: BaseSelector) -> None:
        if isinstance(self, CallSelector):
            ended.append(self)
        close(self)

    def noted_adopt(self: LearnedSelector, fit: learned.Fit) -> None:
        refits.append(fit.sure)
        adopt(self, fit)

    FixedCallSelector.close = noted_close  # type: ignore[method-assign]
    LearnedSelector.adopt = noted_adopt  # type: ignore[method-assign]
    print(f"seeds {seeds}, both partitions, targets {study.targets}")
    ratios: np.ndarray[Any, Any] = np.zeros(len(CALLS))
    rows = []
    for call in CALLS:
        ended.clear()
        arm = Arm(selector="fixed-call", k=[K], label=call.name, settings={"call": call.name})
        rows.append((call.name, times(study, runs(study, digest, arm, seeds))))
        if call.name == "both":
            ratios = np.median([value_per_second(one) for one in ended], axis=0)
    for (name, shown), ratio in zip(rows, ratios, strict=True):
        print(f"always {name:6s}{shown} s, value per second {ratio:.2f}")
    for label, level, settings in (
        ("safe", 0.95, {**LEARNED, "baseline": "both"}),
        ("every policy", -1.0, {**LEARNED, "baseline": "both"}),
        ("random start, every policy", 0.95, LEARNED),
    ):
        refits.clear()
        # The level is a constant of the module: only here is it anything else.
        vars(learned)["SURE"] = level
        arm = Arm(selector="mean-field", k=[K], label=label, settings=settings)
        build(arm, K)
        found = runs(study, digest, arm, seeds)
        for how in study.partitions:
            mine = [r for r in found if r.cell.partition == how]
            print(f"{label:28s}{how:16s}{times(study, mine)} s")
        if "baseline" in settings:
            low, mid, high = np.percentile(refits, [10, 50, 90])
            print(
                f"{'':28s}sure: median {mid:.2f}, tenths {low:.2f} and {high:.2f}, "
                f"largest {max(refits):.2f}, {sum(s >= 0.95 for s in refits)} of {len(refits)}"
            )


if __name__ == "__main__":
    main()
