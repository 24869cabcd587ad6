# SPDX-License-Identifier: MIT
"""`kofn fed study`: a pre-registered comparison of selectors on the event clock."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.launch import options  # noqa: TC001 - typer reads the annotations at run time
from kofn.launch.output import Progress, emit, note


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; default: runs/study-NAME.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one for each core.")] = 0,
    first: Annotated[
        int | None, typer.Option(min=1, help="Play only so many of the seeds; go on later.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Play nothing; report on what is there.")
    ] = False,
    figures: Annotated[bool, typer.Option(help="Draw figures (takes matplotlib).")] = True,
    json: options.Json = False,
) -> None:
    """Play a study file, seed by seed, and report; a study that was stopped goes on."""
    from kofn.fed.study import as_json, cells, load_study, read_results, run_study
    from kofn.fed.study_report import Table, markdown

    loaded, study_hash = load_study(file)
    folder = out or Path("runs") / f"study-{loaded.name}"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is not a folder")
    began = time.monotonic()
    wanted = cells(loaded)
    if first is not None:
        seeds = set(loaded.seeds[:first])
        wanted = [cell for cell in wanted if cell.seed in seeds]
    if not json:
        note(f"study {loaded.name}, SHA-256 {study_hash}: {len(wanted)} runs")
    if report_only:
        done = read_results(folder / "runs.jsonl", study_hash)
        results = [done[cell.key] for cell in wanted if cell.key in done]
        if not results:
            raise InputError(f"{folder} holds no run of this study")
    else:
        with Progress("runs", len(wanted)) as bar:
            results = run_study(
                loaded, study_hash, folder, workers=workers, only=wanted, progress=bar.report
            )
    table = Table(loaded, results)
    rows, claims = table.rows(), table.claims()
    (folder / "study.json").write_text(as_json(loaded))
    (folder / "report.md").write_text(markdown(loaded, study_hash, table))
    drawn: list[str] = []
    if figures:
        from kofn.fed.study_figures import draw

        drawn = [str(path) for path in draw(loaded, table, folder)]
    result: dict[str, Any] = {
        "study": loaded.name,
        "sha256": study_hash,
        "out": str(folder),
        "runs": len(results),
        "runs_in_study": len(cells(loaded)),
        "report": str(folder / "report.md"),
        "figures": drawn,
        "rows": rows,
        "claims": claims,
        "wall_s": round(time.monotonic() - began, 2),
    }
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    lines = [f"{loaded.name}: {len(results)} of {len(cells(loaded))} runs, SHA-256 {study_hash}"]
    for how in loaded.partitions:
        lines.append(f"{how}, median simulated seconds to {_targets(loaded.targets)}:")
        for row in (row for row in rows if row["partition"] == how):
            times = "  ".join(f"{_shown(t['time_s'][1]):>7s}" for t in row["targets"])
            k = "" if row["k"] is None else f"k={row['k']}"
            end = row["accuracy_end"][1]
            lines.append(f"  {row['selector']:24s}{k:8s}{times}  accuracy {end:.3f}")
    lines += [
        f"{'holds' if c['holds'] else 'DOES NOT HOLD'}: {c['partition']}, {c['claim']}: "
        f"{c['shown']}"
        for c in claims
    ]
    lines.append(f"report and figures: {folder}")
    emit(result, lines, as_json=json)


def _targets(targets: list[float]) -> str:
    return " and ".join(f"{target:g}" for target in targets)


def _shown(value: float | None) -> str:
    return "never" if value is None or not math.isfinite(value) else f"{value:.0f}"
