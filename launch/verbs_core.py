# SPDX-License-Identifier: MIT
"""`kofn train`, `evaluate` and `certify`: policies without a fleet."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kofn.controller.core.errors import InputError
from kofn.launch import options
from kofn.launch.output import emit

PolicyArgument = Annotated[Path, typer.Argument(help="A policy file.")]


def train(
    game: options.GameArgument,
    k: Annotated[int, typer.Option("--k", help="Agents polled per step.")] = 10,
    grid: options.Grid = None,
    n: options.FleetOrKernels = None,
    objective: options.ObjectiveOption = "team",
    restarts: options.Restarts = None,
    rounds: options.Rounds = None,
    polish: options.Polish = 0,
    start: Annotated[
        list[Path] | None,
        typer.Option(help="Policy file to start from too, as of a neighbouring k; repeatable."),
    ] = None,
    kernel: options.KernelKind = None,
    force: options.Force = False,
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option(help="Policy file to write.")] = Path("policy.npz"),
    json: options.Json = False,
) -> None:
    """Learn a policy for a game, or for an identified kernel, by ALTERNATING-MARL."""
    from kofn.controller.core import Policy
    from kofn.launch.models import by_crowd, fleet_size, load_model
    from kofn.launch.training import Learning, train_crowd
    from kofn.launch.training import train as train_game

    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    learning = Learning(
        grid=grid, objective=objective, restarts=restarts, rounds=rounds, polish=polish
    )
    started = time.monotonic()
    loaded, counted = load_model(game)
    n = fleet_size(n, counted, force=force)
    crowd = by_crowd(kernel, counted)
    starts = {str(path): Policy.load(path) for path in start or ()}
    if crowd and counted is not None:
        found = train_crowd(counted, k=k, n=n, learning=learning, starts=starts, seed=seed)
        policy, crowd = found.policy, not found.exact
    else:
        solution = train_game(loaded, k=k, n=n, learning=learning, starts=starts, seed=seed)
        policy = solution.policy
    learned = policy.provenance
    if counted is not None:
        learned |= {"kernel_sha256": counted.sha256, "kernel_n": counted.info.n}
        learned["motion"] = "binned" if crowd else "plain"
    policy.save(out)
    took_s = time.monotonic() - started
    result = {
        "out": str(out),
        "game": loaded.name,
        "sha256": policy.sha256,
        "k": k,
        "n": n,
        "grid": policy.grid,
        "memory": policy.memory,
        "start": learned["start"],
        "mean_memoryless": learned["memoryless"],
        "mean_belief": learned["belief"],
        "polish_gain": learned.get("polish_gain"),
        "pairs_judged": learned["pairs_judged"],
        "kernel_sha256": learned.get("kernel_sha256"),
        "motion": learned.get("motion", "plain"),
        "backend": "crowd rollouts" if crowd else "exact",
        "fixed_point": learned.get("fixed_point"),
        "sampled_wins": learned.get("sampled_wins"),
        "seconds": round(took_s, 2),
    }
    lines = [
        f"{out}: {loaded.name}, k={k}, grid {policy.grid}, {took_s:.1f} s",
        f"deployed return for n={n}: {learned['belief']:.2f} with memory, "
        f"{learned['memoryless']:.2f} without (in training; kofn evaluate judges afresh)",
    ]
    if crowd:
        lines.append(
            "learned on the binned kernel: judged by crowd-dependent rollouts, proposed by the "
            "plain kernel of the crowds met and by sampled G-LEARN; the exact bounds of kofn "
            "certify do not hold there"
        )
    emit(result, lines, as_json=json)


def certify(
    policy: PolicyArgument,
    n: options.FleetSize = 1000,
    k: Annotated[
        int | None, typer.Option("--k", help="Agents polled; default: as learned.")
    ] = None,
    horizon: options.Horizon = None,
    budget: Annotated[float, typer.Option(help="Seconds to spend, about.")] = 30.0,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Bound how far a policy is from the best there can be in its game."""
    from kofn.controller.core import Policy, certify

    if not 0 < budget < 1e6:
        raise InputError(f"--budget {budget:g} must lie above 0 and below 1000000 s")
    loaded = Policy.load(policy)
    found = certify(loaded.game, loaded, n=n, k=k, horizon=horizon, budget_s=budget, seed=seed)
    low, high = found.value_ci
    lines = [
        f"{loaded.game.name}, n={found.n}, k={found.k}, {found.seconds:.0f} s",
        f"deployed return {found.value:.2f} (95 %: {low:.2f} to {high:.2f})",
        f"no dispatcher earns more than {found.upper_global:.2f} with these local agents: "
        f"gap {100 * found.global_gap_relative:.2f} %",
        f"no policy at all earns more than {found.upper_team:.2f}: "
        f"gap {100 * found.welfare_gap_relative:.2f} %",
        *(f"  {bound.kind:6s} K={bound.K:3d}  {bound.upper:.3f}" for bound in found.bounds),
    ]
    binned = loaded.provenance.get("motion") == "binned"
    if binned:
        lines.append(
            "this holds for the plain kernel of the crowds that the policy met; agents that move "
            "by their crowd, as it was learned for, may earn more or less"
        )
    emit(found.to_dict() | {"covers": "plain" if binned else "game"}, lines, as_json=json)


