# SPDX-License-Identifier: MIT
r"""`validate`: one policy in the finite models and in physics, side by side.

The measure is the share of robots in the target zone. Steps of one target share their traffic, so
its standard error takes target periods as blocks: with d(t) = x(t) - mean over T steps in B blocks,

.. math:: se = \frac{1}{T} \sqrt{\frac{B}{B-1} \sum_{blocks} \Bigl(\sum_{t \in block} d(t)\Bigr)^2}

Finite models: *ideal* (each action does what it is for), *plain* (one row for all crowds), *binned*
(by source count). All play the same pair: on a schedule of targets, which shows the motion alone,
or with the policy's own dispatcher, who polls k robots. A target counts from its first step on;
what came before the first change is left out.

| symbol | name | shape |
|---|---|---|
| x | share of robots in the target zone | (T,) |
| - | curve: mean of x by steps since the target changed | (.,) |
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.sim.density import DensityGame, density_rollout
from kofn.sim.kernel import Kernel
from kofn.sim.recording import HOLD_STEPS, Play, Recording, WorldConfig, record_replicas
from kofn.sim.world import FloatArray, IntArray

#: Key of the stream that the physics is drawn from: not the worlds that a kernel was counted in.
_PHYSICS = 0x76616C69

#: Target periods in one replica of the physics.
PERIODS = 8

#: Steps of the curve after a change of target.
CURVE = 6

#: Episodes of a finite model: their error is small against that of the physics.
EPISODES = 1000


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One way to play the policy.

    Attributes
    ----------
    name
        "physics", "ideal", "plain" or "binned".
    share, stderr
        Mean share in the target zone, and its standard error.
    stay
        How often a robot that stayed was in its zone afterwards; None when none stayed.
    curve
        Mean share 0, 1, 2, .. steps after a change of target; None where there were none.
    periods
        Target periods seen.
    gap, gap_stderr
        Predicted share minus that of the physics, and its standard error; 0 for physics itself.
    """

    name: str
    share: float
    stderr: float
    stay: float | None
    curve: list[float | None]
    periods: int
    gap: float = 0.0
    gap_stderr: float = 0.0


@dataclass(frozen=True)
class Validation:
    """The gap table: physics first, then the finite models."""

    rows: tuple[Figures, ...]

    def row(self, name: str) -> Figures:
        """Return the figures of one way to play."""
        return next(row for row in self.rows if row.name == name)


