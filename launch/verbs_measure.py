# SPDX-License-Identifier: MIT
"""`kofn sweep` and `kofn bench`: tables and figures of many runs."""

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.launch import options
from kofn.launch.output import emit


def sweep(
    game: options.GameArgument,
    ks: Annotated[str, typer.Option("--ks", help="Poll sizes, as 1,5,10.")] = "1,5,10,20,30,50",
    n: options.FleetOrKernels = None,
    rollouts: Annotated[int, typer.Option(help="Episodes of each mean.")] = 5000,
    horizon: options.Horizon = None,
    grid: options.Grid = None,
    objective: options.ObjectiveOption = "team",
    restarts: options.Restarts = None,
    rounds: options.Rounds = None,
    polish: options.Polish = 0,
    engine: Annotated[
        str, typer.Option(help="local, or ray: one task per k (RAY_ADDRESS names a cluster).")
    ] = "local",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute anew what the folder already holds.")
    ] = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results; default: runs/sweep-GAME.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Learn and play for each of several poll sizes; write a table and figures.

    A sweep that was broken off goes on where it was when the command is given again.
    """
    from kofn.launch import sweep_figures, sweep_results, sweeping
    from kofn.launch.models import fleet_size, load_model
    from kofn.launch.training import Learning

    loaded, kernel = load_model(game)
    n = fleet_size(n, kernel, force=force)
    learning = Learning(
        grid=grid, objective=objective, restarts=restarts, rounds=rounds, polish=polish
    )
    settings = sweeping.settings_of(
        loaded, n=n, horizon=horizon, rollouts=rollouts, seed=seed, learning=learning
    )
    wanted = sweeping.parse_ks(ks, n)
    sweep_figures.check_installed()
    name = re.sub(r"[^\w.-]+", "-", settings.game)
    folder = out or Path("runs") / f"sweep-{name}"
    done = sweeping.sweep(loaded, wanted, settings, folder, engine_name=engine, fresh=fresh)
    figures = sweep_figures.draw(done, folder)
    rows: list[dict[str, Any]] = [msgspec.to_builtins(row) for row in done.rows]
    for row in rows:
        for mode in ("memoryless", "belief"):
            del row[mode]["episode"]  # long; results.json has it
        row["published"] = done.published.get(row["k"])
    result = {
        "out": str(folder),
        "settings": msgspec.to_builtins(settings),
        "figures": [str(path) for path in figures],
        "rows": rows,
    }
    files = ", ".join(
        [sweep_results.RESULTS, sweep_results.TABLE, *(path.name for path in figures)]
    )
    lines = [*sweep_results.markdown(done).splitlines(), f"{folder}: {files}"]
    emit(result, lines, as_json=json)


def bench(
    suite: Annotated[str, typer.Argument(help="What to measure: core, sim, link, bias.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes only.")] = False,
    broker: Annotated[str, typer.Option(help="link: auto, mosquitto or amqtt.")] = "auto",
    soak: Annotated[
        float | None,
        typer.Option(help="link: hold a period of 50 ms for so many seconds, watch memory."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="link: only this case (ROBOTS/HOSTS or ROBOTS/HOSTS/per-robot); repeat."),
    ] = None,
    out: Annotated[Path, typer.Option(help="link --soak: folder for figure and series.")] = Path(
        "runs/soak"
    ),
    json: options.Json = False,
) -> None:
    """Measure speed (core, sim), the wire (link), or what missing answers do (bias)."""
    from kofn.launch import benching

    if suite == "link":
        _bench_link(case or [], quick=quick, broker=broker, soak_s=soak, out=out, as_json=json)
        return
    for option, given in (("--soak", soak is not None), ("--case", bool(case))):
        if given:
            raise InputError(f"{option} belongs to the suite link, not to {suite}")
    if suite == "bias":
        scores = benching.bias(steps=benching.BIAS_STEPS_QUICK if quick else benching.BIAS_STEPS)
        result = {"suite": suite, "rows": [score._asdict() for score in scores]}
        emit(result, benching.bias_table(scores), as_json=json)
        return
    if suite == "sim":
        speeds = benching.sim(quick=quick)
        result = {
            "suite": suite,
            "machine": benching.machine(),
            "rows": [msgspec.to_builtins(speed) for speed in speeds],
        }
        emit(result, [benching.machine(), *benching.sim_table(speeds)], as_json=json)
        return
    rows = benching.run(suite, quick=quick)
    machine = benching.machine()
    result = {"suite": suite, "machine": machine, "rows": msgspec.to_builtins(rows)}
    emit(result, [machine, *benching.table(rows)], as_json=json)


def _bench_link(
    names: list[str], *, quick: bool, broker: str, soak_s: float | None, out: Path, as_json: bool
) -> None:
    """Measure the wire."""
    from kofn.launch import benching, link_bench, link_soak
    from kofn.launch.output import Progress

    machine = benching.machine()
    if soak_s is not None:
        if not 2 <= soak_s <= 1e6:
            raise InputError(f"--soak {soak_s:g} must lie in 2..1000000 s")
        n, k, hosts = (200, 20, 2) if quick else (10_000, 100, 10)
        with Progress("bench link --soak", total=round(soak_s / 0.05)) as progress:
            report = link_soak.soak(
                soak_s, n=n, k=k, hosts=hosts, broker=broker, out=out, progress=progress.update
            )
        table = msgspec.to_builtins(report)
        lines = [machine, *(f"{name:24s} {value}" for name, value in table.items())]
        emit({"suite": "link", "machine": machine, "soak": table}, lines, as_json=as_json)
        if report.failed:
            raise RunError(f"the soak failed: {report.failed}")
        return
    cases = link_bench.select(names, quick=quick)
    with Progress("bench link", total=len(cases)) as progress:
        rows = link_bench.measure(cases, broker=broker, progress=progress.update)
    result = {"suite": "link", "machine": machine, "rows": msgspec.to_builtins(rows)}
    emit(result, [machine, *link_bench.table(rows)], as_json=as_json)
    if failed := [case.name for case, row in zip(cases, rows, strict=True) if row.failed]:
        raise RunError(f"{len(failed)} of {len(rows)} cases failed: {', '.join(failed)}")