def evaluate(
    policy: PolicyArgument,
    n: options.FleetOrKernels = None,
    k: Annotated[int, typer.Option("--k", help="Agents polled per step.")] = 10,
    memory: Annotated[
        str, typer.Option(help="auto, none, a cap in agents, or tune to find the best.")
    ] = "auto",
    rollouts: Annotated[int, typer.Option(help="Episodes.")] = 2000,
    horizon: options.Horizon = None,
    game: Annotated[
        str | None,
        typer.Option(help="Play in this game or kernel file; default: the policy's own game."),
    ] = None,
    kernel: options.KernelKind = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Enumerate a small fleet instead of playing; with --memory none."
        ),
    ] = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Play a policy in its game, or in another one, and report the deployed return."""
    from kofn.controller.core import Policy, rollout
    from kofn.controller.core.tuning import tune_memory
    from kofn.launch.models import by_crowd, crowd_game, fleet_size, load_model

    loaded = Policy.load(policy)
    played_in, counted = (loaded.game, None) if game is None else load_model(game)
    n = fleet_size(n, counted, force=force)
    crowd = by_crowd(kernel, counted)
    if crowd and (exact or memory == "tune"):
        raise InputError(
            f"{'--exact' if exact else '--memory tune'} is not built for the binned kernel: add "
            "--kernel plain"
        )
    if exact and memory != "none":
        raise InputError(f"--exact with --memory {memory}: only --memory none can be enumerated")
    if memory == "tune":
        loaded = tune_memory(played_in, loaded, n=n, k=k, seed=seed)
        memory = "auto" if loaded.memory is not None else "none"
    motion = "binned" if crowd else "plain"
    head = f"{played_in.name}{' (by crowd)' * crowd}, n={n}, k={k}, memory {memory}, "
    about: dict[str, object] = {"n": n, "k": k, "game": played_in.name, "motion": motion}
    if exact:
        from kofn.controller.core.exact_evaluation import enumerate_fleet

        played_pair = loaded.in_play(k, memory)
        found = enumerate_fleet(played_in, played_pair, n=n, k=k, horizon=horizon, memory=memory)
        ci = found.value - found.error, found.value + found.error
        result = {
            "mean": found.value,
            "stderr": 0.0,
            "ci": ci,
            "mode_accuracy": None,
            "rollouts": 0,
            **about,
            "memory": float(k),
            "horizon": horizon or played_in.horizon,
            "states": found.states,
        }
        lines = [
            f"{head}{found.states} states enumerated",
            f"expected return {found.value:.6f}, to {found.error:.1g}",
        ]
    else:
        if crowd and counted is not None:
            from kofn.sim.density import density_rollout

            play = partial(density_rollout, crowd_game(counted))
        else:
            play = partial(rollout, played_in)
        played = play(
            loaded, n=n, k=k, horizon=horizon, rollouts=rollouts, seed=seed, memory=memory
        )
        ci = played.interval() if rollouts > 1 else (math.nan, math.nan)
        result = {
            "mean": played.mean,
            "stderr": played.stderr,
            "ci": ci,
            "mode_accuracy": played.mode_accuracy,
            "rollouts": rollouts,
            **about,
            "memory": played.memory,
            "horizon": played.horizon,
        }
        lines = [
            f"{head}{rollouts} episodes of {played.horizon} steps",
            f"mean return {played.mean:.2f} (95 %: {ci[0]:.2f} to {ci[1]:.2f}), "
            f"largest group known in {100 * played.mode_accuracy:.0f} % of steps",
        ]
        if game is None and loaded.provenance.get("motion") == "binned":
            lines.append(
                "played on the plain kernel of the crowds that the policy met; --game KERNEL plays "
                "on the binned one that it was learned for"
            )
    emit(result, lines, as_json=json)
