# SPDX-License-Identifier: MIT
"""`World`: what a simulator must offer so that its robots can take part.

| symbol | meaning | shape | unit |
|---|---|---|---|
| n | robots in the world | - | - |
| zones | zone of each robot | (n,) | index |
| poses | x, y, heading | (n, 3) | m, m, rad |
| actions | local action of each robot, -1 = hold | (n,) | index |
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


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
    arena: dict[str, float]


class Snapshot(NamedTuple):
    """The state of all robots at one instant; `poses` is None for a world without bodies.

    `zones` are always zones of the world: for a robot that is not `up`, the last one it was in.
    """

    zones: IntArray
    poses: FloatArray | None
    up: BoolArray
    time_s: float


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
