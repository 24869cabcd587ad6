# SPDX-License-Identifier: MIT
"""Minimum separation: who has to wait so that robots do not meet.

    i waits  iff  some j of higher priority (lower index) is nearer than the separation,
                  or will be within the look-ahead, and i comes nearer to it by its own motion

A robot that waits stands still, so the one with priority sees a standing obstacle; waiting is
decided in the order of priority, and one that waits is taken as standing by those behind it.

| symbol | name | shape | unit |
|---|---|---|---|
| p | poses: x, y, heading | (n, 3) | m, m, rad |
| v | forward speeds | (n,) | m/s |
"""

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def must_wait(
    poses: FloatArray, speeds: FloatArray, *, separation_m: float, look_ahead_s: float = 1.0
) -> BoolArray:
    """Which robots have to wait, shape (n,).

    Parameters
    ----------
    poses, speeds
        Now; a robot without a finite pose waits.
    separation_m
        Least distance of two centres.
    look_ahead_s
        How far ahead straight motion is looked at.
    """
    if not separation_m > 0 or not look_ahead_s > 0:
        raise InputError(
            f"separation_m = {separation_m} and look_ahead_s = {look_ahead_s} must be above 0"
        )
    known = np.all(np.isfinite(poses), axis=1)
    heading = poses[:, 2]
    velocity = speeds[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    waits: BoolArray = ~known
    for i in range(1, len(poses)):
        if waits[i]:
            continue
        ahead = np.flatnonzero(known[:i])
        offset = poses[ahead, :2] - poses[i, :2]
        distance = np.linalg.norm(offset, axis=1)
        others = np.where(waits[ahead][:, None], 0.0, velocity[ahead])
        relative = others - velocity[i]
        square = np.maximum((relative**2).sum(axis=1), 1e-12)
        when = np.clip(-(offset * relative).sum(axis=1) / square, 0.0, look_ahead_s)
        nearest = np.linalg.norm(offset + when[:, None] * relative, axis=1)
        comes_nearer = (offset * velocity[i]).sum(axis=1) > 0
        near = (distance < separation_m) | (nearest < separation_m)
        waits[i] = bool(np.any(near & comes_nearer))
    return waits
