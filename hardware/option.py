# SPDX-License-Identifier: MIT
"""The option controller: turns local actions into speeds at each control tick.

An action starts an option of fixed duration: 0 stay, 1.. go to a neighbouring zone and stop there,
-1 hold. Where that is, and the way to it, the arena's guide knows (`guides`). With h the direction
of the guide plus the pushes of neighbours, walls and obstacles, and e = angle(h) - heading:

    v = speed * factor * max(0, cos e),      w = clip(turn_gain * e, -w_max, w_max)
    push_i = sum_j clip((far - d_ij) / (far - near), 0, 1) * (p_i - p_j) / d_ij

| symbol | name | shape | unit |
|---|---|---|---|
| a | actions | (n,) | index, -1 = hold |
| p | poses: x, y, heading | (n, 3) | m, m, rad |
| - | push | (n, 2) | - |
| v, w | speed, turn rate (left positive) | (n,) | m/s, rad/s |

The same code drives simulated and physical robots; a robot that knows nothing of its neighbours
passes no push.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.hardware.driver import HOLD
from kofn.hardware.guides import guide_of
from kofn.hardware.obstacles import steer_around
from kofn.hardware.ring import wrap

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

FACTOR_RANGE = (0.5, 1.5)
"""Least and greatest speed factor of an option."""


class OptionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Gains and radii of the option controller; defaults for the reference robot.

    Attributes
    ----------
    speed_mps
        Nominal speed; a robot's own is 0.5 to 1.5 times that, drawn for each option.
    w_max_radps
        Greatest turn rate commanded.
    turn_gain
        Turn rate per heading error, 1/s.
    look_ahead_rad
        How far along the ring the carrot is.
    core
        Share of the half-sector around the centre in which a robot has arrived.
    recentre
        Distance from the parking radius beyond which a stopped robot goes back to it, in robot
        radii.
    avoid_far, avoid_near, avoid_weight
        Distances of centres at which pushing starts and is full, in robot radii; its weight
        against the carrot's. Pushing has to start nearer than the lanes are apart, or parked
        robots slow the movers.
    wall_margin
        Gap to a wall below which it pushes, in robot radii; lanes must keep more.
    speed_spread
        Standard deviation of the speed factor around 1.
    """

    speed_mps: float = 0.4
    w_max_radps: float = 3.0
    turn_gain: float = 4.0
    look_ahead_rad: float = 0.35
    core: float = 0.35
    recentre: float = 1.2
    avoid_far: float = 3.0
    avoid_near: float = 2.0
    avoid_weight: float = 1.2
    wall_margin: float = 0.5
    speed_spread: float = 0.1

    def __post_init__(self) -> None:
        for name in (
            "speed_mps",
            "w_max_radps",
            "turn_gain",
            "look_ahead_rad",
            "core",
            "wall_margin",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"option setting {name} = {value} must be finite and above 0")
        for name in ("recentre", "avoid_near", "avoid_weight", "speed_spread"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"option setting {name} = {value} must be finite and at least 0")
        if not self.avoid_far > self.avoid_near:
            raise InputError(
                f"option setting avoid_far = {self.avoid_far} must be above "
                f"avoid_near = {self.avoid_near}"
            )

    @property
    def fastest_mps(self) -> float:
        """Greatest speed that is ever commanded, m/s."""
        return self.speed_mps * FACTOR_RANGE[1]


