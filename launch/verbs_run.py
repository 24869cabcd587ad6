# SPDX-License-Identifier: MIT
"""`kofn replay` and `kofn plot`: what a run folder tells, without anything else."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.controller.record import RunFolder, read_decisions
from kofn.launch import options
from kofn.launch.output import emit

RunArgument = Annotated[Path, typer.Argument(help="A run folder.")]


def replay(run: RunArgument, json: options.Json = False) -> None:
    """Tell a recorded run step by step, also one that was cut off."""
    folder = RunFolder(run)
    decisions = read_decisions(run)
    summary = folder.read_summary()
    shares = _shares(run)
    steps: list[dict[str, Any]] = [
        {**msgspec.to_builtins(decision), "share_in_target": shares.get(decision.t)}
        for decision in decisions
    ]
    completed = bool(summary and summary.get("completed"))
    lines = ["step  target  next  polled per zone  share in target  poll ms"]
    for step in steps:
        share = step["share_in_target"]
        counts = " ".join(str(count) for count in step["counts"])
        lines.append(
            f"{step['t']:4d}  {step['g']:6d}  {step['u']:4d}  {counts:15s}  "
            + (f"{share:15.2f}" if share is not None else f"{'-':>15s}")
            + f"  {step['latency_ms']:7.1f}"
        )
    lines.append(
        f"{len(steps)} steps recorded; the run " + ("is whole" if completed else "was cut off")
    )
    emit({"run_dir": str(run), "completed": completed, "steps": steps}, lines, as_json=json)


def plot(
    run: RunArgument,
    video: Annotated[bool, typer.Option(help="Also draw the film.")] = True,
    json: options.Json = False,
) -> None:
    """Draw the report and the film of a run folder again."""
    from kofn.launch.fleet import draw

    RunFolder(run)
    written = [str(path) for path in draw(run, video=video)]
    emit({"run_dir": str(run), "written": written}, written, as_json=json)


def _shares(run: Path) -> dict[int, float]:
    """Share of all robots in the target zone by step; empty without host logs."""
    from kofn.launch.truth import read_truth, share_in_target

    try:
        truth = read_truth(run)
    except InputError:
        return {}
    return {int(t): float(s) for t, s in zip(truth.t, share_in_target(truth), strict=True)}
