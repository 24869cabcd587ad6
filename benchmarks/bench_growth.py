# SPDX-License-Identifier: MIT
"""How the exact method grows: time of a sweep and peak memory against k and against S_l.

    python benchmarks/bench_growth.py [--out growth.png] [--quick] [--json]

Random games with five global states and actions and three local actions. Beside each measurement
stands the cost that theory gives a sweep, S_g^2 S_l^2 M k / S_l elementary steps, scaled to the
largest measured one. Each point is a process of its own, and its peak memory includes Python and
numba (the first row of the table: k = 5). The first table is what fits: for each S_l the largest
grid that is taken and the next one, and some that people ask for. What does not fit is asked for in
earnest, and refused before anything is allocated.
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
from kofn.controller.core.grid import MAX_BYTES, MAX_SIZE, check_grid, grid_points

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
EDGES = (2, 3, 4, 5, 6, 7, 8, 10, 15, 20)
ASKED = [(300, 5), (1000, 5), (50, 7), (100, 10), (20, 20), (10**6, 50)]


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


def fits(k: int, S_l: int) -> bool:
    """Return whether a grid would be taken; nothing is allocated."""
    try:
        check_grid(k, S_l, S_G)
    except InputError:
        return False
    return True


def largest(S_l: int) -> int:
    """Return the largest k that fits."""
    low, high = 1, MAX_SIZE + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle, S_l) else (low, middle)
    return low


def what_fits() -> list[Row]:
    """Return grids on both sides of the limit, having asked for those that do not fit."""
    rows: list[Row] = []
    edges = [(k, S_l) for S_l in EDGES for k in (largest(S_l), largest(S_l) + 1)]
    for k, S_l in edges + ASKED:
        states = float(S_G * grid_points(k, S_l))
        row: Row = {"k": k, "S_l": S_l, "states": states, "value_bytes": 8 * states}
        row |= {"limit_bytes": float(MAX_BYTES), "answer": "fits", "allocated_mb": 0.0}
        if not fits(k, S_l):
            game = random_game(S_l)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                g_learn(game, game.uniform_local_policy(), k)
            except InputError as error:
                row["answer"] = "refused" if "grid" in str(error) else str(error)
            else:
                row["answer"] = "solved"
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            row["allocated_mb"] = round(grown, 1)
        rows.append(row)
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
    report("what fits, and what does not", what_fits(), as_json=chosen.json)
    against_k = series(QUICK_K if chosen.quick else AGAINST_K, repeats)
    against_s = series(QUICK_S if chosen.quick else AGAINST_S, repeats)
    report("growth with k", against_k, as_json=chosen.json)
    report("growth with S_l", against_s, as_json=chosen.json)
    if chosen.out:
        draw([("k", against_k), ("S_l", against_s)], chosen.out)


if __name__ == "__main__":
    main()
