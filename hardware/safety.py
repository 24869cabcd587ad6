# SPDX-License-Identifier: MIT
"""`limit`: the last function between any command and a motor.

    v' = clip(v, -v_max, v_max),   w' = clip(w, -w_max, w_max),   0 where v or w is not finite

A robot whose command has one bad entry stops altogether: half a command is none.
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
    """Greatest forward speed (m/s) and turn rate (rad/s), both at least 0."""

    v_max: float
    w_max: float


def check_limits(limits: HasLimits) -> Limits:
    """Return the limits, or raise `InputError` when one of them is no limit at all."""
    for name, value in (("v_max", limits.v_max), ("w_max", limits.w_max)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"limit {name} = {value} must be finite and at least 0")
    return Limits(limits.v_max, limits.w_max)


def lower(first: HasLimits, second: HasLimits) -> Limits:
    """Return the stricter of two limits: anybody may lower one, nobody raise it."""
    first, second = check_limits(first), check_limits(second)
    return Limits(min(first.v_max, second.v_max), min(first.w_max, second.w_max))


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
