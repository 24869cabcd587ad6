# SPDX-License-Identifier: MIT
"""Text of the differential-drive robot as URDF, scaled from a few numbers; no meshes.

A cylinder body on two driven wheels (collision spheres, drawn as discs) and two casters that end
just above the floor: `depth = wheel_drop + wheel_radius = caster_drop + caster_radius + gap`.
Every link has an inertia: Bullet invents one for a link without, and says so on stdout.

| quantity | value | unit |
|---|---|---|
| body inertia | 0.4 m r^2, 0.4 m r^2, 0.6 m r^2 | kg m^2 |
| wheel centre below the body's | 0.030 r/0.1 | m |
| caster centre below the body's | 0.050 r/0.1 | m |

Casters are shapes of the body. Bullet knows one friction a link, so the body has that of casters,
none, and robots slide along each other freely. Four points of one depth would share the weight as
the solver likes, up to wheels that slip; with the gap, which real robots have too, wheels carry the
robot. How much air that takes depends on how far a robot falls in a step of the engine, not on its
size. Without `merge_links` casters are links of their own, as deep as wheels: the body then has
friction, turns are less true and the engine has more to do.
"""

import math
from typing import Self

import msgspec

from kofn.controller.core.errors import InputError

LEFT_JOINT = "left_wheel"
RIGHT_JOINT = "right_wheel"
CASTER_LINKS = ("caster_front", "caster_back")
CASTER_GAP_M = 0.0002
"""Air under merged casters: with half of it wheels of a small robot slip at 50 steps a second."""


class RobotModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the robot; defaults are the reference robot.

    Attributes
    ----------
    radius_m, height_m
        Body cylinder.
    mass_kg
        Of the body; each wheel weighs a twentieth of it, each caster a fiftieth.
    wheel_radius_m, track_m
        Driven wheels and the distance between them.
    merge_links
        Casters are part of the body, which has no friction then, instead of links.

    Raises
    ------
    InputError
        A size is not positive, or wheels and casters do not fit under the body.
    """

    radius_m: float = 0.10
    height_m: float = 0.08
    mass_kg: float = 1.0
    wheel_radius_m: float = 0.035
    track_m: float = 0.16
    merge_links: bool = True

    def __post_init__(self) -> None:
        for name in ("radius_m", "height_m", "mass_kg", "wheel_radius_m", "track_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"robot {name} = {value} must be finite and above 0")
        if self.track_m > 2.0 * self.radius_m:
            raise InputError(
                f"robot track_m = {self.track_m} m exceeds the body's diameter "
                f"of {2.0 * self.radius_m:g} m"
            )
        if not self._caster_room_m >= 0.05 * self.radius_m:
            raise InputError(
                f"robot wheel_radius_m = {self.wheel_radius_m} m leaves no room for casters "
                f"under a body of radius {self.radius_m} m, the least is "
                f"{0.25 * self.radius_m:g} m"
            )
        if not self.clearance_m > 0:
            raise InputError(
                f"robot wheel_radius_m = {self.wheel_radius_m} m is too small: a body "
                f"{self.height_m} m high would touch the floor"
            )

    @classmethod
    def of_radius(cls, radius_m: float) -> Self:
        """Return the reference robot scaled to a body radius, its mass with the square of it."""
        if not (math.isfinite(radius_m) and radius_m > 0):
            raise InputError(f"robot radius_m = {radius_m} must be finite and above 0")
        return cls(
            radius_m=radius_m,
            height_m=0.8 * radius_m,
            mass_kg=100.0 * radius_m**2,
            wheel_radius_m=0.35 * radius_m,
            track_m=1.6 * radius_m,
        )

    @property
    def wheel_drop_m(self) -> float:
        """Wheel centre below the body's centre, m."""
        return 0.3 * self.radius_m

    @property
    def caster_drop_m(self) -> float:
        """Caster centre below the body's centre, m."""
        return 0.5 * self.radius_m

    @property
    def depth_m(self) -> float:
        """Height of the body's centre above the floor, m."""
        return self.wheel_drop_m + self.wheel_radius_m

    @property
    def caster_radius_m(self) -> float:
        """Chosen so that casters reach the floor where wheels do, or just not if merged, m."""
        room = self._caster_room_m
        return room - min(CASTER_GAP_M, 0.1 * room) if self.merge_links else room

    @property
    def _caster_room_m(self) -> float:
        """From the caster's centre to the floor, m."""
        return self.depth_m - self.caster_drop_m

    @property
    def motor_torque_nm(self) -> float:
        """Torque of each motor: the reference robot's 0.3 N m, scaled to mass and wheel, N m."""
        return 0.3 * self.mass_kg * self.wheel_radius_m / 0.035

    @property
    def clearance_m(self) -> float:
        """Gap between body and floor, m."""
        return self.depth_m - 0.5 * self.height_m


