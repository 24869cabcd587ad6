# SPDX-License-Identifier: MIT
"""Figures of a sweep, drawn from its results alone.

`reward.png`, `runtime.png` and `mode_accuracy.png` show one quantity against k; `zones.png` shows
where the fleet was in one and the same episode for four ks, without and with memory. Colours are
Okabe and Ito's, which colour-blind people tell apart, and no two curves share a marker.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.launch.sweep_results import PUBLISHED_READ_TO, Row, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
#: Name, attribute of a row, colour and marker of the two ways to play.
MODES = (("with belief", "belief", BLUE, "o"), ("memoryless", "memoryless", ORANGE, "s"))
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 7,
}
PANELS = 4


def check_installed() -> None:
    """Refuse where there is nothing to draw with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("drawing the figures takes matplotlib: pip install 'kofn[report]'")


def draw(sweep: Sweep, folder: Path) -> list[Path]:
    """Draw all figures into a folder and return their paths."""
    check_installed()
    import matplotlib as mpl

    figures: dict[str, Callable[[Sweep], Figure]] = {
        "reward.png": reward,
        "runtime.png": runtime,
        "mode_accuracy.png": mode_accuracy,
        "zones.png": zones,
    }
    paths = []
    with mpl.rc_context(STYLE):
        for name, make in figures.items():
            path = folder / name
            figure = make(sweep)
            try:
                figure.savefig(path, dpi=110)
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror}") from error
            paths.append(path)
    return paths


def reward(sweep: Sweep) -> "Figure":
    """Draw the mean return against k, with the published curve where there is one."""
    figure, ax = _against_k(sweep, "Mean return")
    ks = _ks(sweep.rows)
    for side, (name, mode, colour, marker) in zip((-1, 1), MODES, strict=True):
        played = [getattr(row, mode) for row in sweep.rows]
        # A little apart (0.4 % of the axis), so that no bar hides the other.
        aside = (1.3 * ks[-1] / ks[0]) ** (0.004 * side)
        ax.errorbar(
            [k * aside for k in ks],
            [p.mean for p in played],
            yerr=[p.margin for p in played],
            color=colour,
            marker=marker,
            capsize=4,
            label=name,
        )
    published = sweep.published
    if published:
        where, values = np.array(list(published)), np.array(list(published.values()))
        ax.fill_between(
            where,
            values - PUBLISHED_READ_TO,
            values + PUBLISHED_READ_TO,
            color=GREY,
            alpha=0.3,
            lw=0,
        )
        ax.plot(
            where,
            values,
            color=GREY,
            ls="--",
            marker="D",
            label=f"published (arXiv 2603.03759), read from the figure to ±{PUBLISHED_READ_TO}",
        )
        _ticks(ax, sorted({*ks, *published}))
    s = sweep.settings
    ax.set_ylabel(f"discounted return of {s.horizon} steps")
    _legend_below(figure, ax, f"bars: 95 % confidence, {s.rollouts} episodes")
    return figure


def runtime(sweep: Sweep) -> "Figure":
    """Draw the times of learning and of one Bellman sweep against k."""
    figure, ax = _against_k(sweep, "Run time")
    ks = _ks(sweep.rows)
    ax.plot(ks, [r.train_s for r in sweep.rows], "-o", color=BLUE, label="learning, all of it")
    timed = [(row.k, row.sweep_s) for row in sweep.rows if row.sweep_s is not None]
    if timed:
        ax.plot(
            *zip(*timed, strict=True),
            "-s",
            color=ORANGE,
            label="one exact Bellman sweep of G-LEARN on the grid of k agents",
        )
    ax.set_yscale("log")
    ax.set_ylabel("wall time, s")
    grids = {row.grid for row in sweep.rows}
    if len(grids) == 1:
        ax.set_title(
            f"The learned tables lie on the grid of {grids.pop()} agents for every k",
            fontsize=11,
            fontweight="normal",
        )
    _legend_below(figure, ax)
    return figure


