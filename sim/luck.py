# SPDX-License-Identifier: MIT
r"""Weights of recorded moves that take out the luck of the drawn actions.

How robots draw is known: P(a | g, z) = pi. So it is known what the robots that draw an action look
like on average, whatever is true of their motion, and in a recording of finite length they do not
quite. Moves are weighted so that they do (calibration of a sample to known means, Deville and
Saerndal 1992): with x of each move of an action, its mean :math:`\bar x` and covariance S over
these moves, and the known mean t,

.. math:: w = 1 + (t - \bar x)^T S^{-1} (x - \bar x) \quad \Rightarrow \quad
   \sum w x = t \sum 1, \quad \sum w = \sum 1

Two things are balanced.

1. *Place* in the zone (in worlds with poses): how far a robot stands from the zone's centre along
   and across the way to the centre of the zone that its action is for, the squares and the product
   of both. t is their mean over all robots, each with its chance pi of the action. Where a robot
   starts says much of whether it succeeds: how far it has to go, and past whom.
2. *Luck of crowding*: robots that happen to draw actions that bring them together meet more traffic
   for some options, and moves of all directions fail more often. With V the crowding and Q the rows
   that the recording itself counts (by crowd), what the actions of an option do to it is

   .. math:: m_t = E_Q[V_{t+1} | z_t, a_t] - E_Q[V_{t+1} | z_t], \quad V = \frac{1}{n} \sum_s N_s^2,
      \quad u_{t+1} = \rho u_t + m_t

   Given the past m has mean 0 for any Q, as actions are drawn from pi, and so has u: t is 0.

So the rows of the long run stay what is estimated; better Q or rho would only take out more.

| symbol | name | shape | unit |
|---|---|---|---|
| Q | `Kernel.binned` | (G, B, S, A, S) | probability |
| pi | `chance` | (S_g, S, A) | probability |
| V, u | crowding: robots in the zone of a robot, the mean; `crowding_luck` | (T,) | robots |
| w | `weights` | (T, n) | - |
"""

from collections.abc import Sequence

import numpy as np

from kofn.sim.kernel import Kernel, bin_of
from kofn.sim.recording import Recording
from kofn.sim.world import FloatArray, IntArray

ENOUGH_OPTIONS = 60
"""Options in all that weights need: ten for each of the six means that they balance.

What they learn from fewer adds more noise than it takes out: in 20 options of ten robots a row was
off by 0.27 instead of 0.17 (L1)."""
KEPT = 0.75
"""Share of a surplus of crowding that is left an option later (of thirty wheeled robots)."""


def weights(
    recordings: Sequence[Recording], kernel: Kernel, chance: FloatArray
) -> list[FloatArray]:
    """Return the weight of what each robot did in each option, shape (T, n) a recording.

    Parameters
    ----------
    recordings
        Actions drawn from `chance`.
    kernel
        Counted from these recordings.
    chance
        P(a | g, z), shape (S_g, S, A).
    """
    centres = _centres(recordings, kernel.counts.shape[2])
    lucks = [crowding_luck(recording, kernel, chance) for recording in recordings]
    found = [np.ones(recording.actions.shape) for recording in recordings]
    for a in range(chance.shape[2]):
        moves, everybody, likely = [], [], []
        masks = []
        for recording, u in zip(recordings, lucks, strict=True):
            z, present = recording.zones[:-1], recording.zones[:-1] >= 0
            columns = [np.broadcast_to(u[:, None], z.shape)]
            if centres is not None and recording.places is not None:
                way = _ways(centres, kernel.purpose[:, a])[z]
                columns += _standing(recording.places - centres[z], way)
            x = np.stack(columns, axis=-1)
            mask = present & (recording.actions == a)
            masks.append(mask)
            moves.append(x[mask])
            everybody.append(x[present])
            likely.append(chance[recording.targets[:, None], z, a][present])
        here, x, p = np.concatenate(moves), np.concatenate(everybody), np.concatenate(likely)
        if here.shape[0] == 0:
            continue
        known = p @ x / p.sum()
        known[0] = 0.0
        each = _calibrated(here, known)
        ends = np.cumsum([part.shape[0] for part in moves])[:-1]
        for w, mask, part in zip(found, masks, np.split(each, ends), strict=True):
            w[mask] = part
    return found


