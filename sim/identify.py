# SPDX-License-Identifier: MIT
"""From recordings of a world, or the record of a run, to a `Kernel`.

A move counts when the robot was available before and after an option that it acted out. Its bin is
that of the number of available robots in its zone when the option began. Where it is known how
actions were drawn, moves have weights that take the luck of the draw out (`luck`).
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.hardware.arena import layout_of_header
from kofn.sim.kernel import Kernel, KernelInfo, Symmetry, bin_of, blank, l1_rows
from kofn.sim.kernel_checks import run_checks
from kofn.sim.luck import ENOUGH_OPTIONS, weights
from kofn.sim.recording import Play, Recording, WorldConfig, record_replicas
from kofn.sim.robots import RobotSpec
from kofn.sim.world import FloatArray, IntArray


def identify(
    config: WorldConfig,
    game: Game,
    *,
    option_steps: int = 100,
    arenas: int = 1,
    workers: int = 1,
    symmetry: Symmetry = "none",
    first: tuple[int, ...] = (0,),
    by_target: bool = False,
    play: Play | None = None,
    data_policy: str = "uniform",
    seed: int = 0,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Kernel:
    """Identify the finite model of a world.

    Parameters
    ----------
    config
        The world.
    game
        Rewards, global kernel and start that the kernel file carries.
    option_steps, arenas
        Options that every robot makes; worlds that are watched, each with robots of its own.
    workers, seed, watch
        As for `record_replicas`; the kernel does not depend on `workers`.
    symmetry
        "ring" pools rows that a rotation of the ring maps on each other.
    first
        Least source count of each bin.
    by_target
        Count each target for itself, for arenas in which the target changes how robots move.
    play, data_policy
        What moves the robots, and its name; None draws every action equally often.

    Raises
    ------
    InputError
        A value out of range, or a game that does not fit the world.
    """
    zones, actions = game.n_local, game.n_local_actions
    layout = config.layout
    for what, has, needs in (
        ("zones", zones, layout.zones),
        ("local actions", actions, layout.n_actions),
    ):
        if has != needs:
            raise InputError(f"game {game.name!r} has {has} {what}, the arena has {needs}")
    chosen = play if play is not None else Play.uniform(zones, actions)
    if chosen.pi_l.shape != game.r_l.shape:
        raise InputError(
            f"the policy of the data has tables of {chosen.pi_l.shape}, the game of "
            f"{game.r_l.shape}"
        )
    if arenas < 1:
        raise InputError(f"arenas {arenas} must be at least 1")
    recordings = record_replicas(
        config, chosen, arenas * option_steps, seed=seed, workers=workers, watch=watch
    )
    world = config.build()
    versions = world.spec.versions
    world.close()
    described = config.described()
    controller = {"name": "option", **msgspec.to_builtins(config.robot.settings)}
    info = KernelInfo(
        n=config.robots,
        period_s=config.period_s,
        backend=config.backend,
        option_steps=option_steps,
        arenas=arenas,
        transitions=0,
        symmetry=symmetry,
        by_target=by_target,
        data_policy=data_policy,
        layout=described["layout"],
        robot=described["robot"],
        fidelity=config.fidelity,
        controller=controller,
        config_hash=config_hash(described | {"controller": controller}),
        seeds=[seed],
        versions=versions,
    )
    return from_recordings(recordings, game, info, first=first, chance=chosen.pi_l)


def world_of(kernel: Kernel, backend: str = "") -> WorldConfig:
    """Return the world that a kernel was identified in.

    Raises
    ------
    InputError
        The kernel was read from a run whose arena it does not tell.
    """
    info = kernel.info
    layout = layout_of_header(info.layout)
    if layout is None:
        raise InputError("the kernel does not tell its arena: name a scenario instead")
    return WorldConfig(
        backend=backend or info.backend,
        robots=info.n,
        period_s=info.period_s,
        layout=layout,
        robot=msgspec.convert(info.robot, RobotSpec),
        fidelity="high" if info.fidelity == "high" else "default",
    )


def config_hash(table: dict[str, Any]) -> str:
    """Return a hash of settings, the same for equal ones."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def from_recordings(
    recordings: list[Recording],
    game: Game,
    info: KernelInfo,
    *,
    first: tuple[int, ...],
    chance: FloatArray | None = None,
) -> Kernel:
    """Count recordings, run all checks, and return the kernel with their results.

    Parameters
    ----------
    recordings, game, info, first
        Moves; the rewards and the global kernel that go with them; where they come from; bins.
    chance
        P(a | g, z) that actions were drawn from, shape (S_g, S, A): moves are then weighted, if
        there are options enough for it. None when it is not known.
    """
    template = blank(game)

    def counted(parts: Sequence[Recording]) -> IntArray:
        found: IntArray = tally(parts, template, first, by_target=info.by_target)
        return found

    counts = counted(recordings)
    if not counts.any():
        raise InputError("the recording holds no move of an available robot")
    info = msgspec.structs.replace(info, transitions=int(counts.sum()))
    kernel = Kernel(counts, first, template, info)
    steps = sum(recording.steps for recording in recordings)
    halves = None
    if steps >= 2:
        parts = _split(recordings, steps // 2)
        halves = tuple(Kernel(counted(part), first, template, info) for part in parts)
    checks, warnings = run_checks(kernel, recordings, halves)  # type: ignore[arg-type]
    weighted = None
    if chance is not None and steps >= ENOUGH_OPTIONS:
        w = weights(recordings, kernel, chance)
        weighted = tally(recordings, template, first, by_target=info.by_target, weights=w)
        fair = Kernel(counts, first, template, info, weighted)
        checks["luck_l1"] = round(float(l1_rows(fair.plain, kernel.plain).max()), 4)
    info = msgspec.structs.replace(info, checks=checks, warnings=[*info.warnings, *warnings])
    return Kernel(counts, first, template, info, weighted)


def tally(
    recordings: Sequence[Recording],
    game: Game,
    first: tuple[int, ...],
    *,
    by_target: bool,
    weights: Sequence[FloatArray] | None = None,
) -> Any:
    """Count moves by (target, bin, zone, action, next zone), shape (G, B, S, A, S).

    With weights of what robots did, (T, n) a recording, these are added up instead.

    Raises
    ------
    InputError
        A recording holds a zone, action or target that the game does not have.
    """
    S, A = game.n_local, game.n_local_actions
    shape = (game.n_global if by_target else 1, len(first), S, A, S)
    counts: Any = np.zeros(shape, dtype=np.int64 if weights is None else np.float64)
    for index, recording in enumerate(recordings):
        z, a, g = recording.zones, recording.actions, recording.targets
        for what, array, limit in (
            ("zone", z, S),
            ("local action", a, A),
            ("target", g, game.n_global),
        ):
            if array.size and array.max() >= limit:
                raise InputError(f"the recording holds {what} {array.max()}, the game has {limit}")
        crowd = (z[:-1, :, None] == np.arange(S)).sum(axis=1)
        t, i = np.nonzero((z[:-1] >= 0) & (z[1:] >= 0) & (a >= 0))
        s = z[t, i]
        target = g[t] if by_target else np.zeros_like(t)
        b = bin_of(first, crowd[t, s])
        w = 1 if weights is None else weights[index][t, i]
        np.add.at(counts, (target, b, s, a[t, i], z[t + 1, i]), w)
    return counts


def _split(recordings: list[Recording], at: int) -> tuple[list[Recording], list[Recording]]:
    """Cut recordings in two after `at` options in all."""
    head: list[Recording] = []
    tail: list[Recording] = []
    for recording in recordings:
        take = min(max(at, 0), recording.steps)
        at -= recording.steps
        for part, cut in ((head, slice(0, take)), (tail, slice(take, recording.steps))):
            if cut.stop > cut.start:
                part.append(
                    Recording(
                        recording.zones[cut.start : cut.stop + 1],
                        recording.actions[cut],
                        recording.targets[cut],
                        recording.decisions[cut],
                    )
                )
    return head, tail
