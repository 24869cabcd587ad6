# SPDX-License-Identifier: MIT
"""Recordings of a world: what all robots did and where it took them, option by option.

    a_i(t) ~ pi_l(. | g(t), z_i(t)),     z(t+1) by the world,     g(t+1) by the play

Targets g come from a *schedule* (a new one, never the same again, every `hold` options) or from a
policy's own *dispatcher*, who polls k robots and decides as in a live run. Work is cut into
replicas, each with a world and a seed of its own, so that what is recorded is a function of the
seed alone, however many processes share the work.

| symbol | name | shape | unit |
|---|---|---|---|
| z | zones; -1 unavailable | (T + 1, n) | index |
| a | actions; -1 hold | (T, n) | index |
| g, u | targets, global actions (-1: a schedule has none) | (T,) | index |
| - | places before each option, in worlds with poses | (T, n, 2) | m |
"""

import hashlib
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.hardware.arena import Layout
from kofn.hardware.ring import RingLayout
from kofn.sim.motion import MotionKernel
from kofn.sim.quiet import quiet_stdout
from kofn.sim.robots import RobotSpec
from kofn.sim.world import FloatArray, IntArray, World
from kofn.sim.worlds import Fidelity, make_world

#: Options in one replica, and options before those that count: robots start anywhere, and settle.
REPLICA_STEPS = 25
BURN_IN = 2

#: Options between two scheduled targets.
HOLD_STEPS = 6


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A world that another process can build; fields as for `make_world`."""

    backend: str = "bullet"
    robots: int = 30
    period_s: float = 6.0
    layout: Layout = field(default_factory=RingLayout)
    robot: RobotSpec = field(default_factory=RobotSpec)
    fidelity: Fidelity = "default"
    motion: MotionKernel | None = None

    def build(self) -> World:
        """Return the world, before its first reset.

        Raises
        ------
        InputError
            No such world, or robots that do not fit.
        RunError
            The simulator is not installed.
        """
        return make_world(
            self.backend,
            self.robots,
            self.layout,
            period_s=self.period_s,
            robot=self.robot,
            fidelity=self.fidelity,
            kernel=self.motion,
        )

    def described(self) -> dict[str, Any]:
        """Return the settings as a table for file headers."""
        motion = None
        if self.motion is not None:
            motion = hashlib.sha256(self.motion.P.tobytes()).hexdigest()
        return {
            "backend": self.backend,
            "robots": self.robots,
            "period_s": self.period_s,
            "layout": self.layout.as_arena(),
            "robot": msgspec.to_builtins(self.robot),
            "fidelity": self.fidelity,
            "motion": motion,
        }


@dataclass(frozen=True)
class Play:
    """Who moves the robots and the target.

    Attributes
    ----------
    pi_l
        Local policy, shape (S_g, S_l, A_l).
    policy
        Bytes of a policy file whose dispatcher chooses targets; None follows the schedule.
    k
        Robots that the dispatcher polls.
    hold
        Options between two scheduled targets.
    """

    pi_l: FloatArray
    policy: bytes | None = None
    k: int = 5
    hold: int = HOLD_STEPS

    @classmethod
    def uniform(cls, zones: int, actions: int) -> "Play":
        """Return the play in which every robot draws every action equally often."""
        return cls(np.full((zones, zones, actions), 1.0 / actions))

    @classmethod
    def of_policy(cls, policy: Policy, k: int | None = None) -> "Play":
        """Return a policy's play: with its dispatcher polling k, or scheduled targets."""
        if k is None:
            return cls(policy.pi_l)
        return cls(policy.in_play(k).pi_l, policy.to_bytes(), k)


@dataclass(frozen=True)
class Recording:
    """One replica, see the module docstring."""

    zones: IntArray
    actions: IntArray
    targets: IntArray
    decisions: IntArray
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    places: FloatArray | None = None

    @property
    def steps(self) -> int:
        """Options recorded, T."""
        return int(self.actions.shape[0])

    def share_in_target(self) -> FloatArray:
        """Share of the available robots in the target's zone at each step, shape (T,)."""
        here = self.zones[:-1]
        known = (here >= 0).sum(axis=1)
        inside = (here == self.targets[:, None]).sum(axis=1)
        share: FloatArray = inside / np.maximum(known, 1)
        return share


def record(
    config: WorldConfig, play: Play, steps: int, seed: Sequence[int], burn_in: int = BURN_IN
) -> Recording:
    """Record one replica: `steps` options after `burn_in` that are not kept."""
    began = time.process_time()
    world_seed, *_ = np.random.SeedSequence([*seed, 0]).generate_state(2, np.uint64).tolist()
    rng = np.random.default_rng([*seed, 1])
    total = steps + burn_in
    with quiet_stdout():
        world = config.build()
        try:
            n = world.spec.n
            zones = np.empty((total + 1, n), dtype=np.int64)
            actions = np.empty((total, n), dtype=np.int64)
            targets = np.empty(total, dtype=np.int64)
            decisions = np.full(total, -1, dtype=np.int64)
            places: list[FloatArray] = []
            world.reset(world_seed >> 1)
            zones[0] = _seen(world, places)
            moving = _targets(play, rng)
            g = moving.first()
            cdf = np.cumsum(play.pi_l, axis=-1)
            for t in range(total):
                here = zones[t]
                x = rng.random(n)
                drawn = (x[:, None] >= cdf[g, here, :-1]).sum(axis=1)
                actions[t] = np.where(here >= 0, drawn, -1)
                targets[t] = g
                see_target(world, g)
                world.apply(actions[t])
                world.advance(world.spec.period_s)
                zones[t + 1] = _seen(world, places)
                g, decisions[t] = moving.after(t, g, here)
        finally:
            world.close()
    return Recording(
        zones[burn_in:],
        actions[burn_in:],
        targets[burn_in:],
        decisions[burn_in:],
        total * config.period_s,
        time.process_time() - began,
        np.stack(places[burn_in:-1]) if places else None,
    )


