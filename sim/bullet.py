# SPDX-License-Identifier: MIT
"""`BulletWorld`: wheeled robots with contacts and motors in the ring arena, by PyBullet.

Each control tick (0.1 s) reads all poses, asks the option controller for v and w, bounds them, and
steps the physics 6 times at 60 Hz (fidelity "high": 24 times at 240 Hz). Wheel speeds are

    left = (v - w track / 2) / wheel_radius,      right = (v + w track / 2) / wheel_radius.

Same seed, layout and number of robots give the same poses bit for bit on one machine: each reset
makes a fresh engine, loads in a fixed order, and draws from one generator. A robot that has fallen
over, or whose centre is outside the walls, is not `up`; its zone is then the last one it was in.

| symbol | name | shape | unit |
|---|---|---|---|
| n | robots | - | - |
| - | poses: x, y, heading | (n, 3) | m, m, rad |
| v, w | speed, turn rate | (n,) | m/s, rad/s |
"""

import math
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.option import OptionController, OptionSettings
from kofn.hardware.ring import N_ACTIONS, RingLayout, in_ring, zone_of
from kofn.hardware.safety import Limits, check_limits, limit
from kofn.sim.placement import place_robots
from kofn.sim.quiet import quiet_stdout
from kofn.sim.urdf import CASTER_LINKS, LEFT_JOINT, RIGHT_JOINT, RobotModel, robot_urdf
from kofn.sim.world import BoolArray, FloatArray, IntArray, Snapshot, WorldSpec

Fidelity = Literal["default", "high"]

TICK_S = 0.1
MAX_ROBOTS = 300
WALL_BOXES = 32
WALL_HEIGHT_M = 0.3
FRICTION = {"floor": 1.0, "wheel": 0.8, "base": 0.2, "caster": 0.0, "wall": 0.1}
UPRIGHT_COS = 0.7
"""Cosine of the tilt (45 degrees) beyond which a robot counts as fallen over."""


class _Engine(NamedTuple):
    """Frequency in Hz and solver iterations of a fidelity."""

    steps_per_s: int
    iterations: int


_ENGINES: dict[str, _Engine] = {"default": _Engine(60, 10), "high": _Engine(240, 50)}


def load_pybullet() -> Any:
    """Import PyBullet without its output; `RunError` names the extra when it is missing."""
    try:
        with quiet_stdout():
            import pybullet
    except ImportError as error:
        raise RunError(
            "the bullet world needs PyBullet, which is not installed: install `kofn[sim]` "
            "with Python 3.11, the newest version that it has wheels for"
        ) from error
    return pybullet


