# SPDX-License-Identifier: MIT
"""`kofn replay` and `kofn plot`: what a run folder tells, without anything else."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.history import check_run
from kofn.controller.record import RunFolder, read_decisions
from kofn.launch import options
from kofn.launch.output import emit

RunArgument = Annotated[Path, typer.Argument(help="A run folder.")]


def replay(
    run: RunArgument,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute simulated hosts again, bit by bit.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes to verify in.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Hold the record against the rules of the protocol.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Tell a recorded run step by step, also one that was cut off."""
    if verify:
        _verify(run, workers, as_json=json)
        return
    if check:
        _check(run, as_json=json)
        return
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
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    video: Annotated[bool, typer.Option(help="Also draw the film.")] = True,
    film: Annotated[
        Path | None,
        typer.Option(help="Only draw the runs side by side into this .mp4 or .gif."),
    ] = None,
    render: Annotated[
        str | None, typer.Option(help="3d: also a picture in three dimensions, still.png.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Draw the report and the film of run folders again; or several runs in one film."""
    from kofn.launch.filming import compare
    from kofn.launch.fleet import draw

    if render not in {None, "3d"}:
        raise InputError(f"render {render!r} is not one of 3d")
    for run in runs:
        RunFolder(run)
    written = []
    if film is not None:
        written.append(compare(runs, film))
    else:
        for run in runs:
            written += draw(run, video=video)
    if render is not None:
        from kofn.sim.still import write_still

        written += [write_still(run) for run in runs]
    names = [str(path) for path in written]
    where: dict[str, Any] = {"run_dir": str(runs[0])} if len(runs) == 1 else {}
    emit({**where, "runs": [str(run) for run in runs], "written": names}, names, as_json=json)


def _verify(run: Path, workers: int, *, as_json: bool) -> None:
    from kofn.launch import verifying

    RunFolder(run)
    results = verifying.verify(run, workers=workers)
    lines = [
        f"{result.host}: "
        + (
            result.skipped
            or result.difference
            or f"{result.steps} steps and {result.rows} rows are the same"
        )
        for result in results
    ]
    exact = not any(result.difference for result in results)
    table = {"run_dir": str(run), "exact": exact, "hosts": msgspec.to_builtins(results)}
    emit(table, lines, as_json=as_json)
    verifying.check(results)


def _check(run: Path, *, as_json: bool) -> None:
    RunFolder(run)
    wrong = check_run(run)
    steps = len(read_decisions(run))
    lines = wrong or [f"{steps} steps recorded, all by the rules of the protocol"]
    emit({"run_dir": str(run), "steps": steps, "wrong": wrong}, lines, as_json=as_json)
    if wrong:
        raise RunError(f"{run} breaks the protocol {len(wrong)} times, first: {wrong[0]}")


def _shares(run: Path) -> dict[int, float]:
    """Share of all robots in the target zone by step; empty without host logs."""
    from kofn.launch.truth import read_truth, share_in_target

    try:
        truth = read_truth(run)
    except InputError:
        return {}
    return {int(t): float(s) for t, s in zip(truth.t, share_in_target(truth), strict=True)}
