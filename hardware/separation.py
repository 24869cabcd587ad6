# SPDX-License-Identifier: MIT
"""Minimum separation: who has to wait so that robots do not meet.

    i waits  iff  some j of higher priority (lower index) is nearer than the separation,
                  or will be within the look-ahead, and i comes nearer to it by its own motion

A robot that waits stands still, and waiting is decided in the order of priority: one that waits is
taken as standing by those behind it. Priority does not allow to run into one that stands: a robot
also waits while its way straight ahead leads closer than `TOUCH` of the separation to another that
is nearer than the separation. Two that face each other then both wait until one of them turns.

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

TOUCH = 0.7
"""Share of the separation within which a standing robot must not be passed."""


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
    return waits | _blocked(poses[:, :2], velocity, separation_m, look_ahead_s, known)


def _blocked(
    p: FloatArray, velocity: FloatArray, separation_m: float, look_ahead_s: float, known: BoolArray
) -> BoolArray:
    """Which robots would run into one that is near already, if that one stood."""
    offset = p[None, :, :] - p[:, None, :]
    along = (offset * velocity[:, None, :]).sum(axis=2)
    square = np.maximum((velocity**2).sum(axis=1), 1e-12)[:, None]
    when = np.clip(along / square, 0.0, look_ahead_s)
    nearest = np.linalg.norm(offset - when[:, :, None] * velocity[:, None, :], axis=2)
    near = np.linalg.norm(offset, axis=2) < separation_m
    hits: BoolArray = near & (along > 0.0) & (nearest < TOUCH * separation_m) & known[None, :]
    blocked: BoolArray = np.any(hits, axis=1)
    return blocked