def see_target(world: World, g: int) -> None:
    """Tell a world the target of the next option, if its motion may depend on it."""
    see = getattr(world, "see_target", None)
    if see is not None:
        see(g)


def _seen(world: World, places: list[FloatArray]) -> IntArray:
    """Return zones (-1: not available), and append where robots are if the world knows."""
    snapshot = world.observe()
    if snapshot.poses is not None:
        places.append(snapshot.poses[:, :2])
    return np.where(snapshot.up, snapshot.zones, -1).astype(np.int64)


class _Schedule:
    """A new target, uniform over the others, every `hold` options."""

    def __init__(self, play: Play, rng: np.random.Generator) -> None:
        self._n, self._hold, self._rng = play.pi_l.shape[0], play.hold, rng

    def first(self) -> int:
        return int(self._rng.integers(self._n))

    def after(self, t: int, g: int, zones: IntArray) -> tuple[int, int]:  # noqa: ARG002
        x = int(self._rng.integers(1, max(self._n, 2)))
        return ((g + x) % self._n if (t + 1) % self._hold == 0 else g), -1


class _Dispatched:
    """Targets that a policy's dispatcher moves, polling k of the robots that are there."""

    def __init__(self, play: Play, rng: np.random.Generator) -> None:
        from kofn.controller.core.decision import NOT_MOVED, Decider

        assert play.policy is not None  # noqa: S101  checked by the caller
        policy = Policy.from_bytes(play.policy)
        self._game, self._k, self._rng = policy.game, play.k, rng
        self._decider = Decider(policy, play.k)
        self._moved_by = NOT_MOVED

    def first(self) -> int:
        law, _ = self._game.initial.resolve(self._game.n_global, self._game.n_local)
        return int(self._rng.choice(law.size, p=law))

    def after(self, t: int, g: int, zones: IntArray) -> tuple[int, int]:  # noqa: ARG002
        there = zones[zones >= 0]
        polled = self._rng.permutation(there)[: self._k]
        counts = np.bincount(polled, minlength=self._game.n_local)
        u = self._decider.decide(self._moved_by, g, counts)
        self._moved_by = g
        return int(self._rng.choice(self._game.n_global, p=self._game.P_g[g, u])), u


def _targets(play: Play, rng: np.random.Generator) -> _Schedule | _Dispatched:
    return _Schedule(play, rng) if play.policy is None else _Dispatched(play, rng)


def record_replicas(
    config: WorldConfig,
    play: Play,
    steps: int,
    *,
    seed: int,
    workers: int = 1,
    burn_in: int = BURN_IN,
    replica_steps: int = REPLICA_STEPS,
    watch: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Recording]:
    """Record `steps` options in replicas; the result does not depend on `workers`.

    Parameters
    ----------
    config, play
        The world, and who plays in it.
    steps
        Options in all; the last replica may be shorter than the others.
    seed
        Of everything random.
    workers
        Processes; 1 works in this one.
    burn_in, replica_steps
        Options before those that count, and options that count, in each replica.
    watch
        Called with the options done and in all.

    Raises
    ------
    InputError
        Fewer than one option or worker, or a world that cannot be built.
    """
    for what, value in (("option steps", steps), ("workers", workers)):
        if value < 1:
            raise InputError(f"{what} {value} must be at least 1")
    config.build().close()  # what is wrong with it is wrong here, not in another process
    sizes = [min(replica_steps, steps - at) for at in range(0, steps, replica_steps)]
    jobs = [(config, play, size, (seed, i), burn_in) for i, size in enumerate(sizes)]
    found: dict[int, Recording] = {}
    for i, recording in spread(record, jobs, workers):
        found[i] = recording
        watch(sum(r.steps for r in found.values()), steps)
    return [found[i] for i in range(len(sizes))]


def spread(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[int, Any]]:
    """Yield (index, function(*job)) as jobs end, in `workers` fresh processes (1: in this one).

    Processes are spawned, not forked: engines and compiled code do not survive a fork. When the
    caller stops early, jobs that have not begun are dropped.
    """
    if workers == 1 or len(jobs) == 1:
        for index, job in enumerate(jobs):
            yield index, function(*job)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context)
    pending: dict[Future[Any], int] = {}
    todo = iter(enumerate(jobs))
    try:
        for index, job in itertools.islice(todo, workers):
            pending[pool.submit(function, *job)] = index
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
                with suppress(StopIteration):
                    index, job = next(todo)
                    pending[pool.submit(function, *job)] = index
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