def validate(
    policy: Policy,
    kernel: Kernel,
    world: WorldConfig,
    *,
    k: int | None = None,
    periods: int = 40,
    hold: int = HOLD_STEPS,
    seed: int = 0,
    workers: int = 1,
    episodes: int = EPISODES,
    force: bool = False,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> Validation:
    """Compare finite models with physics under one policy.

    Parameters
    ----------
    policy
        Plays everywhere.
    kernel
        The identified motion.
    world
        The physics.
    k
        Robots that the policy's dispatcher polls; None follows a schedule of targets instead.
    periods
        Target periods in physics on a schedule; with a dispatcher, `periods * hold` options.
    hold
        Options between two scheduled targets.
    seed, workers, watch
        As for `record_replicas`.
    episodes
        Played in each finite model.
    force
        Compare although the kernel was identified for another number of robots or another T.

    Raises
    ------
    InputError
        A policy, kernel and world that do not fit each other, or a number out of range.
    """
    for what, value, least in (
        ("periods", periods, 2),
        ("hold", hold, 1),
        ("episodes", episodes, 2),
    ):
        if value < least:
            raise InputError(f"{what} {value} must be at least {least}")
    if policy.pi_l.shape != kernel.template.r_l.shape:
        raise InputError(
            f"the policy has local tables of {policy.pi_l.shape}, the kernel of "
            f"{kernel.template.r_l.shape}"
        )
    if k is not None and not 1 <= k <= world.robots:
        raise InputError(f"poll size {k} must lie in 1..{world.robots}, the robots of the world")
    known = (kernel.info.n, kernel.info.period_s)
    if (world.robots, world.period_s) != known and not force:
        raise InputError(
            f"the kernel was identified for {known[0]} robots and options of {known[1]:g} s, the "
            f"world has {world.robots} and {world.period_s:g} s (--force compares all the same)"
        )
    play = Play.of_policy(policy, k)
    play = Play(play.pi_l, play.policy, play.k, hold)
    physics = record_replicas(
        world,
        play,
        periods * hold,
        seed=int(np.random.SeedSequence([seed, _PHYSICS]).generate_state(1, np.uint64)[0]),
        workers=workers,
        burn_in=hold,
        replica_steps=PERIODS * hold,
        watch=watch,
    )
    scheduled = k is None
    rows = [_of_physics(physics, kernel, scheduled)]
    chosen = policy.in_play(k) if k is not None else policy
    no_bins = np.zeros(0)
    for name, P, edges in (
        ("ideal", kernel.ideal[:, None], no_bins),
        ("plain", kernel.plain[:, None], no_bins),
        ("binned", kernel.binned, kernel.edges),
    ):
        density = DensityGame(policy.game, P, edges)
        row = _of_model(name, density, chosen, kernel, world.robots, k, hold, episodes, seed)
        error = float(np.hypot(row.stderr, rows[0].stderr))
        rows.append(msgspec.structs.replace(row, gap=row.share - rows[0].share, gap_stderr=error))
    return Validation(tuple(rows))


def _of_physics(recordings: list[Recording], kernel: Kernel, scheduled: bool) -> Figures:
    shares = [recording.share_in_target() for recording in recordings]
    targets = [recording.targets for recording in recordings]
    stayed = total = 0
    for recording in recordings:
        z, a = recording.zones, recording.actions
        known = (z[:-1] >= 0) & (z[1:] >= 0) & (a >= 0)
        s, action = np.where(known, z[:-1], 0), np.where(known, a, 0)
        stays = known & (kernel.purpose[s, action] == s)
        stayed += int((stays & (z[1:] == s)).sum())
        total += int(stays.sum())
    stay = stayed / total if total else None
    return _figures("physics", shares, targets, stay, scheduled)


def _of_model(
    name: str,
    density: DensityGame,
    policy: Policy,
    kernel: Kernel,
    n: int,
    k: int | None,
    hold: int,
    episodes: int,
    seed: int,
) -> Figures:
    played = density_rollout(
        density,
        policy,
        n=n,
        k=1 if k is None else k,
        horizon=(PERIODS + 1) * hold,
        rollouts=episodes,
        seed=seed,
        memory="none" if k is None else "auto",
        hold=hold if k is None else 0,
        record=True,
    )
    records = played.records
    assert records is not None  # noqa: S101  record=True
    targets, counts = records.s_g[:, hold:], records.counts[:, hold:]
    inside = np.take_along_axis(counts, targets[..., None], axis=-1)[..., 0] / n
    bins = density.bins(counts)
    zones = np.arange(counts.shape[-1])
    stays = kernel.purpose == zones[:, None]  # (S, A)
    # Agents of a zone that stay, and the chance that they are there afterwards.
    acting = policy.pi_l[targets] * stays * counts[..., None]
    chance = np.einsum("gbsas->gbsa", density.P)[targets[..., None], bins, zones]
    total = float(acting.sum())
    stay = float((acting * chance).sum()) / total if total else None
    return _figures(name, list(inside), list(targets), stay, k is None)


def _figures(
    name: str,
    shares: list[FloatArray],
    targets: list[IntArray],
    stay: float | None,
    scheduled: bool,
) -> Figures:
    """Mean, error and curve; with a schedule each series begins with a new target."""
    x, block, since = [], [], []
    blocks = 0
    for share, g in zip(shares, targets, strict=True):
        changes = np.flatnonzero(np.diff(g)) + 1
        starts = np.concatenate([[0], changes])
        place = np.searchsorted(starts, np.arange(g.size), side="right") - 1
        x.append(share)
        block.append(blocks + place)
        age = np.arange(g.size) - starts[place]
        since.append(age if scheduled else np.where(place > 0, age, -1))
        blocks += starts.size
    values, of_block, ages = (np.concatenate(part) for part in (x, block, since))
    mean = float(values.mean())
    sums = np.bincount(of_block, weights=values - mean, minlength=blocks)
    spread = float((sums**2).sum()) * blocks / max(blocks - 1, 1)
    curve = [
        round(float(values[ages == age].mean()), 4) if (ages == age).any() else None
        for age in range(CURVE)
    ]
    return Figures(
        name=name,
        share=mean,
        stderr=float(np.sqrt(spread)) / values.size,
        stay=stay,
        curve=curve,
        periods=blocks,
    )
