# SPDX-License-Identifier: MIT
"""`kofn train`, `evaluate` and `certify`: policies without a fleet."""

import time
from pathlib import Path
from typing import Annotated

import typer

from kofn.controller.core.errors import InputError
from kofn.launch import options
from kofn.launch.output import emit

PolicyArgument = Annotated[Path, typer.Argument(help="A policy file.")]


def train(
    game: Annotated[str, typer.Argument(help="A preset, a .toml file, or module:factory.")],
    k: Annotated[int, typer.Option("--k", help="Agents polled per step.")] = 10,
    grid: Annotated[
        int | None, typer.Option(help="Agents in a histogram of the action table; default: chosen.")
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Fleet size.")] = 1000,
    objective: Annotated[
        str, typer.Option(help="What local agents maximise: team or selfish.")
    ] = "team",
    restarts: Annotated[int | None, typer.Option(help="Starts to try; default: all.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Most alternations from one start.")] = None,
    seed: options.Seed = 0,
    out: Annotated[Path, typer.Option(help="Policy file to write.")] = Path("policy.npz"),
    json: options.Json = False,
) -> None:
    """Learn a policy for a game by ALTERNATING-MARL."""
    from kofn.controller.core import load_game
    from kofn.launch.training import train as train_game

    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")
    started = time.monotonic()
    loaded = load_game(game)
    solution = train_game(
        loaded,
        k=k,
        n=n,
        grid=grid,
        objective=objective,
        restarts=restarts,
        rounds=rounds,
        seed=seed,
    )
    solution.policy.save(out)
    took_s = time.monotonic() - started
    learned = solution.policy.provenance
    result = {
        "out": str(out),
        "game": loaded.name,
        "sha256": solution.policy.sha256,
        "k": k,
        "n": n,
        "grid": solution.policy.grid,
        "memory": solution.policy.memory,
        "start": learned["start"],
        "mean_memoryless": learned["memoryless"],
        "mean_belief": learned["belief"],
        "pairs_judged": len(solution.history),
        "seconds": round(took_s, 2),
    }
    lines = [
        f"{out}: {loaded.name}, k={k}, grid {solution.policy.grid}, {took_s:.1f} s",
        f"deployed return for n={n}: {learned['belief']:.2f} with memory, "
        f"{learned['memoryless']:.2f} without (in training; kofn evaluate judges afresh)",
    ]
    emit(result, lines, as_json=json)


def certify(
    policy: PolicyArgument,
    n: Annotated[int, typer.Option("--n", help="Fleet size.")] = 1000,
    k: Annotated[
        int | None, typer.Option("--k", help="Agents polled; default: as learned.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps; default: the game's.")] = None,
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
    emit(found.to_dict(), lines, as_json=json)


def evaluate(
    policy: PolicyArgument,
    n: Annotated[int, typer.Option("--n", help="Fleet size.")] = 1000,
    k: Annotated[int, typer.Option("--k", help="Agents polled per step.")] = 10,
    memory: Annotated[str, typer.Option(help="auto, none, or a cap in agents.")] = "auto",
    rollouts: Annotated[int, typer.Option(help="Episodes.")] = 2000,
    horizon: Annotated[int | None, typer.Option(help="Steps; default: the game's.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Play a policy in its game and report the deployed return."""
    from kofn.controller.core import Policy, rollout

    loaded = Policy.load(policy)
    played = rollout(
        loaded.game,
        loaded,
        n=n,
        k=k,
        horizon=horizon,
        rollouts=rollouts,
        seed=seed,
        memory=memory,
    )
    result = {
        "mean": played.mean,
        "stderr": played.stderr,
        "mode_accuracy": played.mode_accuracy,
        "rollouts": rollouts,
        "n": n,
        "k": k,
        "memory": played.memory,
        "horizon": played.horizon,
        "game": loaded.game.name,
    }
    low, high = played.mean - 1.96 * played.stderr, played.mean + 1.96 * played.stderr
    lines = [
        f"{loaded.game.name}, n={n}, k={k}, memory {memory}, {rollouts} episodes of "
        f"{played.horizon} steps",
        f"mean return {played.mean:.2f} (95 %: {low:.2f} to {high:.2f}), "
        f"largest group known in {100 * played.mode_accuracy:.0f} % of steps",
    ]
    emit(result, lines, as_json=json)
