# SPDX-License-Identifier: MIT
"""`make_world`: a world by its name, with one sentence for a name that there is not."""

from typing import Literal, get_args

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.sim.motion import MotionKernel
from kofn.sim.robots import RobotSpec
from kofn.sim.world import World

WorldName = Literal["bullet", "kinematic", "finite"]
Fidelity = Literal["default", "high"]
WORLDS: tuple[str, ...] = get_args(WorldName)


def make_world(
    name: str,
    n: int,
    layout: Layout,
    *,
    period_s: float = 6.0,
    robot: RobotSpec | None = None,
    fidelity: Fidelity = "default",
    gui: bool = False,
    kernel: MotionKernel | None = None,
) -> World:
    """Return a world that has not been reset yet.

    Parameters
    ----------
    name
        "bullet" (wheels, contacts, motors), "kinematic" (unicycles) or "finite" (a kernel).
    n
        Robots.
    layout
        The arena; of a finite world only its number of zones matters.
    period_s
        Length of an option.
    robot
        What its robots are like.
    fidelity
        Of the bullet world: "default" is 50 Hz with 10 solver iterations, "high" 240 Hz with 50.
    gui
        Show the bullet world in a window.
    kernel
        Motion of a finite world.

    Raises
    ------
    InputError
        An unknown name, robots that do not fit, or a finite world without its kernel.
    """
    robot = robot if robot is not None else RobotSpec()
    if name != "bullet" and (fidelity != "default" or gui or robot.urdf):
        raise InputError(f"fidelity, gui and urdf are settings of world 'bullet', not of {name!r}")
    if name == "bullet":
        from kofn.sim.bullet import BulletWorld

        return BulletWorld(
            n,
            layout,
            model=robot.model(layout.robot_radius_m),
            urdf=robot.of_file(),
            settings=robot.settings,
            period_s=period_s,
            fidelity=fidelity,
            gui=gui,
            noise=(robot.position_noise_m, robot.heading_noise_rad),
        )
    if name == "kinematic":
        from kofn.sim.kinematic import KinematicWorld

        return KinematicWorld(
            n,
            layout,
            settings=robot.settings,
            period_s=period_s,
            track_m=robot.track_m,
            noise=(robot.position_noise_m, robot.heading_noise_rad),
        )
    if name == "finite":
        from kofn.sim.finite import FiniteWorld

        if kernel is None:
            raise InputError("world 'finite' needs a motion kernel")
        check_zones(kernel, layout)
        return FiniteWorld(n, kernel, period_s=period_s)
    raise InputError(f"unknown world {name!r}; known are {', '.join(WORLDS)}")


def check_zones(kernel: MotionKernel, layout: Layout) -> None:
    """Raise `InputError` unless a motion kernel has the zones of an arena."""
    if kernel.n_zones != layout.zones:
        raise InputError(f"the motion kernel has {kernel.n_zones} zones, the arena {layout.zones}")
