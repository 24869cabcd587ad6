# SPDX-License-Identifier: MIT
"""What drivers of wheeled robots share: checked speeds, wheel speeds, odometry of two wheels.

    left = v - w track / 2,   right = v + w track / 2
    ahead = (dr + dl) / 2,   turn = (dr - dl) / track
    dx = ahead sin(turn) / turn,   dy = ahead (1 - cos(turn)) / turn      (dx = ahead for turn = 0)

| symbol | meaning | unit |
|---|---|---|
| v, w | forward speed, turn rate (left positive) | m/s, rad/s |
| dl, dr | way of the left and the right wheel | m |
| track | distance of the wheels | m |
"""

import math

from kofn.controller.core.errors import InputError
from kofn.hardware.safety import Limits, limit


def checked_speeds(v: float, w: float, limits: Limits) -> tuple[float, float]:
    """Return speeds within the limits; raises `ValueError` for what is no number."""
    if not (math.isfinite(v) and math.isfinite(w)):
        raise ValueError(f"speeds v = {v} m/s, w = {w} rad/s must be finite")
    return limit(v, w, limits)


def check_positive(**values: float) -> None:
    """Raise `InputError` naming the first value that is not finite and above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} = {value} must be finite and above 0")


def wheels_of(v: float, w: float, track_m: float) -> tuple[float, float]:
    """Speeds of the left and the right wheel, m/s."""
    return v - w * track_m / 2, v + w * track_m / 2


def speeds_of(left: float, right: float, track_m: float) -> tuple[float, float]:
    """Forward speed (m/s) and turn rate (rad/s) of wheel speeds in m/s."""
    return (left + right) / 2, (right - left) / track_m


def slowed(left: float, right: float, most: float) -> tuple[float, float]:
    """Wheel speeds of the same curve, neither beyond `most`."""
    share = max(abs(left), abs(right), most) / most
    return left / share, right / share


def way_of(left_m: float, right_m: float, track_m: float) -> tuple[float, float, float]:
    """Way (dx, dy, dyaw) in the robot's frame of the ways of its wheels, m, m, rad."""
    ahead, turn = (left_m + right_m) / 2, (right_m - left_m) / track_m
    if abs(turn) < 1e-9:
        return ahead, ahead * turn / 2, turn
    return ahead * math.sin(turn) / turn, ahead * (1 - math.cos(turn)) / turn, turn


def rolled(new: int, old: int, bits: int) -> int:
    """Growth of a counter that wraps at 2^bits, the shorter way round."""
    span = 1 << bits
    return (new - old + span // 2) % span - span // 2
