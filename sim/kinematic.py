# SPDX-License-Identifier: MIT
"""`KinematicWorld`: unicycles that are pushed apart; ten thousand robots in real time.

    x' = x + dt v cos(yaw),   y' = y + dt v sin(yaw),   yaw' = yaw + dt w,      dt = 0.05 s

After each dt, overlapping discs are pushed apart by half of the overlap each, and discs out of
walls and obstacles. There is no mass, no friction and no wheel: where robots meet they slide past
each other, so moves succeed far more often than with wheels (0.96 where wheels reach 0.39 at n = 30
without a traffic rule). Use it for message load, dashboards and large n; its success rates are not
calibrated, and every run says so once.
"""

import logging
import math
from importlib.metadata import version

import numpy as np

from kofn.hardware.arena import Layout
from kofn.hardware.option import OptionSettings
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety import Limits
from kofn.sim import _kinematic_kernels as kernels
from kofn.sim.bodies import BodyWorld
from kofn.sim.world import TICK_S, BoolArray, FloatArray

_log = logging.getLogger(__name__)

MAX_ROBOTS = 100_000
DT_S = 0.05
BANNER = (
    "world=kinematic calibrated=false: robots slide past each other, so success rates of moves are "
    "not those of wheeled robots"
)


class KinematicWorld(BodyWorld):
    """n unicycles in an arena; implements `kofn.sim.world.World`.

    Parameters as in `BodyWorld`; n is at most 100 000.

    Raises
    ------
    InputError
        A value is out of range, or the robots do not fit.
    """

    calibrated = False

    def __init__(
        self,
        n: int,
        layout: Layout | None = None,
        *,
        settings: OptionSettings | None = None,
        limits: Limits | None = None,
        period_s: float = 6.0,
        track_m: float | None = None,
        noise: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        layout = layout if layout is not None else RingLayout()
        super().__init__(
            n,
            layout,
            track_m=1.6 * layout.robot_radius_m if track_m is None else track_m,
            most=MAX_ROBOTS,
            backend="kinematic",
            versions={"numba": version("numba")},
            settings=settings,
            limits=limits,
            period_s=period_s,
            noise=noise,
        )
        self._bounds = np.array(layout.bounds_m if layout.walls else (0.0, math.inf, 0.0, 0.0))
        self._obstacles = np.array(layout.obstacles, dtype=np.float64).reshape(-1, 3)
        self._said = False

    def _build(self, spawn: FloatArray) -> None:
        if not self._said:
            self._said = True
            _log.warning(BANNER)
        self._bodies = spawn.copy()

    def _move(self, v: FloatArray, w: FloatArray) -> None:
        radius = self.layout.robot_radius_m
        for _ in range(round(TICK_S / DT_S)):
            kernels.drive(self._bodies, v, w, DT_S)
            cells = kernels.cells_of(self._bodies, 2.0 * radius)
            kernels.push_apart(self._bodies, radius, *cells)
            kernels.keep_inside(self._bodies, radius, self._bounds, self._obstacles)

    def _look(self) -> tuple[FloatArray, BoolArray]:
        return self._bodies.copy(), np.ones(self.spec.n, dtype=np.bool_)

    def _push(self) -> FloatArray:
        settings, radius = self._settings, self.layout.robot_radius_m
        far, near = settings.avoid_far * radius, settings.avoid_near * radius
        return kernels.avoid(self._sensed, far, near, *kernels.cells_of(self._sensed, far))

    def _release(self) -> None:
        pass
