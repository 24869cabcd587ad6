# SPDX-License-Identifier: MIT
r"""What the agents of a step earn, given how many of them went from each state to each other one.

Moves come in parts (`_pooling`): to a state l by what is special to j and a, or into the pool, the
last part. Of the agents that left j by part l, each had chosen a with probability

.. math:: w_{jl}(a) \propto \pi_l(a | s_g, j) \, R(l | \cdot, j, a),

apart from the others, and earned :math:`r_l(s_g, j, a)`. So the moves may be drawn first, from the
mean kernel, and only then the actions, in law the same: what an agent earns is its state's usual
reward plus an extra that depends on its action. Cells (j, l) with the same w and the same extras
are drawn together, for their sum is all that counts; cells whose extras are zero not at all.

========  =================  ==================================================================
name      shape              meaning
========  =================  ==================================================================
usual     (S_g, S_l)         reward of the likeliest action
lot       (E, S_l, S_l + 1)  lot of the cell, or -1 where nothing is to be drawn
first     (E + 1,)           lots of e are first[e] .. first[e + 1] - 1
extra     (lots, A_l)        reward above the usual one
laws      (lots, A_l)        w
========  =================  ==================================================================

e is what the choice and the move depend on: s_g, or the pair s_g S_g + s_g' where agents choose by
the global state and move by the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, jit
from kofn.controller.core._multinomials import Rows, prepare

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

#: Laws and extras that differ by less, relatively, are rounding errors of the same number.
_SAME = 1e-13
#: A new cell is compared with so many lots of its e; one more draw is the price of missing one.
_COMPARED = 32


class Earnings(NamedTuple):
    """The tables of a game under a local policy; the module says what they hold."""

    usual: F64
    lot: I64
    first: I64
    extra: F64
    rows: Rows
    most: int


def earnings(pi_l: F64, parts: F64, r_l: F64, *, by_pair: bool, apart: bool) -> Earnings:
    """Prepare the tables.

    Parameters
    ----------
    pi_l, r_l : array, shape (S_g, S_l, A_l)
        Local policy and rewards.
    parts : array, shape (S_g, S_l, A_l, S_l + 1)
        Local kernel in parts, see `_pooling`.
    by_pair : bool
        Agents choose by s_g and move by s_g'.
    apart : bool
        The moves tell nothing about the actions that earn.
    """
    n_global, n_local, n_actions = pi_l.shape
    likeliest = pi_l.argmax(axis=2)[..., None]
    usual = np.ascontiguousarray(np.take_along_axis(r_l, likeliest, axis=2)[..., 0])
    extra = r_l - usual[..., None]
    extra[np.abs(extra) <= _SAME * np.abs(r_l).max()] = 0.0
    events = n_global**2 if by_pair else n_global
    lot = np.full((events, n_local, n_local + 1), -1, dtype=np.int64)
    first = np.zeros(events + 1, dtype=np.int64)
    if np.any((pi_l > 0.0) & (extra != 0.0)):
        kept_extra, laws = _sort_cells(pi_l, parts, extra, by_pair, apart, lot, first)
    else:
        kept_extra, laws = np.zeros((0, n_actions)), np.ones((0, n_actions))
    return Earnings(usual, lot, first, kept_extra, prepare(laws), int(np.diff(first).max()))


@inline
def _weigh(
    pi_l: F64, parts: F64, by_pair: bool, apart: bool, e: int, j: int, l: int, law: F64
) -> float:
    """Fill `law` with w of the cell; return the probability of the cell, 0 if it is not met."""
    n_global = pi_l.shape[0]
    s, mover = (e // n_global, e % n_global) if by_pair else (e, e)
    total = 0.0
    for a in range(law.size):
        law[a] = pi_l[s, j, a] * (1.0 if apart else parts[mover, j, a, l])
        total += law[a]
    if total > 0.0:
        for a in range(law.size):
            law[a] /= total
    return total


@jit
def _sort_cells(
    pi_l: F64, parts: F64, extra: F64, by_pair: bool, apart: bool, lot: I64, first: I64
) -> tuple[F64, F64]:
    """Fill `lot` and `first`, and return the extras and laws of the lots, each (lots, A_l)."""
    n_global, n_local, n_actions = pi_l.shape
    law = np.empty(n_actions)
    wanted = np.empty(n_actions)
    same = _SAME * np.abs(extra).max()
    size = 64
    extras = np.zeros((size, n_actions))
    laws = np.zeros((size, n_actions))
    n_lots = 0
    for e in range(lot.shape[0]):
        s = e // n_global if by_pair else e
        first[e] = n_lots
        for j in range(n_local):
            for l in range(n_local + 1):
                if _weigh(pi_l, parts, by_pair, apart, e, j, l, law) <= 0.0:
                    continue
                needed = False
                for a in range(n_actions):
                    wanted[a] = extra[s, j, a] if law[a] > 0.0 else 0.0
                    needed = needed or wanted[a] != 0.0
                if not needed:
                    continue
                found = -1
                for g in range(first[e], min(n_lots, first[e] + _COMPARED)):
                    equal = True
                    for a in range(n_actions):
                        equal = (
                            equal
                            and abs(laws[g, a] - law[a]) <= _SAME
                            and abs(extras[g, a] - wanted[a]) <= same
                        )
                    if equal:
                        found = g
                        break
                if found < 0:
                    found = n_lots
                    n_lots += 1
                    if n_lots > size:
                        wider = np.zeros((2 * size, n_actions))
                        wider[:size] = extras
                        extras = wider
                        wider = np.zeros((2 * size, n_actions))
                        wider[:size] = laws
                        laws = wider
                        size *= 2
                    extras[found] = wanted
                    laws[found] = law
                lot[e, j, l] = found
    first[lot.shape[0]] = n_lots
    return extras[:n_lots].copy(), laws[:n_lots].copy()
