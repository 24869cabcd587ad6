# SPDX-License-Identifier: MIT
"""`WorldDriver`: one robot of a simulated world behind the driver contract.

What a robot with motors is steered by, from its safety on, can so be tried on a body with wheels,
walls and neighbours. Time is the clock's: the world catches up by whole control ticks of 0.1 s
whenever the driver is used.

    (dx, dy) = R(-yaw) (p' - p),   dyaw = yaw' - yaw      between two reads, from true poses
"""

import math

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Capabilities, DriverError, Observation
from kofn.hardware.safety import limit
from kofn.sim.bodies import BodyWorld
from kofn.sim.world import TICK_S, FloatArray


class WorldDriver:
    """The only robot of a world.

    Parameters
    ----------
    clock
        Time that the world follows.
    world
        With one robot; it stays open, so that the driver can be opened again.
    seed
        Where the robot starts.

    Raises
    ------
    InputError
        The world has another number of robots.
    """

    def __init__(self, clock: Clock, world: BodyWorld, *, seed: int = 0) -> None:
        if world.spec.n != 1:
            raise InputError(f"a driver moves one robot, this world has {world.spec.n}")
        self._clock, self._world = clock, world
        self._open = False
        self._speeds = Applied(0.0, 0.0)
        self._world_s = clock.now()
        world.reset(seed)
        self._told = self._pose()

    def capabilities(self) -> Capabilities:
        """Return a robot with odometry and nothing else."""
        return Capabilities(
            kind=f"world {self._world.spec.backend}",
            v_max=self._world.limits.v_max,
            w_max=self._world.limits.w_max,
            has_odometry=True,
            has_battery=False,
            has_estop_input=False,
            simulated=True,
        )

    async def open(self) -> None:
        """Start with motors stopped."""
        if self._open:
            raise DriverError("the simulated robot is open already", "close it first")
        self.catch_up()
        self._open = True
        self._speeds = Applied(0.0, 0.0)
        self._told = self._pose()

    async def read(self) -> Observation:
        """Return the way gone since the last read."""
        self._check_open()
        self.catch_up()
        seen = self._world.observe()
        (x, y, yaw), self._told = self._told, self._pose()
        dx, dy = self._told[0] - x, self._told[1] - y
        cos, sin = math.cos(yaw), math.sin(yaw)
        return Observation(
            dx_m=float(dx * cos + dy * sin),
            dy_m=float(dy * cos - dx * sin),
            dyaw_rad=math.remainder(self._told[2] - yaw, math.tau),
            battery_v=None,
            bumper=False,
            estop_input=False,
            faults=() if bool(seen.up[0]) else (seen.trouble.get(0, "unavailable"),),
            stamp_s=self._world_s,
        )

    async def drive(self, v: float, w: float) -> Applied:
        """Set speeds, clipped; return what was applied."""
        if not (math.isfinite(v) and math.isfinite(w)):
            raise ValueError(f"speeds v = {v} m/s, w = {w} rad/s must be finite")
        self._check_open()
        self.catch_up()
        self._speeds = Applied(*limit(v, w, self._world.limits))
        return self._speeds

    async def stop(self) -> None:
        """Speeds to zero; does nothing on a robot that is not open."""
        if self._open:
            self.catch_up()
            self._speeds = Applied(0.0, 0.0)

    async def close(self) -> None:
        """Stop; idempotent. The world goes on without commands."""
        await self.stop()
        self._open = False

    def catch_up(self) -> None:
        """Let the world follow the clock at the speeds that were set."""
        v, w = np.array([self._speeds.v]), np.array([self._speeds.w])
        while self._clock.now() - self._world_s >= TICK_S - 1e-9:
            self._world.drive(v, w)
            self._world_s += TICK_S

    def _pose(self) -> FloatArray:
        """True pose now, shape (3,)."""
        poses = self._world.observe().poses
        assert poses is not None  # noqa: S101  worlds of bodies have them
        pose: FloatArray = poses[0]
        return pose

    def _check_open(self) -> None:
        if not self._open:
            raise DriverError("the simulated robot is not open", "open it first")
