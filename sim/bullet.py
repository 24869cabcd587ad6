# SPDX-License-Identifier: MIT
"""`BulletWorld`: wheeled robots with contacts and motors in an arena, by PyBullet.

Each control tick (0.1 s) steps the physics 5 times at 50 Hz (fidelity "high": 24 times at 240 Hz).
Wheel speeds are

    left = (v - w track / 2) / wheel_radius,      right = (v + w track / 2) / wheel_radius.

Same seed, layout and number of robots give the same poses bit for bit on one machine: each reset
makes a fresh engine, loads in a fixed order, and draws from one generator.

| symbol | name | shape | unit |
|---|---|---|---|
| n | robots | - | - |
| - | poses: x, y, heading | (n, 3) | m, m, rad |
| v, w | speed, turn rate | (n,) | m/s, rad/s |
"""

import math
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.arena import Layout
from kofn.hardware.option import OptionSettings
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety import Limits
from kofn.sim.bodies import BodyWorld
from kofn.sim.bullet_arena import build_arena, build_floor
from kofn.sim.quiet import quiet_stdout
from kofn.sim.robots import UserUrdf
from kofn.sim.urdf import CASTER_LINKS, LEFT_JOINT, RIGHT_JOINT, RobotModel, robot_urdf
from kofn.sim.world import TICK_S, BoolArray, FloatArray
from kofn.sim.worlds import Fidelity

MAX_ROBOTS = 300
"""Beyond it, seconds of computing go into one of theirs."""
PHYSICS = "2"
"""Counts changes of the robot and of the engine's settings: what was recorded in one physics says
little of another, so runs and kernels carry it. In 1, without it, casters were links, at 60 Hz."""
CONTACT_MARGIN = 0.002
"""Gap up to which a contact is kept, as a share of a shape's size.

Bullet's own 0.02 keeps a second contact of each wheel with the floor, behind the one it stands on,
which costs a fifth of a step and carries nothing. The engine has one such margin per process."""
FRICTION = {"wheel": 0.8, "base": 0.2, "caster": 0.0}
UPRIGHT_COS = 0.7
"""Cosine of the tilt (45 degrees) beyond which a robot counts as fallen over."""


TURN_TEST_TICKS = 15
TURN_TEST_SHARE = 0.3
"""A model that turns by less than this share of what its wheels ask for cannot steer itself."""


class _Engine(NamedTuple):
    """Frequency in Hz and solver iterations of a fidelity."""

    steps_per_s: int
    iterations: int


_ENGINES: dict[str, _Engine] = {"default": _Engine(50, 10), "high": _Engine(240, 50)}


def check_display() -> None:
    """Raise `RunError` where no window can be shown."""
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        raise RunError(
            "there is no display for a window: DISPLAY is not set (a film needs none, "
            "`kofn plot RUN` draws it)"
        )


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


