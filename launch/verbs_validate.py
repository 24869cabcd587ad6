# SPDX-License-Identifier: MIT
"""`kofn validate`: how far the finite models of a swarm are from its physics, under one policy."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.launch import options
from kofn.launch.output import Progress, emit, write_json
from kofn.launch.verbs_identify import Backend, Robots, Workers, policy_name, world_config

if TYPE_CHECKING:
    from kofn.sim.kernel import Kernel
    from kofn.sim.recording import WorldConfig
    from kofn.sim.validate import Figures

Z95 = 1.96
"""Standard errors on each side of a 95 % interval."""


def validate(
    policy: Annotated[Path, typer.Argument(help="A policy file.")],
    model: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL|SCENARIO",
            help="A kernel file, which names its world; or a scenario, identified first.",
        ),
    ],
    kernel: Annotated[
        Path | None, typer.Option(help="With a scenario: its kernel, instead of identifying one.")
    ] = None,
    targets: Annotated[
        str,
        typer.Option(help="schedule shows the motion alone; policy has its dispatcher poll k."),
    ] = "schedule",
    k: Annotated[
        int | None, typer.Option("--k", help="Robots polled, with --targets policy.")
    ] = None,
    periods: Annotated[int, typer.Option(help="Target periods in physics.")] = 40,
    hold: Annotated[int, typer.Option(help="Options between two scheduled targets.")] = 6,
    max_gap: Annotated[
        float | None,
        typer.Option(help="Exit with 1 when the binned model is further from physics than this."),
    ] = None,
    robots: Robots = None,
    backend: Backend = "",
    workers: Workers = 2,
    force: Annotated[
        bool, typer.Option("--force", help="Accept a kernel of another fleet size or period.")
    ] = False,
    seed: options.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="File for the table, as JSON.")] = None,
    json: options.Json = False,
) -> None:
    """Play a policy in the finite models and in physics; print the gap table.

    A scenario is identified first, in worlds of its own that this policy moves.
    """
    from kofn.controller.core.policy import Policy
    from kofn.sim.validate import validate as compare

    started = time.monotonic()
    if targets not in {"schedule", "policy"}:
        raise InputError(f"unknown targets {targets!r}; known are schedule, policy")
    if max_gap is not None and not 0 <= max_gap <= 1:
        raise InputError(f"--max-gap {max_gap:g} must lie in 0..1")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    loaded = Policy.load(policy)
    found, world = _model(model, kernel, policy, robots, backend, workers, seed)
    polled = None
    if targets == "policy":
        learned = loaded.provenance.get("k")
        polled = k if k is not None else learned if isinstance(learned, int) else 5
    with Progress("validating in physics", total=periods * hold) as progress:
        result = compare(
            loaded,
            found,
            world,
            k=polled,
            periods=periods,
            hold=hold,
            seed=seed,
            workers=workers,
            force=force,
            watch=lambda done, _: progress.update(done, "options"),
        )
    gap = abs(result.row("binned").gap)
    table: dict[str, Any] = {
        "policy_sha256": loaded.sha256,
        "kernel_sha256": found.sha256,
        "data_policy": found.info.data_policy,
        "notes": notes_on(result.row("binned"), found, loaded.sha256, world.backend),
        "robots": world.robots,
        "period_s": world.period_s,
        "targets": targets,
        "k": polled,
        "rows": [_rounded(row) for row in result.rows],
        "max_gap": max_gap,
        "passed": None if max_gap is None else gap <= max_gap,
        "forced": force,
        "seconds": round(time.monotonic() - started, 2),
    }
    if out is not None:
        write_json(out, table)
    emit(table, _story(result.rows, table), as_json=json)
    if table["passed"] is False:
        raise typer.Exit(1)


def _model(
    model: str,
    kernel: Path | None,
    policy: Path,
    robots: int | None,
    backend: str,
    workers: int,
    seed: int,
) -> "tuple[Kernel, WorldConfig]":
    """Return a kernel and its world, from a kernel file or from a scenario and a policy."""
    from kofn.launch.scenario_file import load_scenario
    from kofn.launch.verbs_identify import identify_world
    from kofn.sim.identify import world_of
    from kofn.sim.kernel import Kernel

    if model.endswith(".npz"):
        if kernel is not None:
            raise InputError("--kernel goes with a scenario: the argument is a kernel already")
        found = Kernel.load(Path(model))
        return found, world_of(found, backend)
    scenario = load_scenario(model)
    if kernel is None:
        found = identify_world(
            scenario,
            robots=robots,
            backend=backend,
            workers=workers,
            policy=str(policy),
            seed=seed,
        )
        return found, world_config(scenario, robots, backend)
    return Kernel.load(kernel), world_config(scenario, robots, backend)


def notes_on(binned: "Figures", kernel: "Kernel", policy_sha256: str, backend: str) -> list[str]:
    """Return sentences on why a kernel may be off, where its binned model is."""
    from kofn.sim.bullet import PHYSICS

    info = kernel.info
    notes: list[str] = []
    if abs(binned.gap) <= Z95 * binned.gap_stderr:
        return notes
    if info.data_policy != policy_name(policy_sha256):
        notes.append(
            "the moves of this kernel were not made by this policy, which makes other crowds: "
            "kofn identify --policy counts what happens in those"
        )
    counted = info.versions.get("physics", "1")
    if info.backend == backend == "bullet" and counted != PHYSICS:
        notes.append(
            f"this kernel was counted in physics {counted} of the bullet world, which is now "
            f"{PHYSICS}: identify it again"
        )
    return notes


def _rounded(row: "Figures") -> dict[str, Any]:
    table: dict[str, Any] = msgspec.to_builtins(row)
    return {
        key: round(value, 4) if isinstance(value, float) else value for key, value in table.items()
    }


def _story(rows: "tuple[Figures, ...]", table: dict[str, Any]) -> list[str]:
    """The gap table for people."""
    lines = [
        f"{table['robots']} robots, targets by {table['targets']}, {rows[0].periods} target "
        f"periods in physics, {table['seconds']:.0f} s",
        "model    in target  +-      gap      +-      P(stay)  steps after a change of target",
    ]
    for row in rows:
        gap = "" if row.name == "physics" else f"{row.gap:+.3f}"
        gap_error = "" if row.name == "physics" else f"{Z95 * row.gap_stderr:.3f}"
        stay = "-" if row.stay is None else f"{row.stay:.3f}"
        curve = " ".join("-" if x is None else f"{x:.2f}" for x in row.curve)
        lines.append(
            f"{row.name:8s} {row.share:9.3f}  {Z95 * row.stderr:.3f}  {gap:7s}  {gap_error:6s}  "
            f"{stay:7s}  {curve}"
        )
    lines += table["notes"]
    if table["passed"] is not None:
        verdict = "within" if table["passed"] else "beyond"
        lines.append(f"the binned model is {verdict} the allowed gap of {table['max_gap']:g}")
    return lines