class OptionController:
    """Options of n robots in an arena, as arrays.

    Parameters
    ----------
    layout
        The arena.
    n
        Robots steered together.
    generator
        Source of the speed factors; nothing else is random.
    settings
        Gains and radii.
    """

    def __init__(
        self,
        layout: Layout,
        n: int,
        generator: np.random.Generator,
        settings: OptionSettings | None = None,
    ) -> None:
        if n < 1:
            raise InputError(f"an option controller for {n} robots, the least is 1")
        self.layout = layout
        self.n = n
        self.settings = settings if settings is not None else OptionSettings()
        self._generator = generator
        self._guide = guide_of(layout, n, self.settings)
        self._actions: IntArray = np.full(n, HOLD, dtype=np.int64)
        self._factor = np.ones(n)

    def start(self, actions: IntArray, poses: FloatArray) -> None:
        """Start an option on every robot from where it is.

        Parameters
        ----------
        actions
            Local action of each robot, shape (n,), 0.. or -1 (hold).
        poses
            Shape (n, 3), m, m, rad.

        Raises
        ------
        InputError
            Wrong shape, or an action that the arena does not have.
        """
        self._check(poses)
        actions = np.asarray(actions)
        if actions.shape != (self.n,):
            raise InputError(f"actions of shape {actions.shape} for {self.n} robots")
        known_actions = self.layout.n_actions
        if np.any((actions < HOLD) | (actions >= known_actions)):
            bad = int(actions[(actions < HOLD) | (actions >= known_actions)][0])
            names = ", ".join(str(action) for action in range(known_actions))
            raise InputError(f"local action {bad} is not one of -1 (hold), {names}")
        # One draw per robot whatever its action, so that it does not shift the draws of the others;
        # stopping everybody is no option and draws nothing.
        if np.any(actions != HOLD):
            factor = self._generator.normal(1.0, self.settings.speed_spread, self.n)
            self._factor = np.clip(factor, *FACTOR_RANGE)
        zone = self.layout.zone_of(poses)
        known = zone >= 0
        self._actions = np.where(known, actions, HOLD).astype(np.int64)
        self._guide.start(self._actions, np.where(known, zone, 0))

    def push(self, poses: FloatArray) -> FloatArray:
        """Push of these robots on each other, shape (n, 2), from all pairs (for n up to 1000).

        A robot whose place is not finite neither pushes nor is pushed.
        """
        known = np.isfinite(poses[:, 0]) & np.isfinite(poses[:, 1])
        position = np.where(known[:, None], poses[:, :2], 0.0)
        delta = position[:, None, :] - position[None, :, :]
        distance = np.hypot(delta[..., 0], delta[..., 1])
        radius = self.layout.robot_radius_m
        far, near = self.settings.avoid_far * radius, self.settings.avoid_near * radius
        strength = np.clip((far - distance) / (far - near), 0.0, 1.0)
        strength *= known[:, None] & known[None, :]
        np.fill_diagonal(strength, 0.0)
        unit = delta / np.maximum(distance, 1e-9)[..., None]
        total: FloatArray = np.einsum("ij,ijk->ik", strength, unit)
        return total

    def command(
        self, poses: FloatArray, push: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Speeds for this control tick.

        Parameters
        ----------
        poses
            Poses now, shape (n, 3), m, m, rad. A robot whose pose is not finite is stopped.
        push
            Push of neighbours, shape (n, 2), as from `push`; None without such knowledge.

        Returns
        -------
        tuple
            v in m/s and w in rad/s, both of shape (n,); zero for robots that hold or have arrived.
        """
        self._check(poses)
        settings, layout = self.settings, self.layout
        known: BoolArray = np.asarray(np.isfinite(poses).all(axis=1))
        usable: FloatArray = np.where(known[:, None], poses, 0.0)
        x, y, heading = usable[:, 0], usable[:, 1], usable[:, 2]
        direction, under_way = self._guide.towards(x, y)
        active = known & (self._actions != HOLD) & under_way
        if push is not None:
            direction = direction + settings.avoid_weight * push
        # A wheeled robot that leans on a wall with its nose cannot turn away from it: both wheels
        # slip, and the one with more load wins. So walls push too, and it turns on the spot.
        if layout.walls:
            direction = direction + settings.avoid_weight * self._guide.walls(x, y)
        direction = direction + settings.avoid_weight * steer_around(
            layout.obstacles, x, y, layout.robot_radius_m, direction
        )
        error = wrap(np.arctan2(direction[:, 1], direction[:, 0]) - heading)
        v = settings.speed_mps * self._factor * np.maximum(0.0, np.cos(error))
        w = np.clip(settings.turn_gain * error, -settings.w_max_radps, settings.w_max_radps)
        return np.where(active, v, 0.0), np.where(active, w, 0.0)

    def _check(self, poses: FloatArray) -> None:
        if poses.shape != (self.n, 3):
            raise InputError(f"poses of shape {poses.shape} for {self.n} robots, not (n, 3)")