def _link(name: str, mass_kg: float, inertia: tuple[float, float, float], shapes: str) -> str:
    ixx, iyy, izz = inertia
    return (
        f'  <link name="{name}">\n'
        f'    <inertial><mass value="{mass_kg:g}"/>'
        f'<inertia ixx="{ixx:g}" iyy="{iyy:g}" izz="{izz:g}" ixy="0" ixz="0" iyz="0"/></inertial>\n'
        f"{shapes}  </link>\n"
    )


def _shape(kind: str, geometry: str, *, xyz: str = "0 0 0", rpy: str = "0 0 0") -> str:
    return (
        f'    <{kind}><origin xyz="{xyz}" rpy="{rpy}"/><geometry>{geometry}</geometry></{kind}>\n'
    )


def _joint(name: str, kind: str, child: str, xyz: tuple[float, float, float]) -> str:
    x, y, z = xyz
    axis = '<axis xyz="0 1 0"/>' if kind == "continuous" else ""
    return (
        f'  <joint name="{name}" type="{kind}"><parent link="base"/><child link="{child}"/>'
        f'<origin xyz="{x:g} {y:g} {z:g}"/>{axis}</joint>\n'
    )


def robot_urdf(model: RobotModel | None = None) -> str:
    """Text of a URDF file for `model` (default: the reference robot)."""
    model = model if model is not None else RobotModel()
    r, mass = model.radius_m, model.mass_kg
    inertia = mass * r * r
    body = f'<cylinder radius="{r:g}" length="{model.height_m:g}"/>'
    nose = f'<box size="{0.8 * r:g} {0.2 * r:g} {0.1 * r:g}"/>'
    wheel_ball = f'<sphere radius="{model.wheel_radius_m:g}"/>'
    wheel_disc = f'<cylinder radius="{model.wheel_radius_m:g}" length="{0.2 * r:g}"/>'
    caster = f'<sphere radius="{model.caster_radius_m:.9g}"/>'
    # Below about 1e-5 kg m^2 the solver becomes unstable.
    caster_inertia = max(1e-5, 0.4 * 0.02 * mass * model.caster_radius_m**2)
    places = [(side * 0.7 * r, 0.0, -model.caster_drop_m) for side in (1.0, -1.0)]
    merged, links = "", []
    for name, (x, y, z) in zip(CASTER_LINKS, places, strict=True):
        if model.merge_links:
            merged += _shape("collision", caster, xyz=f"{x:g} {y:g} {z:g}")
        else:
            links += [
                _link(name, 0.02 * mass, (caster_inertia,) * 3, _shape("collision", caster)),
                _joint(f"{name}_mount", "fixed", name, (x, y, z)),
            ]
    spin = 0.05 * mass * model.wheel_radius_m**2

    parts = [
        '<?xml version="1.0"?>\n<robot name="kofn_diff_drive">\n',
        _link(
            "base",
            mass,
            (0.4 * inertia, 0.4 * inertia, 0.6 * inertia),
            _shape("collision", body)
            + merged
            + _shape("visual", body)
            + _shape("visual", nose, xyz=f"{0.5 * r:g} 0 {0.5 * model.height_m + 0.05 * r:g}"),
        ),
    ]
    for name, side in ((LEFT_JOINT, 1.0), (RIGHT_JOINT, -1.0)):
        parts += [
            _link(
                f"{name}_link",
                0.05 * mass,
                (max(1e-5, 0.5 * spin), max(1e-5, 0.8 * spin), max(1e-5, 0.5 * spin)),
                _shape("collision", wheel_ball)
                + _shape("visual", wheel_disc, rpy=f"{math.pi / 2:.6f} 0 0"),
            ),
            _joint(
                name,
                "continuous",
                f"{name}_link",
                (0.0, side * 0.5 * model.track_m, -model.wheel_drop_m),
            ),
        ]
    return "".join([*parts, *links, "</robot>\n"])
