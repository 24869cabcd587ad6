# SPDX-License-Identifier: MIT
"""`kofn identify`: the finite model of a swarm, counted in a world or read from a run."""

import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.launch import options
from kofn.launch.output import Progress, emit, write_json

if TYPE_CHECKING:
    from kofn.hardware.arena import Layout
    from kofn.launch.scenario import Scenario
    from kofn.sim.kernel import Kernel, Symmetry
    from kofn.sim.recording import Play, WorldConfig

ARENAS = 3
"""Of one arena's 100 options, a quarter of the seeds give a row that is off by more than 0.04."""

KernelOut = Annotated[
    Path, typer.Option("--out", help="Kernel file to write; a .json for people beside it.")
]
Workers = Annotated[int, typer.Option(help="Processes; they do not change the result.")]
Robots = Annotated[
    int | None, typer.Option(help="Robots in the arena; default: of the scenario's largest host.")
]
Arenas = Annotated[int, typer.Option(help="Worlds that are watched, each with robots of its own.")]
Backend = Annotated[str, typer.Option(help="bullet, kinematic or finite; default: the host's.")]
Host = Annotated[str | None, typer.Option("--host", help="Only this host of the run.")]


def identify(
    scenario: Annotated[
        str | None, typer.Argument(help="A scenario file, or the name of one of ours.")
    ] = None,
    from_run: Annotated[
        Path | None, typer.Option(help="A run folder to count moves in, instead of a world.")
    ] = None,
    host: Host = None,
    robots: Robots = None,
    backend: Backend = "",
    option_steps: Annotated[int, typer.Option(help="Options that every robot makes.")] = 100,
    arenas: Arenas = ARENAS,
    workers: Workers = 2,
    symmetry: Annotated[
        str,
        typer.Option(help="ring pools zones that a rotation maps on each other; auto, ring, none."),
    ] = "auto",
    bins: Annotated[
        str, typer.Option(help="Number of bins of the source count, or their first counts.")
    ] = "5",
    policy: Annotated[
        str, typer.Option(help="What chooses the actions: uniform, or a policy file.")
    ] = "uniform",
    by_target: Annotated[
        bool, typer.Option("--by-target", help="Count each target apart.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(help="Another kernel to give the L1 distance of each row to.")
    ] = None,
    seed: options.Seed = 0,
    out: KernelOut = Path("kernel.npz"),
    json: options.Json = False,
) -> None:
    """Identify the finite model of a swarm, with intervals and checks."""
    from kofn.sim.kernel import Kernel

    started = time.monotonic()
    target = out.with_suffix(".npz")
    if not target.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {target.parent}")
    if (scenario is None) == (from_run is None):
        raise InputError("identify takes a scenario, or a run with --from-run, and not both")
    other = None if compare is None else Kernel.load(compare)
    if from_run is not None:
        kernel = _from_run(from_run, host, symmetry, bins, by_target=by_target)
    else:
        from kofn.launch.scenario_file import load_scenario

        assert scenario is not None  # noqa: S101  checked above
        kernel = identify_world(
            load_scenario(scenario),
            robots=robots,
            backend=backend,
            option_steps=option_steps,
            arenas=arenas,
            workers=workers,
            symmetry=symmetry,
            bins=bins,
            policy=policy,
            by_target=by_target,
            seed=seed,
        )
    table = kernel_table(kernel, seed)
    if other is not None:
        table["l1_to_compared"] = _distance(kernel, other)
    kernel.save(target)
    write_json(target.with_suffix(".json"), table)
    result = {"out": str(target), **table, "seconds": round(time.monotonic() - started, 2)}
    emit(result, _story(kernel, result), as_json=json)


def world_config(scenario: "Scenario", robots: int | None, backend: str) -> "WorldConfig":
    """Return the world of a scenario's largest host of simulated robots.

    Raises
    ------
    InputError
        The scenario simulates nothing and `robots` is not given.
    """
    from kofn.launch.preparing import build_game
    from kofn.launch.swarm_host import read_kernel
    from kofn.sim.motion import MotionKernel
    from kofn.sim.recording import WorldConfig

    swarms = [host for host in scenario.hosts if host.kind == "swarm"]
    if robots is None and not swarms:
        raise InputError(f"scenario {scenario.name!r} has no simulated host: give --robots")
    host = max(swarms, key=lambda host: host.robots, default=None)
    world = backend or (host.world if host else "bullet")
    motion = None
    if world == "finite":
        kernel = host.kernel if host else ""
        motion = read_kernel(kernel) if kernel else MotionKernel.of_game(build_game(scenario.game))
    return WorldConfig(
        backend=world,
        robots=robots if robots is not None else host.robots if host else 0,
        period_s=scenario.time.period_s,
        layout=scenario.arena,
        robot=scenario.robot,
        fidelity=host.fidelity if host and world == "bullet" else "default",
        motion=motion,
    )


def parse_bins(text: str, n: int, zones: int) -> tuple[int, ...]:
    """Return the first source counts of the bins that "5" or "4,6,8,11" asks for.

    Raises
    ------
    InputError
        Not whole numbers, or not rising from above 0.
    """
    from kofn.sim.kernel import default_bins

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--bins {text!r} is neither a number nor a list like 4,6,8,11") from None
    if len(numbers) == 1 and "," not in text:
        return default_bins(n, zones, numbers[0])
    starts = numbers if numbers[0] == 0 else [0, *numbers]
    if any(a >= b for a, b in pairwise(starts)):
        raise InputError(f"--bins {text} must rise from above 0")
    return tuple(starts)


def identify_world(
    scenario: "Scenario",
    *,
    robots: int | None = None,
    backend: str = "",
    option_steps: int = 100,
    arenas: int = ARENAS,
    workers: int = 2,
    symmetry: str = "auto",
    bins: str = "5",
    policy: str = "uniform",
    by_target: bool = False,
    seed: int = 0,
) -> "Kernel":
    """Identify the world of a scenario; the parameters are those of the verb."""
    from kofn.launch.preparing import build_game
    from kofn.sim.identify import identify as count

    config = world_config(scenario, robots, backend)
    game = build_game(scenario.game)
    play, name = _play(policy)
    with Progress("identifying", total=arenas * option_steps) as progress:
        return count(
            config,
            game,
            option_steps=option_steps,
            arenas=arenas,
            workers=workers,
            symmetry=_symmetry(symmetry, ring=_turns(config.layout)),
            first=parse_bins(bins, config.robots, game.n_local),
            by_target=by_target,
            play=play,
            data_policy=name,
            seed=seed,
            watch=lambda done, _: progress.update(done, "options"),
        )


def _play(policy: str) -> "tuple[Play | None, str]":
    """What moves the robots while they are watched, and its name in the kernel file."""
    if policy == "uniform":
        return None, policy
    from kofn.controller.core.policy import Policy
    from kofn.sim.recording import Play

    loaded = Policy.load(policy)
    return Play.of_policy(loaded), policy_name(loaded.sha256)


def policy_name(sha256: str) -> str:
    """Name of a policy as what moved the robots of a kernel."""
    return f"policy {sha256}"


def _from_run(
    run: Path, host: str | None, symmetry: str, bins: str, *, by_target: bool
) -> "Kernel":
    from kofn.launch.run_moves import read_moves
    from kofn.sim.identify import config_hash, from_recordings
    from kofn.sim.kernel import KernelInfo

    moves = read_moves(run, host)
    game = moves.policy.game
    first = parse_bins(bins, moves.robots, game.n_local) if moves.crowds_known else (0,)
    about = moves.about
    warnings = []
    if not moves.crowds_known:
        warnings = ["no host logs: moves are those that replies carried, and crowds are unknown"]
    info = KernelInfo(
        n=moves.robots,
        option_steps=sum(recording.steps for recording in moves.recordings),
        transitions=0,
        symmetry=_symmetry(symmetry, ring=False),
        by_target=by_target,
        data_policy=policy_name(moves.policy.sha256),
        source=str(run),
        config_hash=config_hash({"arena": about.get("layout"), "period_s": about["period_s"]}),
        warnings=warnings,
        **about,
    )
    return from_recordings(moves.recordings, game, info, first=first)


def _turns(layout: "Layout") -> bool:
    """Whether a rotation by one zone leaves an arena as it is."""
    return layout.shape == "ring" and not layout.obstacles


def _symmetry(asked: str, *, ring: bool) -> "Symmetry":
    if asked == "auto":
        return "ring" if ring else "none"
    if asked == "ring":
        return "ring"
    if asked == "none":
        return "none"
    raise InputError(f"unknown symmetry {asked!r}; known are auto, ring, none")


def kernel_table(kernel: "Kernel", seed: int = 0) -> dict[str, Any]:
    """Return what `kernel.json` holds: the information, and each plain row with its intervals."""
    from kofn.sim.kernel_checks import bin_names, dispersion, intervals, success_rates

    low, high, radius = intervals(kernel, dispersion(kernel), seed=seed)
    visits = kernel.pooled.sum(axis=(1, 4))
    rows = []
    G, S, A, _ = low.shape
    zones = range(1 if kernel.info.symmetry == "ring" and G == 1 else S)
    for g in range(G):
        for s in zones:
            for a in range(A):
                row: dict[str, Any] = {"zone": s, "action": a, "for": int(kernel.purpose[s, a])}
                if G > 1:
                    row = {"target": g, **row}
                row |= {
                    "visits": int(visits[g, s, a]),
                    "P": _round(kernel.plain[g, s, a]),
                    "low": _round(low[g, s, a]),
                    "high": _round(high[g, s, a]),
                    "l1_radius": round(float(radius[g, s, a]), 4),
                }
                rows.append(row)
    chance = success_rates(kernel)
    return {
        "sha256": kernel.sha256,
        "game": kernel.template.name,
        **msgspec.to_builtins(kernel.info),
        "bins": bin_names(kernel.first),
        "move_success": chance[0],
        "stay_success": chance[1],
        "max_l1_radius": round(float(radius.max()), 4),
        "rows": rows,
    }


def _round(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def _distance(kernel: "Kernel", other: "Kernel") -> dict[str, float]:
    from kofn.sim.kernel import l1_rows

    rows = l1_rows(kernel.plain.mean(axis=0), other.plain.mean(axis=0))
    return {"mean": round(float(rows.mean()), 4), "max": round(float(rows.max()), 4)}


def _story(kernel: "Kernel", result: dict[str, Any]) -> list[str]:
    """What a person wants to know of a kernel."""
    arenas = f" in each of {result['arenas']} arenas" if result["arenas"] > 1 else ""
    lines = [
        f"{result['out']}: {result['transitions']} moves of {result['n']} robots{arenas} in "
        f"{result['option_steps']} options, {result['seconds']:.0f} s",
        f"moves succeed with {_number(result['move_success'])}, stays with "
        f"{_number(result['stay_success'])}; 95 % of a row within L1 {result['max_l1_radius']:.3f}",
    ]
    for check in ("density", "markov"):
        found = result["checks"][check]["success"]
        shown = "  ".join(f"{key} {rate:.2f}" for key, rate in found.items())
        lines.append(f"success of moves by {check}: {shown}")
    if "luck_l1" in result["checks"]:
        shift = result["checks"]["luck_l1"]
        lines.append(f"weights take out the luck of the draw: rows move by at most L1 {shift:.3f}")
    lines += [f"warning: {sentence}" for sentence in kernel.info.warnings]
    if "l1_to_compared" in result:
        distance = result["l1_to_compared"]
        lines.append(f"L1 to the other kernel: mean {distance['mean']}, max row {distance['max']}")
    return lines


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
