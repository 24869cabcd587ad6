# SPDX-License-Identifier: MIT
"""Figures of a study, from its runs alone: accuracy over time and rounds, time to targets, costs.

Curves are medians over seeds with the quartiles as bands. A run that never reached a target is
drawn at the right edge, apart from the others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kofn.fed.study import RunResult, Study
    from kofn.fed.study_report import Table

#: Okabe and Ito's colours, which colour-blind people tell apart, then greys and lines for more.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999999")
LINES = ("-", "--", "-.")
POINTS = 200


def _import() -> Any:
    try:
        import matplotlib as mpl
    except ImportError:
        raise InputError(
            "drawing the figures takes matplotlib: pip install 'kofn[report]'"
        ) from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _curves(
    runs: list[RunResult], grid: np.ndarray[Any, Any], *, by_round: bool
) -> np.ndarray[Any, Any]:
    """Return the accuracy of each run at each point of the grid, shape (runs, points)."""
    found = np.full((len(runs), len(grid)), np.nan)
    for i, run in enumerate(runs):
        x = np.arange(1, len(run.curve_s) + 1) if by_round else np.asarray(run.curve_s)
        place = np.searchsorted(x, grid, side="right") - 1
        y = np.asarray(run.curve_accuracy)
        inside = (place >= 0) & ((grid <= x[-1]) | (not by_round))
        found[i, inside] = y[place[inside]]
    return found


def draw(study: Study, table: Table, folder: Path) -> list[Path]:
    """Draw all figures into a folder and return their paths."""
    plt = _import()
    shown = [
        (arm.title, k)
        for arm in study.arms
        for k in arm.sizes
        if k in {None, study.claim.k, study.claim.k_all}
    ]
    style = {
        pair: (COLOURS[i % len(COLOURS)], LINES[(i // len(COLOURS)) % len(LINES)])
        for i, pair in enumerate(shown)
    }
    paths = [
        _accuracy(plt, study, table, style, folder / "accuracy_time.png", by_round=False),
        _accuracy(plt, study, table, style, folder / "accuracy_rounds.png", by_round=True),
        _targets(plt, study, table, folder / "time_to_target.png"),
        _costs(plt, study, table, folder / "costs.png"),
    ]
    plt.close("all")
    return paths


def _title(arm: str, k: int | None) -> str:
    return arm if k is None else f"{arm}, k={k}"


def _accuracy(
    plt: Any, study: Study, table: Table, style: dict[Any, Any], path: Path, *, by_round: bool
) -> Path:
    figure, axes = plt.subplots(
        1, len(study.partitions), figsize=(7 * len(study.partitions), 6), squeeze=False, sharey=True
    )
    for axis, how in zip(axes[0], study.partitions, strict=True):
        groups = {pair: list(table.runs(how, *pair).values()) for pair in style}
        most = max((len(r.curve_s) for g in groups.values() for r in g), default=1)
        grid = (
            np.arange(1, most + 1) if by_round else np.linspace(0, study.horizon_s, POINTS)
        ).astype(float)
        for pair, runs in groups.items():
            if not runs:
                continue
            curves = _curves(runs, grid, by_round=by_round)
            kept = (~np.isnan(curves)).sum(axis=0) * 2 > len(runs)
            if not kept.any():
                continue
            low, mid, high = np.nanpercentile(curves[:, kept], [25, 50, 75], axis=0)
            colour, line = style[pair]
            axis.plot(grid[kept], mid, line, color=colour, label=_title(*pair), linewidth=1.6)
            axis.fill_between(grid[kept], low, high, color=colour, alpha=0.08, linewidth=0)
        for target in study.targets:
            axis.axhline(target, color="#bbbbbb", linewidth=0.8)
        axis.set_title(how)
        axis.set_xlabel("round" if by_round else "simulated time, s (polls included)")
        axis.set_ylim(0.3, 0.95)
    axes[0][0].set_ylabel("test accuracy (median, quartiles)")
    axes[0][-1].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def _targets(plt: Any, study: Study, table: Table, path: Path) -> Path:
    pairs = [(arm.title, k) for arm in study.arms for k in arm.sizes]
    figure, axes = plt.subplots(
        len(study.partitions),
        len(study.targets),
        figsize=(6 * len(study.targets), (1 + 0.28 * len(pairs)) * len(study.partitions)),
        squeeze=False,
        sharey=True,
    )
    edge = 1.06 * study.horizon_s
    for row, how in zip(axes, study.partitions, strict=True):
        for i, (axis, target) in enumerate(zip(row, study.targets, strict=True)):
            for y, pair in enumerate(pairs):
                times = [r.time_to[i] for r in table.runs(how, *pair).values()]
                reached = [t for t in times if t is not None]
                never = len(times) - len(reached)
                axis.plot(reached, [y] * len(reached), "|", color="#0072B2", alpha=0.6)
                if reached and never * 2 < len(times):
                    middle = sorted(math.inf if t is None else t for t in times)[len(times) // 2]
                    axis.plot([min(middle, edge)], [y], "o", color="#D55E00", markersize=5)
                if never:
                    axis.text(edge, y, f"{never} never", fontsize=7, va="center")
            axis.set_xlim(0, 1.25 * study.horizon_s)
            axis.set_title(f"{how}: seconds to {target:g}", fontsize=9)
            axis.set_yticks(range(len(pairs)), [_title(*pair) for pair in pairs], fontsize=7)
            axis.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


_COSTS: tuple[tuple[str, Callable[[RunResult], float]], ...] = (
    ("polls a round", lambda r: r.polled / max(r.rounds, 1)),
    ("MB for polls", lambda r: r.bytes_poll / 1e6),
    ("worst decile", lambda r: r.worst_decile),
    ("share ever trained", lambda r: r.ever_trained),
)


def _costs(plt: Any, study: Study, table: Table, path: Path) -> Path:
    pairs = [(arm.title, k) for arm in study.arms for k in arm.sizes]
    figure, axes = plt.subplots(
        1, len(_COSTS), figsize=(3.4 * len(_COSTS), 1 + 0.3 * len(pairs)), sharey=True
    )
    height = 0.8 / len(study.partitions)
    for axis, (name, measure) in zip(axes, _COSTS, strict=True):
        for j, how in enumerate(study.partitions):
            values = [
                float(np.median([measure(r) for r in table.runs(how, *pair).values()] or [0]))
                for pair in pairs
            ]
            axis.barh(
                np.arange(len(pairs)) + j * height, values, height, color=COLOURS[5 + j % 3],
                label=how,
            )  # fmt: skip
        axis.set_title(name, fontsize=9)
        axis.set_yticks(range(len(pairs)), [_title(*pair) for pair in pairs], fontsize=7)
    axes[0].invert_yaxis()
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path
