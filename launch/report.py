# SPDX-License-Identifier: MIT
"""`report.png`: one picture that tells a stranger what happened in a run.

Drawn from the run folder alone, whole or cut off. Where hosts kept logs the picture shows where all
robots really were; otherwise what the controller believed, and says so. A control run (random
dispatcher and robots) is drawn beside it where the folder holds one in `control/`. A fleet of
several kinds of hosts gets a table of who took part (`participation`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.record import RunFolder, read_decisions
from kofn.controller.results import Decision
from kofn.launch.truth import LAST_STEPS, Truth, read_truth, rewards, share_in_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MANY_STEPS = 60
LEARNED, RANDOM, TARGET, GOOD, BAD = "#1f5fa8", "#b0762b", "#d62728", "#2a8f4c", "#d62728"
ANSWERS = (
    ("fresh", "#2a8f4c"),
    ("topped up", "#8fcf9f"),
    ("remembered", "#e3b53c"),
    ("padded", "#b98bc9"),
    ("stale", "#8d6e63"),
    ("unavailable", "#9aa0a6"),
    ("missing", "#d62728"),
)
STYLE: dict[Any, Any] = {
    "font.size": 13,
    "axes.titlesize": 15,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 12,
    "legend.frameon": False,
}


class _Settings(msgspec.Struct, frozen=True):
    """What the picture says of the controller's settings, as far as they were written down."""

    name: str | None = None
    k: int | None = None
    steps: int | None = None
    seed: int | None = None
    dispatcher: str = "policy"


@dataclass(frozen=True, slots=True)
class _Run:
    """What is drawn of one run; `truth` and `game` may be lacking."""

    decisions: list[Decision]
    truth: Truth | None
    policy: Policy | None
    figures: dict[str, Any]
    settings: _Settings

    @property
    def t(self) -> IntArray:
        return np.array([decision.t for decision in self.decisions], dtype=np.int64)

    def occupancy(self) -> tuple[IntArray, FloatArray]:
        """Return steps (T,) and share of robots per zone (T, n_zones): logged, else believed."""
        zones = len(self.decisions[0].belief)
        if self.truth is not None:
            zones = max(zones, int(self.truth.zones.max()) + 1)
            counts = np.stack(
                [(self.truth.w * (self.truth.zones == j)).sum(axis=1) for j in range(zones)], axis=1
            ).astype(float)
            steps = self.truth.t
        else:
            counts, steps = np.array([decision.belief for decision in self.decisions]), self.t
        total = counts.sum(axis=1, keepdims=True)
        return steps, np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)

    def share(self) -> tuple[IntArray, FloatArray]:
        """Return steps (T,) and share of robots in the target zone (T,): of all, else of polled."""
        if self.truth is not None:
            return self.truth.t, share_in_target(self.truth)
        shares = [
            decision.counts[decision.g] / sum(decision.counts)
            if decision.g < len(decision.counts) and any(decision.counts)
            else np.nan
            for decision in self.decisions
        ]
        return self.t, np.array(shares)

    def reward(self) -> tuple[IntArray, FloatArray] | None:
        """Return steps and reward per step; None without host logs or the game."""
        if self.truth is None or self.policy is None:
            return None
        return self.truth.t, rewards(self.truth, self.policy.game)


