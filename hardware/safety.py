# SPDX-License-Identifier: MIT
"""`limit`: the last function between any command and a motor.

    v' = clip(v, -v_max, v_max),   w' = clip(w, -w_max, w_max),   0 where v or w is not finite

and where the speed before is given, |v'| grows by at most a_max dt; braking is not limited. A robot
whose command has one bad entry stops altogether: half a command is none.
"""

import math
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
Speed = TypeVar("Speed", float, FloatArray)


class HasLimits(Protocol):
    """Anything that says how fast is allowed: `Limits`, or a driver's `Capabilities`."""

    @property
    def v_max(self) -> float:
        """Greatest forward speed, m/s."""
        ...

    @property
    def w_max(self) -> float:
        """Greatest turn rate, rad/s."""
        ...


class Limits(NamedTuple):
    """Greatest forward speed (m/s), turn rate (rad/s), growth of speed (m/s^2); at least 0."""

    v_max: float
    w_max: float
    a_max: float = math.inf


def check_limits(limits: HasLimits) -> Limits:
    """Return the limits, or raise `InputError` when one of them is no limit at all."""
    for name, value in (("v_max", limits.v_max), ("w_max", limits.w_max)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"limit {name} = {value} must be finite and at least 0")
    a_max = limits.a_max if isinstance(limits, Limits) else math.inf
    if not a_max > 0:
        raise InputError(f"limit a_max = {a_max} must be above 0")
    return Limits(limits.v_max, limits.w_max, a_max)


def lower(first: HasLimits, second: HasLimits) -> Limits:
    """Return the stricter of two limits: anybody may lower one, nobody raise it."""
    first, second = check_limits(first), check_limits(second)
    return Limits(*map(min, first, second))


def ramp(v: float, before: float, a_max: float, dt_s: float) -> float:
    """Speed towards `v` whose magnitude grows by at most `a_max` times `dt_s` from `before`.

    A change of sign passes through zero first: the robot brakes, then speeds up.
    """
    if v * before < 0:
        return 0.0
    most = abs(before) + a_max * max(dt_s, 0.0)
    return v if abs(v) <= most else math.copysign(most, v)


def limit(v: Speed, w: Speed, limits: HasLimits) -> tuple[Speed, Speed]:
    """Speeds that may be driven.

    Parameters
    ----------
    v, w
        Forward speed in m/s and turn rate in rad/s: two numbers or two arrays of shape (n,).
    limits
        Greatest magnitudes, checked by `check_limits`.

    Returns
    -------
    tuple
        v and w of the same kind, finite and within the limits.
    """
    if isinstance(v, np.ndarray) or isinstance(w, np.ndarray):
        usable = np.isfinite(v) & np.isfinite(w)
        return (
            np.clip(np.where(usable, v, 0.0), -limits.v_max, limits.v_max),
            np.clip(np.where(usable, w, 0.0), -limits.w_max, limits.w_max),
        )
    if not (math.isfinite(v) and math.isfinite(w)):
        return 0.0, 0.0
    return (
        max(-limits.v_max, min(limits.v_max, v)),
        max(-limits.w_max, min(limits.w_max, w)),
    )
