# SPDX-License-Identifier: MIT
"""`kofn bench`: what this machine and this software can do, measured in this process.

The suite `bias` says how far an estimate is off when answers are missing (`bias_study`); it is the
same on every machine.

The suite `sim` says how fast the simulated worlds are (`kofn.sim.speed`).

The suite `core` measures what a user of the mathematics waits for: the exact operator, a Bellman
sweep, a whole solve, rollouts, and one decision of the live controller. Five zones, `ring-current`,
robots that never move. Every row is the median and the largest time of some repeats after one
warm-up, which also compiles.
"""

from __future__ import annotations

import logging
import platform
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kofn.controller.bias_study import BELIEF_STRATEGIES, COLUMNS, STRATEGIES, Score, study
from kofn.controller.core import Policy, SymmetricPower, g_learn, load_game, rollout
from kofn.controller.core._jit import thread_count
from kofn.controller.core.decision import Decider
from kofn.controller.core.errors import InputError
from kofn.controller.core.global_learner import Surrogate
from kofn.launch.output import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kofn.sim.speed import Speed

REPEATS = 5
BIAS_STEPS, BIAS_STEPS_QUICK = 300, 20
#: Look-ups in one timing: one alone takes less than the clock's tick.
DECISIONS = 20_000


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement; `per` says what the time is of, `size` what grows with the problem."""

    name: str
    per: str
    size: int
    median_s: float
    max_s: float


def machine() -> str:
    """Return the processor and the number of threads that are used."""
    return f"{platform.processor() or platform.machine()}, {thread_count()} threads"


def timed(
    name: str, per: str, size: int, function: Callable[[], object], times: int = 1
) -> Callable[[], Row]:
    """Return a measurement to be made; `function` does the thing `times` times."""

    def measure() -> Row:
        function()
        took = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            function()
            took.append((time.perf_counter() - began) / times)
        return Row(name=name, per=per, size=size, median_s=statistics.median(took), max_s=max(took))

    return measure


def core(*, quick: bool) -> Iterator[Callable[[], Row]]:
    """Yield the measurements of the suite `core`; small sizes only if `quick`."""
    game = load_game("ring-current")
    stay = np.eye(game.n_local_actions)[np.zeros((game.n_global, game.n_local), dtype=int)]
    kernel = game.marginals(stay)[0][0]
    for k in (10, 20) if quick else (10, 20, 50):
        power = SymmetricPower(kernel, k)
        values = np.random.default_rng(0).random((power.n_points, game.n_global))
        yield timed(f"operator, k={k}", "5 functions", power.n_points, partial(power.apply, values))
    for k in (10, 20) if quick else (10, 20, 50):
        surrogate = Surrogate(game, stay, k)
        zeros = np.zeros((surrogate.n_points, game.n_global))
        yield timed(f"sweep, k={k}", "sweep", zeros.size, partial(surrogate.sweep, zeros))
    for k in (5, 10) if quick else (10, 20):
        solve = partial(g_learn, game, stay, k, tol=1e-4)
        yield timed(f"g_learn, k={k}, error 1e-4", "solve", k, solve)
    policy = Policy(game, 10, g_learn(game, stay, 10).action, stay, memory=80.0)
    episodes = 200 if quick else 2000
    for n in (10**3, 10**9):
        play = partial(rollout, game, policy, n=n, k=10, rollouts=episodes)
        yield timed(f"rollout, n={n:.0e}, k=10", "episode", n, play, episodes)
    decider = Decider(policy, 10)
    counts = (4, 3, 2, 1, 0)

    def decide() -> None:
        for _ in range(DECISIONS):
            decider.decide(2, 2, counts)

    yield timed("decision, counts to action", "decision", 10, decide, DECISIONS)


SUITES: dict[str, Callable[..., Iterator[Callable[[], Row]]]] = {"core": core}


def bias(*, steps: int = BIAS_STEPS, seed: int = 0) -> list[Score]:
    """Measure the suite `bias`, with progress on stderr."""
    cells = len(COLUMNS) * len(STRATEGIES + BELIEF_STRATEGIES)
    steering = logging.getLogger("kofn.controller")
    level = steering.level
    steering.setLevel(logging.ERROR)  # each run warns that loss depends on the zone
    try:
        with Progress("bench bias", total=cells) as progress:
            done = iter(range(1, cells + 1))
            return study(
                steps=steps,
                seed=seed,
                progress=lambda score: progress.update(next(done), score.strategy),
            )
    finally:
        steering.setLevel(level)


def sim(*, quick: bool) -> list[Speed]:
    """Measure the suite `sim`, with progress on stderr."""
    from kofn.sim.speed import measurements

    rows: list[Speed] = []
    with Progress("bench sim") as progress:
        for measure in measurements(quick=quick, repeats=1 if quick else REPEATS):
            rows.append(measure())
            progress.update(len(rows), rows[-1].name)
    return rows


def sim_table(rows: Sequence[Speed]) -> list[str]:
    """Return lines for people."""
    lines = [f"{'':42s} {'robots':>9s} {'measured':>9s} {'limit':>7s}"]
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g}"
        unit = "simulated s per CPU s" if row.unit == "rtf" else "option steps per CPU s"
        lines.append(f"{row.name:42s} {row.robots:9d} {row.rtf:9.4g} {limit:>7s}  {unit}")
    return lines


def bias_table(scores: Sequence[Score]) -> list[str]:
    """Return a Markdown table: a row for each strategy, error / bias for each column."""
    cells = {(score.strategy, score.column): score for score in scores}
    names = dict.fromkeys(score.strategy for score in scores)
    heads = [f"{column.name}: n={column.n} k={column.k}" for column in COLUMNS]
    lines = [f"| strategy | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        row = [cells[name, column.name] for column in COLUMNS]
        shown = " | ".join(f"{score.error:.3f} / {score.bias:+.3f}" for score in row)
        lines.append(f"| {name} | {shown} |")
    return lines


def run(suite: str, *, quick: bool) -> list[Row]:
    """Measure a suite of times, with progress on stderr.

    Raises
    ------
    InputError
        A suite that there is not.
    """
    if suite not in SUITES:
        raise InputError(f"unknown suite {suite!r}; known are bias, link, sim, {', '.join(SUITES)}")
    rows: list[Row] = []
    with Progress(f"bench {suite}") as progress:
        for measure in SUITES[suite](quick=quick):
            rows.append(measure())
            progress.update(len(rows), rows[-1].name)
    return rows


def table(rows: list[Row]) -> list[str]:
    """Return lines for people."""
    head = f"{'':30s} {'size':>10s} {'median':>11s} {'largest':>11s}"
    return [
        head,
        *(
            f"{row.name:30s} {row.size:10d} {_time(row.median_s):>11s} {_time(row.max_s):>11s}"
            f"  per {row.per}"
            for row in rows
        ),
    ]


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