def write_report(folder: Path, control: Path | None = None) -> Path:
    """Draw `report.png` into a run folder and return its path.

    Parameters
    ----------
    folder
        A run folder.
    control
        Folder of the control run; by default `<folder>/control` where there is one.

    Raises
    ------
    InputError
        Not a run folder, no step recorded in it, or matplotlib is not installed.
    RunError
        The picture cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise InputError("drawing a report takes matplotlib: pip install 'kofn[report]'") from None
    run = _load(folder)
    if not run.decisions:
        raise InputError(f"{folder} holds no step: there is nothing to draw")
    other = control or folder / "control"
    random = _load(other) if (other / "run.mcap").exists() else None
    with mpl.rc_context(STYLE):
        kinds = run.figures.get("kinds") or {}
        rows: list[Any] = [
            ["map", "map"],
            ["choice", "choice"],
            ["share", "reward"],
            ["answers", "latency"],
        ]
        heights = [1.5, 0.9, 1.1, 1.0]
        if kinds:
            rows.append(["kinds", "kinds"])
            heights.append(0.1 * (len(kinds) + 2))
        figure = Figure(figsize=(15, 4 * sum(heights)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.14)  # type: ignore[union-attr, call-arg]
        axes = figure.subplot_mosaic(rows, height_ratios=heights)
        figure.suptitle(_headline(folder, run), fontsize=17, x=0.01, ha="left")
        _draw_map(axes["map"], run)
        _draw_choice(axes["choice"], run)
        _draw_curves(axes["share"], axes["reward"], run, random)
        _draw_answers(axes["answers"], run)
        _draw_latency(axes["latency"], run)
        if kinds:
            _draw_kinds(axes.pop("kinds"), kinds)
        last = max(run.t[-1], run.occupancy()[0][-1])
        for ax in axes.values():
            ax.set_xlim(-0.5, last + 0.5)
            ax.set_xlabel("step")
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        path = folder / "report.png"
        try:
            figure.savefig(path, dpi=100)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def _load(folder: Path) -> _Run:
    run = RunFolder(folder)
    decisions = read_decisions(folder)
    try:
        truth = read_truth(folder)
    except InputError:
        truth = None  # hosts of physical fleets keep their logs to themselves
    policy = Policy.load(run.policy) if run.policy.exists() else None
    try:
        settings = msgspec.convert(run.read_config().get("controller", {}), _Settings)
    except msgspec.ValidationError as error:
        raise InputError(f"{folder / 'config.toml'}, table [controller]: {error}") from error
    return _Run(decisions, truth, policy, run.read_summary() or {}, settings)


def _headline(folder: Path, run: _Run) -> str:
    """Three lines: what was steered how, how the run ended, and what a step is."""
    steps = len(run.decisions)
    k = run.settings.k or max(len(decision.asked) for decision in run.decisions)
    frame = max(decision.frame for decision in run.decisions)
    robots = run.figures.get("robots", frame)
    name = run.settings.name or folder.name
    wanted = run.settings.steps or steps
    if run.figures.get("completed"):
        end = f"all {steps} steps done"
    else:
        end = f"cut off after {steps} of {wanted} steps"
    seed = "unknown" if run.settings.seed is None else run.settings.seed
    return (
        f"Run \u201c{name}\u201d: {robots} robots steered by polling {k} of them per step\n"
        f"{end}, seed {seed}, {folder.name}\n"
        "Each step the dispatcher proposes the next target zone; chance has a say, so targets jump."
    )


def _draw_map(ax: "Axes", run: _Run) -> None:
    """Draw the heat map of robots over zones and steps, with the target on top."""
    steps, shares = run.occupancy()
    zones = shares.shape[1]
    first, last = int(steps[0]), int(steps[-1])
    grid = np.full((zones, last - first + 1), np.nan)
    grid[:, steps - first] = shares.T
    image = ax.imshow(
        grid,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(first - 0.5, last + 0.5, -0.5, zones - 0.5),
    )
    targets = _targets(run)
    if len(targets) <= MANY_STEPS:
        for t, g in targets.items():
            ax.add_patch(_outline(t, g, labelled=t == int(run.t[0])))
    else:  # outlines would hide what they frame
        label = "target zone of the step"
        ax.plot(list(targets), list(targets.values()), "o", ms=4, color=TARGET, label=label)
    source = "host logs" if run.truth is not None else "controller's belief; no host logs"
    ax.set_title(f"Where the robots were ({source})")
    ax.set_ylabel("zone")
    ax.set_yticks(range(zones))
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.01, 0.0, 0.015, 1.0)))
    bar.set_label("share of robots")
    _legend_below(ax)


def _outline(t: int, g: int, *, labelled: bool) -> Any:
    from matplotlib.patches import Rectangle

    label = "target zone of the step" if labelled else None
    return Rectangle((t - 0.46, g - 0.46), 0.92, 0.92, fill=False, ec=TARGET, lw=2, label=label)


def _targets(run: _Run) -> dict[int, int]:
    """Step -> target, from the decisions and, for a last undecided step, from the logs."""
    targets = {decision.t: decision.g for decision in run.decisions}
    if run.truth is not None:
        targets = dict(zip(run.truth.t.tolist(), run.truth.g.tolist(), strict=True)) | targets
    return targets


def _draw_choice(ax: "Axes", run: _Run) -> None:
    """Draw the dispatcher's choice against the zone that held most robots."""
    steps, shares = run.occupancy()
    zones = shares.shape[1]
    chosen = np.array([decision.u for decision in run.decisions])
    actions = run.policy.game.n_global_actions if run.policy else int(chosen.max()) + 1
    ax.set_ylabel("zone")
    ax.set_yticks(range(max(zones, actions)))
    ax.set_ylim(-0.6, max(zones, actions) - 0.4)
    if actions != zones:
        ax.plot(run.t, chosen, "o", color=LEARNED, label="dispatcher's choice u")
        ax.set_title("What the dispatcher chose")
        ax.set_ylabel("global action")
    else:
        crowd = "zone with most robots" + ("" if run.truth is not None else " (believed)")
        fullest = shares == shares.max(axis=1, keepdims=True)
        index = {int(t): row for row, t in enumerate(steps)}
        steps_chosen = zip(run.t.tolist(), chosen.tolist(), strict=True)
        hit = np.array([t in index and bool(fullest[index[t], u]) for t, u in steps_chosen])
        for zone in range(zones):
            rows = fullest[:, zone]
            label = crowd if zone == int(np.argmax(fullest.any(axis=0))) else None
            ax.plot(
                steps[rows], np.full(rows.sum(), zone), "s", ms=13, color="#c9d3df", label=label
            )
        ax.plot(run.t[hit], chosen[hit], "o", ms=7, color=GOOD, label="choice: the same zone")
        ax.plot(run.t[~hit], chosen[~hit], "X", ms=8, color=BAD, label="choice: another zone")
        ax.set_title(
            "Zone that the dispatcher chose as next target: where most robots are, in "
            f"{hit.mean():.0%} of the steps"
        )
    _legend_below(ax)