class BulletWorld(BodyWorld):
    """n wheeled robots in an arena; implements `kofn.sim.world.World`.

    Parameters
    ----------
    n
        Robots, 1 to what the arena can hold, at most 300.
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
        "default" is 50 Hz with 10 solver iterations, "high" 240 Hz with 50.
    urdf
        A model of your own instead of `model`; it must turn on the spot.
    gui
        Show the world in PyBullet's window; needs a display.
    noise
        Standard deviation of sensed places (m) and headings (rad).

    Raises
    ------
    InputError
        A value is out of range, or the robots do not fit.
    RunError
        PyBullet is not installed.
    """

    calibrated = True

    def __init__(
        self,
        n: int,
        layout: Layout | None = None,
        *,
        model: RobotModel | None = None,
        settings: OptionSettings | None = None,
        limits: Limits | None = None,
        period_s: float = 6.0,
        fidelity: Fidelity = "default",
        urdf: UserUrdf | None = None,
        gui: bool = False,
        noise: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        layout = layout if layout is not None else RingLayout()
        self.model = model if model is not None else RobotModel.of_radius(layout.robot_radius_m)
        if not math.isclose(self.model.radius_m, layout.robot_radius_m):
            raise InputError(
                f"robot radius {self.model.radius_m} m differs from the layout's "
                f"{layout.robot_radius_m} m"
            )
        if fidelity not in _ENGINES:
            raise InputError(f"fidelity {fidelity!r} is not one of {', '.join(_ENGINES)}")
        self._engine = _ENGINES[fidelity]
        self._substeps = round(self._engine.steps_per_s * TICK_S)
        self._client: int | None = None
        super().__init__(
            n,
            layout,
            track_m=self.model.track_m if urdf is None else urdf.track_m,
            most=MAX_ROBOTS,
            backend="bullet",
            versions={},
            settings=settings,
            limits=limits,
            period_s=period_s,
            noise=noise,
        )
        self._urdf, self._gui = urdf, gui
        if gui:
            check_display()
        self._pb = load_pybullet()
        self.spec.versions.update(pybullet=version("pybullet"), physics=PHYSICS)
        if urdf is not None:
            self._check_model(urdf)

    def _build(self, spawn: FloatArray) -> None:
        with quiet_stdout(), tempfile.TemporaryDirectory(prefix="kofn-") as folder:
            self._client = self._pb.connect(self._pb.GUI if self._gui else self._pb.DIRECT)
            self._configure()
            if self._gui:
                self._aim_window()
            build_arena(self._pb, self._client, self.layout)
            self._load_robots(Path(folder), spawn)

    def _aim_window(self) -> None:
        pb, client = self._pb, self._client
        pb.configureDebugVisualizer(pb.COV_ENABLE_GUI, 0, physicsClientId=client)
        pb.resetDebugVisualizerCamera(
            2.2 * self.layout.reach_m, 0.0, -60.0, [0.0, 0.0, 0.0], physicsClientId=client
        )

    def _move(self, v: FloatArray, w: FloatArray) -> None:
        try:
            self._drive(v, w)
            for _ in range(self._substeps):
                self._pb.stepSimulation(physicsClientId=self._client)
        except self._pb.error as error:
            if not self._gui:
                raise
            raise RunError("the window of the simulation was closed") from error

    def _release(self) -> None:
        self._disconnect()

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
            contactBreakingThreshold=CONTACT_MARGIN,
            physicsClientId=self._client,
        )

    def _load_robots(self, folder: Path, spawn: FloatArray) -> None:
        """Load one robot at each pose of `spawn` (n, 3)."""
        pb, client, urdf = self._pb, self._client, self._urdf
        if urdf is None:
            path = folder / "robot.urdf"
            path.write_text(robot_urdf(self.model), encoding="utf-8")
            self._wheels = [LEFT_JOINT, RIGHT_JOINT]
            self._left = 1
            self._wheel_radius_m = self.model.wheel_radius_m
            height = self.model.depth_m
        else:
            path = urdf.path
            self._wheels = [*urdf.left, *urdf.right]
            self._left = len(urdf.left)
            self._wheel_radius_m = urdf.wheel_radius_m
            height = None
        self._bodies: list[int] = []
        for x, y, yaw in spawn.tolist():
            turn = [0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]
            body = pb.loadURDF(
                str(path),
                basePosition=[x, y, 0.0 if height is None else height + 0.001],
                baseOrientation=turn,
                # Without this flag Bullet replaces our inertias by those of the shapes.
                flags=pb.URDF_USE_INERTIA_FROM_FILE,
                physicsClientId=client,
            )
            if height is None:
                height = -self._lowest(body)
            if urdf is not None:
                place = [x, y, height + 0.001]
                pb.resetBasePositionAndOrientation(body, place, turn, physicsClientId=client)
            self._bodies.append(body)
            joints, links = self._names(body)
            if urdf is None:
                friction = dict.fromkeys(joints.values(), FRICTION["wheel"])
                if self.model.merge_links:
                    friction[-1] = FRICTION["caster"]
                else:
                    friction[-1] = FRICTION["base"]
                    friction |= {links[name]: FRICTION["caster"] for name in CASTER_LINKS}
                for link, value in friction.items():
                    pb.changeDynamics(body, link, lateralFriction=value, physicsClientId=client)
        self._joints = [self._joint(joints, name) for name in self._wheels]
        self._torque_nm = self._motor_torque(self._bodies[0])
        self._told = np.full((len(self._bodies), len(self._joints)), np.nan)

    def _names(self, body: int) -> tuple[dict[str, int], dict[str, int]]:
        """Indices of a body's joints and links by their names."""
        joints: dict[str, int] = {}
        links: dict[str, int] = {}
        for index in range(self._pb.getNumJoints(body, physicsClientId=self._client)):
            info = self._pb.getJointInfo(body, index, physicsClientId=self._client)
            joints[info[1].decode()] = links[info[12].decode()] = index
        return joints, links

    def _joint(self, joints: dict[str, int], name: str) -> int:
        if name not in joints:
            raise InputError(
                f"the robot's urdf has no joint {name!r}; it has {', '.join(joints) or 'none'}"
            )
        return joints[name]

    def _lowest(self, body: int) -> float:
        """Lowest point of a body, m."""
        links = range(-1, self._pb.getNumJoints(body, physicsClientId=self._client))
        boxes = [self._pb.getAABB(body, link, physicsClientId=self._client) for link in links]
        return min(float(low[2]) for low, _ in boxes)

    def _motor_torque(self, body: int) -> float:
        """Torque of each motor: the reference robot's 0.3 N m, scaled to mass and wheel, N m."""
        if self._urdf is None:
            return self.model.motor_torque_nm
        links = range(-1, self._pb.getNumJoints(body, physicsClientId=self._client))
        mass_kg = sum(
            self._pb.getDynamicsInfo(body, link, physicsClientId=self._client)[0] for link in links
        )
        pairs = 0.5 * len(self._joints)
        return 0.3 * float(mass_kg) * self._wheel_radius_m / 0.035 / pairs

    def _check_model(self, urdf: UserUrdf) -> None:
        """Refuse a model that does not turn on the spot when its wheels are told to."""
        with quiet_stdout(), tempfile.TemporaryDirectory(prefix="kofn-") as folder:
            self._client = self._pb.connect(self._pb.DIRECT)
            try:
                self._configure()
                build_floor(self._pb, self._client)
                try:
                    self._load_robots(Path(folder), np.zeros((1, 3)))
                except self._pb.error as error:
                    raise InputError(f"cannot load robot urdf {urdf.path}: {error}") from error
                turned = 0.0
                for _ in range(TURN_TEST_TICKS):
                    before = self._look_at(1)[0][0, 2]
                    self._drive(np.zeros(1), np.ones(1))
                    for _ in range(self._substeps):
                        self._pb.stepSimulation(physicsClientId=self._client)
                    turned += math.remainder(self._look_at(1)[0][0, 2] - before, 2.0 * math.pi)
            finally:
                self._disconnect()
        asked = TURN_TEST_TICKS * TICK_S
        if turned < TURN_TEST_SHARE * asked:
            raise InputError(
                f"the robot of {urdf.path} turned by {turned:.2f} rad on the spot where its wheels "
                f"should turn it by {asked:g} rad, at least {TURN_TEST_SHARE * asked:g} rad are "
                "needed: are the wheel joints, their order and track_m right?"
            )

    def _drive(self, v: FloatArray, w: FloatArray) -> None:
        pb, half = self._pb, self._half_track_m
        forces = [self._torque_nm] * len(self._joints)
        left, right = (v - w * half) / self._wheel_radius_m, (v + w * half) / self._wheel_radius_m
        sides = [left] * self._left + [right] * (len(self._joints) - self._left)
        speeds = np.stack(sides, axis=1)
        # A motor keeps what it was told, and a third of all robots stand still.
        new = np.flatnonzero((speeds != self._told).any(axis=1)).tolist()
        self._told = speeds
        for i, wanted in zip(new, speeds[new].tolist(), strict=True):
            pb.setJointMotorControlArray(
                self._bodies[i],
                self._joints,
                pb.VELOCITY_CONTROL,
                targetVelocities=wanted,
                forces=forces,
                physicsClientId=self._client,
            )

    def _look(self) -> tuple[FloatArray, BoolArray]:
        return self._look_at(self.spec.n)

    def _look_at(self, n: int) -> tuple[FloatArray, BoolArray]:
        pb, client = self._pb, self._client
        rows = np.empty((n, 7))
        for i, body in enumerate(self._bodies):
            place, turn = pb.getBasePositionAndOrientation(body, physicsClientId=client)
            rows[i, :3] = place
            rows[i, 3:] = turn
        x, y, z, w = rows[:, 3], rows[:, 4], rows[:, 5], rows[:, 6]
        yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        upright: BoolArray = 1.0 - 2.0 * (x * x + y * y) > UPRIGHT_COS
        return np.stack([rows[:, 0], rows[:, 1], yaw], axis=1), upright
