# SPDX-License-Identifier: MIT
"""`World`: what a simulator must offer so that its robots can take part.

| symbol | meaning | shape | unit |
|---|---|---|---|
| n | robots in the world | - | - |
| zones | zone of each robot | (n,) | index |
| poses | x, y, heading | (n, 3) | m, m, rad |
| actions | local action of each robot, -1 = hold | (n,) | index |
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

TICK_S = 0.1
"""Control tick of our worlds, s."""
NO_TROUBLE: Mapping[int, str] = MappingProxyType({})


class WorldSpec(NamedTuple):
    """Size and clock of a world: `period_s` per option, `tick_s` per control tick.

    `arena` is what a log header needs to draw the world, empty for a world without bodies: `zones`,
    and for a ring `inner_m`, `outer_m`, `robot_radius_m`.
    """

    n: int
    n_zones: int
    n_actions: int
    period_s: float
    tick_s: float
    backend: str
    versions: dict[str, str]
    arena: dict[str, Any]


class Snapshot(NamedTuple):
    """The state of all robots at one instant; `poses` is None for a world without bodies.

    `zones` are always zones of the world: for a robot that is not `up`, the last one it was in.
    `zones` are what robots sense (with position noise: where they think they are), `poses` where
    they are. `trouble` says of robots that are not `up` why, as far as the world knows.
    """

    zones: IntArray
    poses: FloatArray | None
    up: BoolArray
    time_s: float
    trouble: Mapping[int, str] = NO_TROUBLE


@dataclass(slots=True)
class Condition:
    """What faults have made of a world's robots; whoever injects faults writes into it.

    Attributes
    ----------
    wheels
        Share of the commanded speed that the left and the right wheel turn with, shape (n, 2);
        0 is a stuck wheel. A robot without bodies cannot move with one.
    up
        Robots that work at all, shape (n,).
    why
        Robot -> why it does not.
    noise_m, noise_rad
        Standard deviation of each coordinate, and of the heading, that robots sense of themselves.
    base_noise
        The same for robots without a fault.
    """

    wheels: FloatArray
    up: BoolArray
    why: dict[int, str] = field(default_factory=dict)
    noise_m: float = 0.0
    noise_rad: float = 0.0
    base_noise: tuple[float, float] = (0.0, 0.0)

    @property
    def able(self) -> BoolArray | None:
        """Robots that can move without bodies, shape (n,); None when all can."""
        if not self.why and self.up.all() and self.wheels.min() > 0:
            return None
        able: BoolArray = self.up & (self.wheels.min(axis=1) > 0)
        return able

    @classmethod
    def healthy(cls, n: int) -> Self:
        """Return the condition of n robots without a fault."""
        return cls(np.ones((n, 2)), np.ones(n, dtype=np.bool_))

    def trouble(self) -> Mapping[int, str]:
        """Return why robots do not work, for those that do not."""
        return dict(self.why) if self.why else NO_TROUBLE


class World(Protocol):
    """A closed arena with n robots.

    A world has no state before its first `reset` and none after `close`: calls then raise
    `RunError`. Actions of a wrong shape or range raise `InputError`.
    """

    spec: WorldSpec

    def reset(self, seed: int) -> None:
        """Rebuild from nothing: the only way to a known state."""
        ...

    def observe(self) -> Snapshot:
        """Return the state now."""
        ...

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot: index 0..n_actions-1, -1 = hold; shape (n,)."""
        ...

    def advance(self, duration_s: float) -> None:
        """Simulate `duration_s` seconds, a multiple of the control tick.

        An option ends `period_s` after its `apply`; robots then stop until the next one.
        """
        ...

    def close(self) -> None:
        """Release the engine; idempotent."""
        ...


def digest_of(snapshot: Snapshot) -> str:
    """Short name of an exact state: the same on one machine only if every bit is the same."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(np.ascontiguousarray(snapshot.zones).tobytes())
    digest.update(np.ascontiguousarray(snapshot.up).tobytes())
    if snapshot.poses is not None:
        digest.update(np.ascontiguousarray(snapshot.poses).tobytes())
    return digest.hexdigest()


def ticks(duration_s: float, name: str) -> int:
    """Whole control ticks of a duration; `InputError` if it is not a multiple of one."""
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise InputError(f"{name} = {duration_s} s must be finite and at least 0")
    whole = round(duration_s / TICK_S)
    if abs(whole * TICK_S - duration_s) > 1e-6:
        raise InputError(f"{name} = {duration_s} s is not a multiple of the tick of {TICK_S} s")
    return whole


def check_period(period_s: float) -> int:
    """Ticks of an option; `InputError` unless it has at least one."""
    whole = ticks(period_s, "period_s")
    if whole < 1:
        raise InputError(f"period_s = {period_s} s must be at least {TICK_S} s")
    return whole


def check_actions(actions: IntArray, spec: WorldSpec) -> IntArray:
    """Return actions of shape (n,) in -1..n_actions-1; `InputError` for others."""
    actions = np.asarray(actions)
    if actions.shape != (spec.n,):
        raise InputError(f"actions of shape {actions.shape} for {spec.n} robots")
    least, most = int(actions.min()), int(actions.max())
    if least < -1 or most >= spec.n_actions:
        bad = least if least < -1 else most
        raise InputError(f"local action {bad} is not in -1 (hold) to {spec.n_actions - 1}")
    return actions.astype(np.int64, copy=False)
