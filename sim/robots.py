# SPDX-License-Identifier: MIT
"""`RobotSpec`: the robots of a simulated host, as a scenario describes them."""

import math
from pathlib import Path

import msgspec

from kofn.controller.core.errors import InputError
from kofn.hardware.option import OptionSettings
from kofn.sim.urdf import RobotModel


class UserUrdf(msgspec.Struct, frozen=True, kw_only=True):
    """A robot from a file: its wheel joints by side, and the sizes that turn speeds into theirs."""

    path: Path
    left: tuple[str, ...]
    right: tuple[str, ...]
    wheel_radius_m: float
    track_m: float


class RobotSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Robots of one kind. Their radius is the arena's `robot_radius_m`.

    Attributes
    ----------
    speed_mps, speed_spread
        Nominal speed; standard deviation of the factor on it that is drawn for each option.
    w_max_radps
        Greatest turn rate.
    position_noise_m, heading_noise_rad
        Standard deviation of what a robot senses of its own place and heading.
    track_m, wheel_radius_m, height_m, mass_kg
        Sizes of the simulated robot; None scales the reference robot to the radius.
    merge_links
        False makes casters links of their own: bodies then have friction, but turns are less true.
    urdf, left_wheels, right_wheels
        A model of your own: its file, and the names of the joints of its wheels. It needs `track_m`
        and `wheel_radius_m`, and must be able to turn on the spot.

    Raises
    ------
    InputError
        A value is out of range, or a URDF without what it needs.
    """

    speed_mps: float = 0.4
    speed_spread: float = 0.1
    w_max_radps: float = 3.0
    position_noise_m: float = 0.0
    heading_noise_rad: float = 0.0
    track_m: float | None = None
    wheel_radius_m: float | None = None
    height_m: float | None = None
    mass_kg: float | None = None
    merge_links: bool | None = None
    urdf: str = ""
    left_wheels: tuple[str, ...] = ()
    right_wheels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("speed_spread", "position_noise_m", "heading_noise_rad"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"robot {name} = {value} must be finite and at least 0")
        for name in ("speed_mps", "w_max_radps", "track_m", "wheel_radius_m"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"robot {name} = {value} must be finite and above 0")
        if not self.urdf:
            if self.left_wheels or self.right_wheels:
                raise InputError("robot wheels are named, but there is no robot urdf")
            return
        if self.merge_links is not None:
            raise InputError("robot merge_links is for our own robot, not for a robot urdf")
        for name in ("track_m", "wheel_radius_m", "left_wheels", "right_wheels"):
            if not getattr(self, name):
                raise InputError(f"robot urdf = {self.urdf!r} needs robot {name} too")
        if not Path(self.urdf).is_file():
            raise InputError(f"robot urdf = {self.urdf!r}: there is no such file")

    @property
    def settings(self) -> OptionSettings:
        """Gains of the option controller for these robots."""
        return OptionSettings(
            speed_mps=self.speed_mps,
            speed_spread=self.speed_spread,
            w_max_radps=self.w_max_radps,
        )

    def model(self, radius_m: float) -> RobotModel:
        """Return the sizes of a robot of this radius; `InputError` where they do not fit."""
        own = {
            name: value
            for name in ("track_m", "wheel_radius_m", "height_m", "mass_kg", "merge_links")
            if not self.urdf and (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(RobotModel.of_radius(radius_m), **own)

    def of_file(self) -> UserUrdf | None:
        """Return the model of your own; None when there is none."""
        if not self.urdf or self.track_m is None or self.wheel_radius_m is None:
            return None
        return UserUrdf(
            path=Path(self.urdf).resolve(),
            left=self.left_wheels,
            right=self.right_wheels,
            wheel_radius_m=self.wheel_radius_m,
            track_m=self.track_m,
        )
