# SPDX-License-Identifier: MIT
r"""Games that look the same from each global state, as zones on a ring do.

A game is rotated onto itself by d if relabelling s_g -> s_g + 1 and s_l -> s_l + d (cyclically)
changes nothing but the names of actions. The optimum of a team then satisfies

.. math:: V(s_g, c) = V(0, c'), \qquad c'_j = c_{j + d s_g}

so one global state has to be solved instead of S_g. (For the bound of `team_bound` this holds with
the order in which the agents act turned as well, which is as good an order as any.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game

#: Largest difference, relative to the largest entry, between a table and its rotated copy.
TOLERANCE = 1e-13


def find_rotation(game: Game) -> int | None:
    """Return the smallest d by which a game is rotated onto itself, if there is one."""
    if game.n_global == 1:
        return None
    for d in range(game.n_local):
        if all(_same(_seen_from(game, s, d), _seen_from(game, 0, d)) for s in range(game.n_global)):
            return d
    return None


def _seen_from(game: Game, s: int, d: int) -> list[FloatArray]:
    """Return what each action earns and does at s, relabelled so that s becomes 0."""
    tables = [np.column_stack([game.r_g[s], np.roll(game.P_g[s], -s, axis=1)])]
    for j in range(game.n_local):
        here = (j + d * s) % game.n_local
        moves = np.roll(game.P_l[s, here], -d * s, axis=1)
        tables.append(np.column_stack([game.r_l[s, here], moves]))
    # Actions in a standard order: their names need not match.
    return [table[np.lexsort(np.round(table, 9).T[::-1])] for table in tables]


def _same(one: list[FloatArray], other: list[FloatArray]) -> bool:
    return all(
        float(np.abs(a - b).max()) <= TOLERANCE * max(1.0, float(np.abs(a).max()))
        for a, b in zip(one, other, strict=True)
    )
