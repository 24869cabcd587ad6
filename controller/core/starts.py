# SPDX-License-Identifier: MIT
"""Where the alternating loop starts from: local policies made from the game's tables alone.

From the uniform policy the responses often settle in a poor equilibrium. Further starts are the
local answers to the dispatcher that *holds* the global state (for each s_g the action that most
likely keeps it) and to each constant dispatcher; and whatever the user knows, such as the policy
of a neighbouring poll size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import check_kind, check_mapping
from kofn.controller.core.errors import InputError
from kofn.controller.core.grid import check_grid
from kofn.controller.core.local_learner import l_learn
from kofn.controller.core.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kofn.controller.core.game import FloatArray, Game


def holding_actions(game: Game) -> npt.NDArray[np.int32]:
    """Return for each global state the action that most likely keeps it, shape (S_g,)."""
    states = np.arange(game.n_global)
    holding: npt.NDArray[np.int32] = np.argmax(game.P_g[states, :, states], axis=1).astype(np.int32)
    return holding


def starting_policies(game: Game, k: int) -> dict[str, FloatArray]:
    """Return the local policies to start from, by name, the most promising first."""
    points = check_grid(k, game.n_local, game.n_global)
    uniform = game.uniform_local_policy()

    def answer(actions: npt.NDArray[np.int32]) -> FloatArray:
        # A dispatcher that ignores the agents leaves each of them alone with its own reward, so
        # the selfish answer is the team's, and on one agent it is exact.
        table = np.repeat(actions[:, None], points, axis=1)
        return l_learn(game, table, uniform, k, objective="selfish")

    starts = {"hold": answer(holding_actions(game)), "uniform": uniform}
    for a in range(game.n_global_actions):
        starts[f"constant {a}"] = answer(np.full(game.n_global, a, dtype=np.int32))
    return starts


def given_policies(
    game: Game, starts: Mapping[str, Policy | npt.ArrayLike] | None
) -> dict[str, FloatArray]:
    """Return a user's starts as checked local policies, by name; a `Policy` gives its own."""
    result: dict[str, FloatArray] = {}
    check_mapping("starts", starts)
    for name, start in (starts or {}).items():
        try:
            check_kind("its name", name, str)
            if isinstance(start, Policy):
                start.check_game(game)
            result[name] = game.local_policy(start.pi_l if isinstance(start, Policy) else start)
        except InputError as error:
            raise InputError(f"start {name!r}: {error}") from None
    return result
