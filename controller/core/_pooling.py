# SPDX-License-Identifier: MIT
r"""What all local moves have in common, drawn once for everybody.

Under a global state s every law of motion is written as

.. math:: P_l(\cdot | s, j, a) = m_{ja} \, u + R_{ja}, \qquad m_{ja} u(l) \le P_l(l | s, j, a),

with one distribution u for all states j and actions a. An agent follows u with probability
:math:`m_{ja}`, and those who do are one lot, whatever state they come from: fewer draws, in law the
same. Any u is exact; a good one leaves few outcomes in R. It is found by a median polish: u is the
typical column profile of the laws, each divided by its typical level. For a softmax of a few
bonuses u is exactly the law without bonuses, and R holds the outcomes with one.

u and m depend on the game alone, not on the local policy, so that two policies that agree on a
state also agree on the draws made for it.

========  =====================  ===============================================================
symbol    name                   shape
========  =====================  ===============================================================
u         shape                  (S_g, S_l)
R, m      parts                  (S_g, S_l, A_l, S_l + 1): R in the first S_l outcomes, m last
========  =====================  ===============================================================
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

#: What is left of an outcome by rounding, relative to its probability.
_ROUNDING = 1e-12


class Pools(NamedTuple):
    """Common law and remainders; the module says what the arrays hold."""

    shape: F64
    parts: F64


def pool(P_l: F64) -> Pools:
    """Split the local kernel, shape (S_g, S_l, A_l, S_l)."""
    n_global, n_local = P_l.shape[:2]
    laws = P_l.reshape(n_global, -1, n_local)
    shape = _polish(laws)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(shape[:, None, :] > 0.0, laws / shape[:, None, :], np.inf)
    mass = ratio.min(axis=2)
    rest = laws - mass[..., None] * shape[:, None, :]
    rest[rest <= _ROUNDING * laws] = 0.0
    # Worth it where the rows, of which a policy takes one a state, lose more than u itself costs.
    actions = P_l.shape[2]
    before = (laws > 0.0).sum(axis=(1, 2)) / actions
    after = ((rest > 0.0).sum(axis=(1, 2)) + (mass > 0.0).sum(axis=1)) / actions
    worth = before > after + n_local
    mass = np.where(worth[:, None], mass, 0.0)
    rest = np.where(worth[:, None, None], rest, laws)
    parts = np.concatenate([rest, mass[..., None]], axis=2)
    return Pools(shape, parts.reshape(*P_l.shape[:3], n_local + 1))


def _polish(laws: F64) -> F64:
    """Typical law of each global state, shape (S_g, S_l), of laws (S_g, R, S_l)."""
    profile = np.median(laws, axis=1)
    for _ in range(3):
        usable = profile > 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(usable[:, None, :], laws / profile[:, None, :], np.nan)
            level = np.nan_to_num(_middle(ratio), nan=0.0)
            scaled = np.where(level[..., None] > 0.0, laws / level[..., None], 0.0)
        profile = np.median(scaled, axis=1)
    total = profile.sum(axis=1, keepdims=True)
    even = np.full_like(profile, 1.0 / profile.shape[1])
    return np.where(total > 0.0, profile / np.where(total > 0.0, total, 1.0), even)


def _middle(ratio: F64) -> F64:
    """Lower median of the last axis without NaN; 0 where nothing is left."""
    ordered = np.sort(ratio, axis=2)  # NaN last
    known = (~np.isnan(ratio)).sum(axis=2)
    at = np.maximum(known - 1, 0) // 2
    middle: F64 = np.take_along_axis(ordered, at[..., None], axis=2)[..., 0]
    return np.where(known > 0, middle, 0.0)
