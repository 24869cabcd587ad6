# SPDX-License-Identifier: MIT
r"""Recorded transitions (s_g, c, a_g, r, s_g', c') of k agents, checked and numbered for learning.

A cell x = s_g M + rank(c) numbers the states of the k-agent system, a pair x A_g + a_g those with
an action.

======  ===========  ============  ======================================
symbol  name         shape         meaning
======  ===========  ============  ======================================
c       counts       (N, S_l)      agents in each local state, sum k
r       reward       (N,)          reward of the step
======  ===========  ============  ======================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import rewards, whole_table
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import check_grid, rank

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Transitions:
    """A record of N transitions of the same k agents; its arrays are read-only.

    To learn what `g_learn` computes, `counts` and `counts_next` must tell of the same k agents. A
    log of polls that draw new agents in each step is accepted and learned as it stands, but its
    limit is another one.

    Parameters
    ----------
    s_g, a_g, s_g_next : array of int, shape (N,)
        Global state, global action and the next global state.
    counts, counts_next : array of int, shape (N, S_l)
        Agents in each local state, before and after.
    reward : array, shape (N,)
        Reward of the step: r_g plus the mean local reward of the k agents.
    """

    s_g: IntArray
    counts: IntArray
    a_g: IntArray
    reward: FloatArray
    s_g_next: IntArray
    counts_next: IntArray

    if TYPE_CHECKING:  # what is given may be any array-like; what is kept is an array

        def __init__(
            self,
            s_g: npt.ArrayLike,
            counts: npt.ArrayLike,
            a_g: npt.ArrayLike,
            reward: npt.ArrayLike,
            s_g_next: npt.ArrayLike,
            counts_next: npt.ArrayLike,
        ) -> None: ...

    def __post_init__(self) -> None:
        checked = {
            "s_g": whole_table("s_g", self.s_g, 1),
            "counts": whole_table("counts", self.counts, 2),
            "a_g": whole_table("a_g", self.a_g, 1),
            "reward": rewards("reward", self.reward, 1),
            "s_g_next": whole_table("s_g_next", self.s_g_next, 1),
            "counts_next": whole_table("counts_next", self.counts_next, 2),
        }
        size = len(checked["s_g"])
        for name, array in checked.items():
            if len(array) != size:
                raise InputError(f"{name} tells of {len(array)} transitions, but s_g of {size}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.counts.shape != self.counts_next.shape:
            raise InputError(
                f"counts_next has {self.counts_next.shape[1]} local states, "
                f"but counts has {self.counts.shape[1]}"
            )

    def __len__(self) -> int:
        """Return N."""
        return len(self.s_g)


def encode(record: Transitions, game: Game, k: int) -> tuple[IntArray, IntArray]:
    """Check a record against a game; return its pairs and next cells as indices, shape (N,)."""
    if record.counts.shape[1] != game.n_local:
        raise InputError(
            f"counts has {record.counts.shape[1]} local states, but the game has {game.n_local}"
        )
    for name, array, size, what in (
        ("s_g", record.s_g, game.n_global, "global states"),
        ("a_g", record.a_g, game.n_global_actions, "global actions"),
        ("s_g_next", record.s_g_next, game.n_global, "global states"),
    ):
        if (bad := array >= size).any():
            i = int(bad.argmax())
            raise InputError(f"{name}[{i}] is {array[i]}, not one of the {size} {what} of the game")
    for name, counts in (("counts", record.counts), ("counts_next", record.counts_next)):
        # No entry above k first, so that the sum cannot overflow.
        bad = (counts > k).any(axis=1) | (np.minimum(counts, k + 1).sum(axis=1) != k)
        if bad.any():
            i = int(bad.argmax())
            raise InputError(f"{name}[{i}] is {counts[i].tolist()}, which does not sum to k = {k}")
    points = check_grid(k, game.n_local, game.n_global)
    pairs = (record.s_g * points + rank(record.counts)) * game.n_global_actions + record.a_g
    return pairs, record.s_g_next * points + rank(record.counts_next)