class BulletWorld:
    """n wheeled robots in a ring; implements `kofn.sim.world.World`.

    Parameters
    ----------
    n
        Robots, 1 to what the ring can hold.
    layout
        The arena and its traffic rule.
    model
        Sizes of the robot; its radius must be the layout's. Default: the reference robot, scaled.
    settings
        Gains of the option controller.
    limits
        Greatest speed and turn rate; default what the settings can ask for.
    period_s
        Length T of an option, a multiple of 0.1 s; robots stop when it is over.
    fidelity
        "default" is 60 Hz with 10 solver iterations, "high" 240 Hz with 50.

    Raises
    ------
    InputError
        A value is out of range, or the robots do not fit.
    RunError
        PyBullet is not installed.
    """

    def __init__(
        self,
        n: int,
        layout: RingLayout | None = None,
        *,
        model: RobotModel | None = None,
        settings: OptionSettings | None = None,
        limits: Limits | None = None,
        period_s: float = 6.0,
        fidelity: Fidelity = "default",
    ) -> None:
        self.layout = layout if layout is not None else RingLayout()
        self.model = (
            model if model is not None else RobotModel.of_radius(self.layout.robot_radius_m)
        )
        if not math.isclose(self.model.radius_m, self.layout.robot_radius_m):
            raise InputError(
                f"robot radius {self.model.radius_m} m differs from the layout's "
                f"{self.layout.robot_radius_m} m"
            )
        limit = min(MAX_ROBOTS, self.layout.capacity)
        if not 1 <= n <= limit:
            raise InputError(f"{n} robots do not fit: this ring holds 1 to {limit} robots")
        if fidelity not in _ENGINES:
            raise InputError(f"fidelity {fidelity!r} is not one of {', '.join(_ENGINES)}")
        self._pb = load_pybullet()
        self.spec = WorldSpec(
            n=n,
            n_zones=self.layout.zones,
            n_actions=N_ACTIONS,
            period_s=period_s,
            tick_s=TICK_S,
            backend="bullet",
            versions={"pybullet": version("pybullet"), "numpy": np.__version__},
            arena=self.layout.as_arena(),
        )
        self._period_ticks = _ticks(period_s, "period_s")
        if self._period_ticks < 1:
            raise InputError(f"period_s = {period_s} s must be at least {TICK_S} s")
        self._settings = settings if settings is not None else OptionSettings()
        self._limits = check_limits(
            limits
            if limits is not None
            else Limits(self._settings.fastest_mps, self._settings.w_max_radps)
        )
        self._engine = _ENGINES[fidelity]
        self._substeps = round(self._engine.steps_per_s * TICK_S)
        self._client: int | None = None
        self._closed = False

    def reset(self, seed: int) -> None:
        """Build the arena and place the robots anew, at time 0, with motors at zero."""
        if self._closed:
            raise RunError("the world is closed")
        self._disconnect()
        generator = np.random.default_rng(seed)
        spawn = place_robots(self.layout, self.spec.n, generator)
        with quiet_stdout(), tempfile.TemporaryDirectory(prefix="kofn-") as folder:
            self._client = self._pb.connect(self._pb.DIRECT)
            self._configure()
            self._build_arena()
            self._bodies, self._joints = self._load_robots(Path(folder), spawn)
        self._options = OptionController(self.layout, self.spec.n, generator, self._settings)
        self._tick = 0
        self._option_ticks_left = 0
        self._zones = np.zeros(self.spec.n, dtype=np.int64)
        self._read()

    def observe(self) -> Snapshot:
        """Return zones, poses and availability now."""
        self._require_open()
        return Snapshot(
            zones=self._zones.copy(),
            poses=self._poses.copy(),
            up=self._up.copy(),
            time_s=self._tick * TICK_S,
        )

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot: 0..2, or -1 to hold; shape (n,)."""
        self._require_open()
        self._options.start(actions, self._poses)
        self._option_ticks_left = self._period_ticks

    def advance(self, duration_s: float) -> None:
        """Simulate `duration_s` seconds, a multiple of 0.1 s."""
        self._require_open()
        for _ in range(_ticks(duration_s, "duration_s")):
            v, w = np.zeros(self.spec.n), np.zeros(self.spec.n)
            if self._option_ticks_left > 0:
                self._option_ticks_left -= 1
                v, w = self._options.command(self._poses, self._options.push(self._poses))
                v, w = limit(np.where(self._up, v, 0.0), np.where(self._up, w, 0.0), self._limits)
            self._drive(v, w)
            for _ in range(self._substeps):
                self._pb.stepSimulation(physicsClientId=self._client)
            self._tick += 1
            self._read()

    def close(self) -> None:
        """Release the engine; idempotent."""
        self._closed = True
        self._disconnect()

    def _require_open(self) -> None:
        if self._closed:
            raise RunError("the world is closed")
        if self._client is None:
            raise RunError("the world has no state yet: reset it with a seed first")

    def _disconnect(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            with quiet_stdout():
                self._pb.disconnect(physicsClientId=client)

    def _configure(self) -> None:
        self._pb.setGravity(0.0, 0.0, -9.81, physicsClientId=self._client)
        self._pb.setPhysicsEngineParameter(
            fixedTimeStep=1.0 / self._engine.steps_per_s,
            numSolverIterations=self._engine.iterations,
            numSubSteps=0,
            deterministicOverlappingPairs=1,
            physicsClientId=self._client,
        )

    def _build_arena(self) -> None:
        pb, client, layout = self._pb, self._client, self.layout
        floor = pb.createCollisionShape(pb.GEOM_PLANE, physicsClientId=client)
        self._add_fixed(floor, (0.0, 0.0, 0.0), 0.0, FRICTION["floor"])
        core = pb.createCollisionShape(
            pb.GEOM_CYLINDER,
            radius=layout.inner_m,
            height=WALL_HEIGHT_M,
            physicsClientId=client,
        )
        middle = 0.5 * WALL_HEIGHT_M
        self._add_fixed(core, (0.0, 0.0, middle), 0.0, FRICTION["wall"])
        thick = 0.05
        # Half length so that neighbouring boxes overlap at the corners and leave no gap.
        half_length = (layout.outer_m + 2.0 * thick) * math.tan(math.pi / WALL_BOXES)
        box = pb.createCollisionShape(
            pb.GEOM_BOX, halfExtents=[thick, half_length, middle], physicsClientId=client
        )
        for i in range(WALL_BOXES):
            angle = 2.0 * math.pi * i / WALL_BOXES
            distance = layout.outer_m + thick
            place = (distance * math.cos(angle), distance * math.sin(angle), middle)
            self._add_fixed(box, place, angle, FRICTION["wall"])

    def _add_fixed(
        self, shape: int, place: tuple[float, float, float], yaw: float, friction: float
    ) -> None:
        body = self._pb.createMultiBody(
            0.0, shape, -1, place, (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)),
            physicsClientId=self._client,
        )  # fmt: skip
        self._pb.changeDynamics(body, -1, lateralFriction=friction, physicsClientId=self._client)

    def _load_robots(self, folder: Path, spawn: FloatArray) -> tuple[list[int], list[int]]:
        """Load one robot at each pose of `spawn` (n, 3); returns bodies and the wheel joints."""
        pb, client = self._pb, self._client
        path = folder / "robot.urdf"
        path.write_text(robot_urdf(self.model), encoding="utf-8")
        joints: dict[str, int] = {}
        bodies: list[int] = []
        for x, y, yaw in spawn.tolist():
            body = pb.loadURDF(
                str(path),
                basePosition=[x, y, self.model.depth_m + 0.001],
                baseOrientation=[0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)],
                # Without this flag Bullet replaces our inertias by those of the shapes.
                flags=pb.URDF_USE_INERTIA_FROM_FILE,
                physicsClientId=client,
            )
            bodies.append(body)
            friction = {-1: FRICTION["base"]}
            for index in range(pb.getNumJoints(body, physicsClientId=client)):
                info = pb.getJointInfo(body, index, physicsClientId=client)
                joints[info[1].decode()] = index
                caster = info[12].decode() in CASTER_LINKS
                friction[index] = FRICTION["caster" if caster else "wheel"]
            for link, value in friction.items():
                pb.changeDynamics(body, link, lateralFriction=value, physicsClientId=client)
        return bodies, [joints[LEFT_JOINT], joints[RIGHT_JOINT]]

    def _drive(self, v: FloatArray, w: FloatArray) -> None:
        pb, radius, half = self._pb, self.model.wheel_radius_m, 0.5 * self.model.track_m
        forces = [self.model.motor_torque_nm] * 2
        wheels = np.stack([v - w * half, v + w * half], axis=1) / radius
        for body, speeds in zip(self._bodies, wheels.tolist(), strict=True):
            pb.setJointMotorControlArray(
                body,
                self._joints,
                pb.VELOCITY_CONTROL,
                targetVelocities=speeds,
                forces=forces,
                physicsClientId=self._client,
            )

    def _read(self) -> None:
        """Take poses, zones and availability from the engine."""
        pb, client = self._pb, self._client
        rows = np.empty((self.spec.n, 7))
        for i, body in enumerate(self._bodies):
            place, turn = pb.getBasePositionAndOrientation(body, physicsClientId=client)
            rows[i, :3] = place
            rows[i, 3:] = turn
        x, y, z, w = rows[:, 3], rows[:, 4], rows[:, 5], rows[:, 6]
        yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        self._poses: FloatArray = np.stack([rows[:, 0], rows[:, 1], yaw], axis=1)
        upright = 1.0 - 2.0 * (x * x + y * y) > UPRIGHT_COS
        self._up: BoolArray = upright & in_ring(self.layout, self._poses)
        self._zones = np.where(self._up, zone_of(self.layout, self._poses), self._zones)


def _ticks(duration_s: float, name: str) -> int:
    """Whole control ticks of a duration; `InputError` if it is not a multiple of one."""
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise InputError(f"{name} = {duration_s} s must be finite and at least 0")
    ticks = round(duration_s / TICK_S)
    if abs(ticks * TICK_S - duration_s) > 1e-6:
        raise InputError(f"{name} = {duration_s} s is not a multiple of the tick of {TICK_S} s")
    return ticks