def crowding_luck(recording: Recording, kernel: Kernel, chance: FloatArray) -> FloatArray:
    """Return how much more crowded each option began than without the luck of the draw, (T,).

    Parameters are those of `weights`.
    """
    z, a, g = recording.zones[:-1], recording.actions, recording.targets
    rows = kernel.binned if kernel.binned.shape[0] > 1 else kernel.binned[[0] * chance.shape[0]]
    expected = np.einsum("gsa,gbsaj->gbsj", chance, rows)
    crowd = (z[:, :, None] == np.arange(kernel.counts.shape[2])).sum(axis=1)
    acting = (z >= 0) & (a >= 0)
    s, act = np.where(acting, z, 0), np.where(acting, a, 0)
    b = bin_of(kernel.first, np.take_along_axis(crowd, s, axis=1))
    target = np.broadcast_to(g[:, None], s.shape)
    moved, alike = (
        _crowding(law * acting[:, :, None])
        for law in (rows[target, b, s, act], expected[target, b, s])
    )
    found, left = np.zeros(recording.steps), 0.0
    for t, surprise in enumerate((moved - alike).tolist()):
        found[t] = left
        left = KEPT * left + surprise
    return found


def _crowding(chances: FloatArray) -> FloatArray:
    """Return E[V] of robots that move on their own, by their chances (T, n, S) of each zone."""
    mean, alone = chances.sum(axis=1), (chances * (1.0 - chances)).sum(axis=(1, 2))
    robots = np.maximum(chances.sum(axis=(1, 2)), 1.0)
    found: FloatArray = ((mean**2).sum(axis=1) + alone) / robots
    return found


def _calibrated(x: FloatArray, known: FloatArray) -> FloatArray:
    """Return weights of moves x (M, d) whose weighted mean is `known` (d,); 1 on average."""
    off = x - x.mean(axis=0)
    covariance = off.T @ off / x.shape[0]
    force = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ (known - x.mean(axis=0))
    # Below 0 only where a few moves are the whole recording.
    found: FloatArray = np.maximum(1.0 + off @ force, 0.0)
    return found


def _standing(off: FloatArray, way: FloatArray) -> list[FloatArray]:
    """Return what is balanced of places `off` a zone's centre, (T, n, 2), each of shape (T, n)."""
    along = (off * way).sum(axis=-1)
    across = off[..., 1] * way[..., 0] - off[..., 0] * way[..., 1]
    return [along, across, along**2, across**2, along * across]


def _ways(centres: FloatArray, purpose: IntArray) -> FloatArray:
    """Return the direction from each zone to the one an action is for, as unit vectors (S, 2).

    Where that is the same zone, the direction is that away from the middle of all zones.
    """
    ways = centres[purpose] - centres
    stays = purpose == np.arange(purpose.size)
    ways[stays] = (centres - centres.mean(axis=0))[stays]
    length = np.linalg.norm(ways, axis=1, keepdims=True)
    found: FloatArray = np.divide(ways, length, out=np.zeros_like(ways), where=length > 0)
    return found


def _centres(recordings: Sequence[Recording], zones: int) -> FloatArray | None:
    """Return the mean place of robots in each zone, (S, 2) in m; None in a world without poses."""
    total, visits = np.zeros((zones, 2)), np.zeros(zones)
    for recording in recordings:
        if recording.places is None:
            return None
        z = recording.zones[:-1]
        np.add.at(total, z[z >= 0], recording.places[z >= 0])
        visits += np.bincount(z[z >= 0], minlength=zones)
    centres: FloatArray = total / np.maximum(visits, 1.0)[:, None]
    return centres
