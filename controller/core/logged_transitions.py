# SPDX-License-Identifier: MIT
r"""Logged transitions: (s_g, s_l, a_l, s_l') of single agents, (s_g, a_g, s_g') of the global one.

An agent tells of its last step with its next reply; a dispatcher knows its own. Entries may come
from any number of agents, episodes and policies, in any order: a row of a kernel is all that they
share.

======  ===========  =======  =====================================
symbol  name         shape    meaning
======  ===========  =======  =====================================
s_g     s_g          (N,)     global state at the start of the step
s_g'    s_g_next     (N,)     global state after it
s_l     s_l          (N,)     local state at its start
a_l     a_l          (N,)     local action
s_l'    s_l_next     (N,)     local state after it
======  ===========  =======  =====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import array_of, check_whole_table, rewards
from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class LocalTransitions:
    """Logged moves of single agents, one entry for each agent and step; kept read-only.

    Parameters
    ----------
    s_g, s_l, a_l, s_l_next : array of int, shape (N,)
        Global state, local state and local action of the step, and the local state after it.
    s_g_next : array of int, shape (N,), optional
        Global state after the step; needed where locals see the next one.
    reward : array, shape (N,), optional
        Local reward of the step.
    """

    s_g: IntArray
    s_l: IntArray
    a_l: IntArray
    s_l_next: IntArray
    s_g_next: IntArray | None = None
    reward: FloatArray | None = None

    if TYPE_CHECKING:  # what is given may be any array-like; what is kept is an array

        def __init__(
            self,
            s_g: npt.ArrayLike,
            s_l: npt.ArrayLike,
            a_l: npt.ArrayLike,
            s_l_next: npt.ArrayLike,
            s_g_next: npt.ArrayLike | None = None,
            reward: npt.ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        _keep(self, ("s_g", "s_l", "a_l", "s_l_next", "s_g_next"))


@dataclass(frozen=True, slots=True, eq=False)
class GlobalTransitions:
    """Logged moves of the global agent, one entry for each step; kept read-only.

    Parameters
    ----------
    s_g, a_g, s_g_next : array of int, shape (N,)
        Global state and action, and the global state after the step.
    reward : array, shape (N,), optional
        Global reward of the step.
    """

    s_g: IntArray
    a_g: IntArray
    s_g_next: IntArray
    reward: FloatArray | None = None

    if TYPE_CHECKING:  # as above

        def __init__(
            self,
            s_g: npt.ArrayLike,
            a_g: npt.ArrayLike,
            s_g_next: npt.ArrayLike,
            reward: npt.ArrayLike | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        _keep(self, ("s_g", "a_g", "s_g_next"))


def _keep(record: LocalTransitions | GlobalTransitions, integers: tuple[str, ...]) -> None:
    """Replace the arrays of a record by checked read-only ones of one length."""
    kind = "local" if isinstance(record, LocalTransitions) else "global"
    size = None
    for name in (*integers, "reward"):
        given = getattr(record, name)
        needed = name in {"s_g", "s_l", "a_l", "s_l_next", "a_g"} or (
            name == "s_g_next" and kind == "global"
        )
        if given is None and not needed:
            continue
        label = f"{kind} transitions: {name}"
        # An empty log is legal and teaches nothing.
        empty = array_of(label, given).shape == (0,)
        array = np.zeros(0) if empty else rewards(label, given, 1)
        if name != "reward":
            check_whole_table(label, array)
        size = len(array) if size is None else size
        if len(array) != size:
            raise InputError(f"{label} has {len(array)} entries, but s_g has {size}")
        kept = array if name == "reward" else array.astype(np.int64)
        kept.setflags(write=False)
        object.__setattr__(record, name, kept)
