# SPDX-License-Identifier: MIT
"""`check_world`: the contract of `World` as a program, for our worlds and for yours.

    check_world(lambda: MyWorld(n=4))

raises `AssertionError` with one sentence about the first clause that is broken.
"""

from collections.abc import Callable

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.sim.world import IntArray, Snapshot, World

_STEPS = 3


def check_world(make: Callable[[], World]) -> None:
    """Check a world; `make` builds a new one each time, with one to some tens of robots."""
    world = make()
    _refuses(world.observe, RunError, "observe before the first reset")
    first = _trace(world, seed=1)
    for snapshot in first:
        _check_snapshot(world, snapshot)
    _require(first[0].time_s == 0.0, f"reset starts at time {first[0].time_s}, not at 0")
    period_s = world.spec.period_s
    for i, snapshot in enumerate(first):
        _require(
            abs(snapshot.time_s - i * period_s) < 1e-6,
            f"time is {snapshot.time_s} s after {i} options of {period_s} s",
        )
    _require(_same(first, _trace(world, seed=1)), "reset with the same seed gives another trace")
    other = make()
    _require(_same(first, _trace(other, seed=1)), "a second world with the same seed differs")
    _require(not _same(first, _trace(other, seed=2)), "the seed changes nothing")
    other.close()
    _check_refusals(world)
    _check_isolation(world)
    _check_hold(world)
    world.close()
    world.close()
    hold = np.full(world.spec.n, -1, dtype=np.int64)
    _refuses(world.observe, RunError, "observe after close")
    _refuses(lambda: world.apply(hold), RunError, "apply after close")
    _refuses(lambda: world.advance(world.spec.tick_s), RunError, "advance after close")
    _refuses(lambda: world.reset(1), RunError, "reset after close")


def _trace(world: World, seed: int) -> list[Snapshot]:
    """Snapshots of a few options with fixed pseudo-random actions."""
    spec = world.spec
    generator = np.random.default_rng(17)
    world.reset(seed)
    trace = [world.observe()]
    for _ in range(_STEPS):
        world.apply(generator.integers(-1, spec.n_actions, spec.n))
        world.advance(spec.period_s)
        trace.append(world.observe())
    return trace


def _same(first: list[Snapshot], second: list[Snapshot]) -> bool:
    return all(
        np.array_equal(a.zones, b.zones)
        and np.array_equal(a.up, b.up)
        and (a.poses is None) == (b.poses is None)
        and (a.poses is None or b.poses is None or np.array_equal(a.poses, b.poses))
        for a, b in zip(first, second, strict=True)
    )


def _check_snapshot(world: World, snapshot: Snapshot) -> None:
    n, zones = world.spec.n, world.spec.n_zones
    _require(snapshot.zones.shape == (n,), f"zones have shape {snapshot.zones.shape}, not ({n},)")
    _require(snapshot.up.shape == (n,), f"up has shape {snapshot.up.shape}, not ({n},)")
    _require(np.issubdtype(snapshot.zones.dtype, np.integer), "zones are not integers")
    _require(snapshot.up.dtype == np.bool_, "up is not boolean")
    in_range = bool(np.all((snapshot.zones >= 0) & (snapshot.zones < zones)))
    _require(in_range, f"zones leave 0..{zones - 1}: {snapshot.zones.tolist()}")
    if snapshot.poses is not None:
        _require(snapshot.poses.shape == (n, 3), f"poses have shape {snapshot.poses.shape}")
        _require(bool(np.all(np.isfinite(snapshot.poses))), "poses are not finite")


def _check_refusals(world: World) -> None:
    spec = world.spec
    bad: list[tuple[IntArray, str]] = [
        (np.zeros(spec.n + 1, dtype=np.int64), "actions for one robot too many"),
        (np.zeros((spec.n, 1), dtype=np.int64), "actions of two dimensions"),
        (np.full(spec.n, spec.n_actions, dtype=np.int64), "an action that does not exist"),
        (np.full(spec.n, -2, dtype=np.int64), "action -2"),
    ]
    for actions, what in bad:
        _refuses(lambda a=actions: world.apply(a), InputError, what)  # type: ignore[misc]
    for duration_s in (-spec.tick_s, 0.5 * spec.tick_s, float("nan")):
        _refuses(
            lambda d=duration_s: world.advance(d),  # type: ignore[misc]
            InputError,
            f"advance by {duration_s} s",
        )


def _check_isolation(world: World) -> None:
    """Snapshots must not change when the world moves on or the reader writes into them."""
    snapshot = world.observe()
    zones = snapshot.zones.copy()
    snapshot.zones[:] = 0
    _require(np.array_equal(world.observe().zones, zones), "a snapshot shares the world's memory")


def _check_hold(world: World) -> None:
    """Robots that hold stay in their zone, and time passes for them all the same."""
    spec = world.spec
    world.reset(3)
    before = world.observe()
    world.apply(np.full(spec.n, -1, dtype=np.int64))
    world.advance(spec.period_s)
    after = world.observe()
    _require(np.array_equal(before.zones, after.zones), "robots that hold change their zone")
    world.apply(np.zeros(spec.n, dtype=np.int64))
    world.advance(spec.tick_s)
    world.apply(np.full(spec.n, -1, dtype=np.int64))
    world.advance(spec.tick_s)
    passed_s = world.observe().time_s - after.time_s
    _require(
        abs(passed_s - 2.0 * spec.tick_s) < 1e-6,
        f"time is {passed_s} s after two ticks of {spec.tick_s} s",
    )
    world.advance(0.0)
    _require(world.observe().time_s - after.time_s == passed_s, "advancing by 0 s takes time")


def _refuses(call: Callable[[], object], kind: type[Exception], what: str) -> None:
    try:
        call()
    except kind:
        return
    except Exception as error:
        raise AssertionError(
            f"{what} raises {type(error).__name__}, not {kind.__name__}"
        ) from error
    raise AssertionError(f"{what} is not refused")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