def _draw_curves(share_ax: "Axes", reward_ax: "Axes", run: _Run, random: _Run | None) -> None:
    """Draw share in the target zone and reward, with the control run's."""
    who = "all robots" if run.truth is not None else "polled robots; no host logs"
    share_ax.set_title("Robots in the target zone")
    share_ax.set_ylabel(f"share of {who}")
    share_ax.set_ylim(0, 1.02)
    reward_ax.set_title("Reward per step")
    reward_ax.set_ylabel("reward (robots' mean + dispatcher's)", fontsize=12)
    main = "random" if run.settings.dispatcher == "random" else "learned policy"
    curves = [(run, main, LEARNED)]
    if random is not None and random.decisions:
        curves.append((random, "control: random", RANDOM))
    for each, name, colour in curves:
        steps, shares = each.share()
        end = shares[-LAST_STEPS:]
        end = end[np.isfinite(end)]
        tail = f" (last {LAST_STEPS} steps: {end.mean():.2f})" if end.size else ""
        share_ax.plot(steps, shares, "-o", ms=4, lw=2, color=colour, label=name + tail)
        known = each.reward()
        if known is not None:
            mean = known[1][np.isfinite(known[1])]
            label = f"{name} (mean {mean.mean():.2f})" if mean.size else name
            reward_ax.plot(*known, "-o", ms=4, lw=2, color=colour, label=label)
    share_ax.axhline(
        1 / len(run.decisions[0].belief), color="#666666", ls=":", lw=1.5, label="spread evenly"
    )
    _legend_below(share_ax, columns=1)
    if reward_ax.has_data():
        reward_ax.set_ylim(bottom=min(0.0, reward_ax.get_ylim()[0]))
        _legend_below(reward_ax, columns=1)
    else:
        reward_ax.set_yticks([])
        reward_ax.text(
            0.5, 0.5, "unknown: no host logs", ha="center", transform=reward_ax.transAxes
        )


