# SPDX-License-Identifier: MIT
"""How the exact method grows: time of a sweep and peak memory against k and against S_l.

    python benchmarks/bench_growth.py [--out growth.png] [--quick] [--json]

Random games with five global states and actions and three local actions. Beside each measurement
stands the cost that theory gives a sweep, S_g^2 S_l^2 M k / S_l elementary steps, scaled to the
largest measured one. Each point is a process of its own, and its peak memory includes Python and
numba (the first row of the table: k = 5). The last table is what does not fit: it is refused before
anything is allocated.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from measuring import Row, machine, median_s, parser, report

from kofn.controller.core import Game, InputError, g_learn
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.grid import grid_points

S_G, A_L = 5, 3
AGAINST_K = [(k, 5) for k in (5, 10, 20, 30, 40, 50, 60, 70, 80)]
AGAINST_S = [(20, s) for s in (2, 3, 4, 5, 6, 7)]
QUICK_K = [(k, 5) for k in (5, 10, 15)]
QUICK_S = [(8, s) for s in (2, 3, 4)]
LABELS = {
    "sweep_s": "measured",
    "theory_s": "theory, scaled to the largest",
    "peak_mb": "peak memory of the process",
    "value_mb": "one value function",
    "k": "k, agents in a histogram",
    "S_l": "S_l, local states",
}
TOO_LARGE = [(150, 5), (300, 5), (40, 7), (50, 7), (30, 10), (100, 10), (1000, 5), (20, 20)]


def random_game(S_l: int) -> Game:
    """Return a game of ring-like kernels: agents mostly stay or go to a neighbour."""
    rng = np.random.default_rng(S_l)
    near = np.eye(S_l) + 0.4 * np.roll(np.eye(S_l), 1, axis=1) + 0.2
    P_l = near[None, :, None] * rng.uniform(0.8, 1.2, (S_G, S_l, A_L, S_l))
    return Game(
        rng.dirichlet(np.ones(S_G), (S_G, S_G)),
        rng.random((S_G, S_G)),
        P_l / P_l.sum(axis=-1, keepdims=True),
        rng.random((S_G, S_l, A_L)),
        0.95,
    )


def steps(k: int, S_l: int) -> float:
    """Return the elementary steps of a sweep."""
    return S_G**2 * S_l * grid_points(k, S_l) * k


def measure(k: int, S_l: int, repeats: int) -> Row:
    """Time a sweep in this process, and take its peak memory."""
    game = random_game(S_l)
    surrogate = Surrogate(game, game.uniform_local_policy(), k)
    values = np.zeros((surrogate.n_points, S_G))
    return {
        "k": k,
        "S_l": S_l,
        "states": values.size,
        "sweep_s": median_s(partial(surrogate.sweep, values), repeats),
        "steps": steps(k, S_l),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "value_mb": values.nbytes / 2**20,
        "method": "+".join(sorted(set(surrogate.methods))),
    }


def series(points: list[tuple[int, int]], repeats: int) -> list[Row]:
    """Measure each point in a process of its own, and scale the theory to the largest."""
    rows: list[Row] = []
    for k, S_l in points:
        command = [sys.executable, __file__, "--measure", str(k), str(S_l)]
        command += ["--repeats", str(repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout))
    last = rows[-1]
    unit = float(last["sweep_s"] or 0) / float(last["steps"] or 1)
    for row in rows:
        row["theory_s"] = unit * float(row["steps"] or 0)
    return rows


def refusals() -> list[Row]:
    """Ask for what does not fit."""
    rows: list[Row] = []
    for k, S_l in TOO_LARGE:
        game = random_game(S_l)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            g_learn(game, game.uniform_local_policy(), k)
        except InputError as error:
            answer = str(error)
        else:
            answer = "solved"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        states = S_G * grid_points(k, S_l)
        rows.append(
            {
                "k": k,
                "S_l": S_l,
                "states": states,
                "value_bytes": 8 * states,
                "allocated_mb": round(grown, 1),
                "answer": "refused" if answer != "solved" else answer,
            }
        )
    return rows


def draw(tables: list[tuple[str, list[Row]]], out: Path) -> None:
    """Draw time and memory against the first key of each table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(tables), figsize=(5 * len(tables), 7), squeeze=False)
    for column, (key, rows) in enumerate(tables):
        x = [float(row[key] or 0) for row in rows]
        for axis, names, unit in (
            (axes[0][column], ("sweep_s", "theory_s"), "s"),
            (axes[1][column], ("peak_mb", "value_mb"), "MB"),
        ):
            for name, style in zip(names, ("o-", "--"), strict=True):
                axis.plot(x, [float(row[name] or 0) for row in rows], style, label=LABELS[name])
            axis.set_yscale("log")
            axis.set_xlabel(LABELS[key])
            axis.set_ylabel(unit)
            axis.legend()
        fixed = "S_l" if key == "k" else "k"
        axes[0][column].set_title(f"one exact sweep, {fixed} = {rows[0][fixed]}")
    figure.suptitle(machine(), fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> None:
    """Measure, print and draw."""
    options = parser(__doc__)
    options.add_argument("--out", type=Path, help="write the figure to this PNG file")
    options.add_argument("--measure", nargs=2, type=int, metavar=("K", "S_L"), help="only this")
    chosen = options.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure[0], chosen.measure[1], chosen.repeats)))
        return
    repeats = 1 if chosen.quick else chosen.repeats
    against_k = series(QUICK_K if chosen.quick else AGAINST_K, repeats)
    against_s = series(QUICK_S if chosen.quick else AGAINST_S, repeats)
    report("growth with k", against_k, as_json=chosen.json)
    report("growth with S_l", against_s, as_json=chosen.json)
    report("what does not fit", refusals(), as_json=chosen.json)
    if chosen.out:
        draw([("k", against_k), ("S_l", against_s)], chosen.out)


if __name__ == "__main__":
    main()