def mode_accuracy(sweep: Sweep) -> "Figure":
    """Draw how often a most crowded state was known, against k."""
    figure, ax = _against_k(sweep, "Steps in which a largest group is known")
    ks = _ks(sweep.rows)
    for name, mode, colour, marker in MODES:
        values = [100 * getattr(row, mode).mode_accuracy for row in sweep.rows]
        ax.plot(ks, values, color=colour, marker=marker, label=name)
    states = sweep.settings.local_states
    ax.axhline(100 / states, color=GREY, ls=":", label=f"guessing among {states} local states")
    ax.set_ylim(0, 102)
    ax.set_ylabel("share of steps, %")
    _legend_below(figure, ax)
    return figure


def zones(sweep: Sweep) -> "Figure":
    """Draw one episode for four ks: share of agents by step and local state, and s_g."""
    from matplotlib.figure import Figure

    shown = [sweep.rows[i] for i in panels(len(sweep.rows))]
    s = sweep.settings
    figure = Figure(figsize=(14, 1.6 + 2.0 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, sharex=True, sharey=True, squeeze=False)
    pairs = [(row.memoryless, row.belief) for row in shown]
    top = max(max(map(max, played.episode.shares)) for pair in pairs for played in pair)
    image: Any = None
    for line, row, pair in zip(axes, shown, pairs, strict=True):
        for ax, name, played in zip(line, ("memoryless", "with belief"), pair, strict=True):
            shares = np.array(played.episode.shares).T
            image = ax.imshow(shares, origin="lower", aspect="auto", cmap="Blues", vmin=0, vmax=top)
            if s.global_states == s.local_states:  # otherwise s_g is no place on this axis
                steps = range(shares.shape[1])
                ax.plot(
                    steps,
                    played.episode.s_g,
                    "o",
                    ms=4,
                    mfc="none",
                    mew=1.4,
                    color=ORANGE,
                    label="global state (target) of the step",
                )
            ax.set_title(f"k = {row.k}, {name} (mean return {played.mean:.1f})", fontsize=12)
            ax.set_yticks(range(s.local_states))
            ax.grid(visible=False)
        line[0].set_ylabel("local state")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.015)
    bar.set_label("share of agents")
    figure.suptitle(
        f"{s.game}, n = {s.n}: where the agents are, the same episode played in each way",
        x=0.01,
        ha="left",
        fontsize=14,
        fontweight="bold",
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower left")
    return figure


def panels(n_rows: int) -> list[int]:
    """Return which rows are shown: at most four, the first and the last among them."""
    return sorted(set(np.linspace(0, n_rows - 1, PANELS).round().astype(int).tolist()))


def _ks(rows: Sequence[Row]) -> list[int]:
    return [row.k for row in rows]


def _against_k(sweep: Sweep, title: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.6), layout="constrained")
    ax = figure.subplots()
    ax.set_xscale("log")
    _ticks(ax, _ks(sweep.rows))
    s = sweep.settings
    figure.suptitle(
        f"{title}: {s.game}, n = {s.n}", x=0.01, ha="left", fontsize=14, fontweight="bold"
    )
    ax.set_xlabel("k, agents polled per step (log scale)")
    return figure, ax


def _ticks(ax: "Axes", ks: Sequence[int]) -> None:
    """Label the ks themselves, leaving out those that would overlap their neighbour."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    shown = [ks[0]]
    for k in ks[1:]:
        if k >= 1.25 * shown[-1]:
            shown.append(k)
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlim(ks[0] / 1.15, ks[-1] * 1.15)


def _legend_below(figure: "Figure", ax: "Axes", title: str | None = None) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # Curves with error bars come last in matplotlib's order; ours are first here.
    own = sorted(range(len(labels)), key=lambda i: labels[i].startswith("published"))
    handles, labels = [handles[i] for i in own], [labels[i] for i in own]
    legend = figure.legend(handles, labels, loc="outside lower left", title=title, alignment="left")
    legend.get_title().set_fontsize(10)