def _legend_below(ax: "Axes", columns: int = 3) -> None:
    """Put the legend under the axis label, so that it hides nothing."""
    from matplotlib.transforms import ScaledTranslation

    below = ScaledTranslation(0, -0.55, ax.figure.dpi_scale_trans)  # inches
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=ax.transAxes + below,
        borderaxespad=0.0,
        ncols=columns,
    )


def _draw_answers(ax: "Axes", run: _Run) -> None:
    """Draw what came back of each poll round, stacked, against k."""
    parts = np.array(
        [
            (*decision.m, decision.stale, decision.unavailable, decision.missing)
            for decision in run.decisions
        ]
    )
    base = np.zeros(len(parts))
    for (name, colour), column in zip(ANSWERS, parts.T, strict=True):
        if column.any() or name in {"fresh", "missing"}:
            ax.bar(run.t, column, 0.85, base, color=colour, label=f"{name} ({column.sum()})")
            base += column
    k = run.settings.k or int(base.max())
    ax.axhline(k, color="#222222", lw=1.5, ls="--", label=f"poll size k = {k}")
    ax.set_ylim(0, max(k, base.max()) * 1.12)
    ax.set_title("Answers to the poll of each step")
    ax.set_ylabel("robots")
    _legend_below(ax)


def _draw_latency(ax: "Axes", run: _Run) -> None:
    """Draw the wall time of each poll round."""
    latency = np.array([decision.latency_ms for decision in run.decisions])
    p50, p99 = np.percentile(latency, [50, 99])
    ax.plot(run.t, latency, "-o", ms=4, lw=1.5, color="#5b4a8a", label="one poll round")
    ax.axhline(p50, color="#222222", ls="--", lw=1.5, label=f"median {p50:.1f} ms")
    ax.axhline(p99, color="#222222", ls=":", lw=1.5, label=f"99 % within {p99:.1f} ms")
    ax.set_ylim(0, max(1.0, latency.max() * 1.15))
    ax.set_title("Time from the first poll to the last answer")
    ax.set_ylabel("ms of wall time")
    _legend_below(ax)


def _draw_kinds(ax: "Axes", kinds: dict[str, dict[str, Any]]) -> None:
    """Write the table of who took part, one row a kind of host."""
    from matplotlib.transforms import Bbox

    head = (
        *("kind of host", "hosts", "robots", "steps taken", "available", "changed zone"),
        *("polls answered", "events"),
    )
    rows = [
        [
            kind,
            str(row["hosts"]),
            str(row["robots"]),
            f"{row['steps_taken']:.0%}",
            f"{row['available']:.0%}",
            f"{row['changed_zone']} of {row['robots']}",
            f"{row['answered']} of {row['asked']}",
            ", ".join(f"{code} {n}" for code, n in sorted(row["events"].items())) or "none",
        ]
        for kind, row in kinds.items()
    ]
    ax.set_axis_off()
    ax.set_title("Who took part, by kind of host")
    widths = (0.15, 0.06, 0.07, 0.1, 0.09, 0.12, 0.13, 0.28)
    whole = Bbox.from_bounds(0, 0, 1, 1)
    table = ax.table(rows, colLabels=head, colWidths=widths, cellLoc="left", bbox=whole)
    table.auto_set_font_size(value=False)
    table.set_fontsize(12)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#d0d5dc")
        cell.set_text_props(weight="bold" if row == 0 else "normal")
