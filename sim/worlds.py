# SPDX-License-Identifier: MIT
"""`make_world`: a world by its name, with one sentence for a name that there is not."""

from typing import Literal, get_args

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout
from kofn.hardware.option import OptionSettings
from kofn.sim.motion import MotionKernel
from kofn.sim.world import World

WorldName = Literal["bullet", "kinematic", "finite"]
WORLDS: tuple[str, ...] = get_args(WorldName)


def make_world(
    name: str,
    n: int,
    layout: Layout,
    *,
    period_s: float = 6.0,
    settings: OptionSettings | None = None,
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
    settings
        Gains of the option controller.
    kernel
        Motion of a finite world.

    Raises
    ------
    InputError
        An unknown name, robots that do not fit, or a finite world without its kernel.
    """
    if name == "bullet":
        from kofn.sim.bullet import BulletWorld

        return BulletWorld(n, layout, period_s=period_s, settings=settings)
    if name == "kinematic":
        from kofn.sim.kinematic import KinematicWorld

        return KinematicWorld(n, layout, period_s=period_s, settings=settings)
    if name == "finite":
        from kofn.sim.finite import FiniteWorld

        if kernel is None:
            raise InputError("world 'finite' needs a motion kernel")
        if kernel.n_zones != layout.zones:
            raise InputError(
                f"the motion kernel has {kernel.n_zones} zones, the arena {layout.zones}"
            )
        return FiniteWorld(n, kernel, period_s=period_s)
    raise InputError(f"unknown world {name!r}; known are {', '.join(WORLDS)}")
