# SPDX-License-Identifier: MIT
"""Training where agents move as their crowd allows."""

from typing import Any

import numpy as np
import pytest
from synthetic import ring_kernel

from kofn.controller.core import Game, InputError, alternating_marl
from kofn.controller.core.deployment import Deployment
from kofn.controller.core.presets import arena
from kofn.sim.crowd_training import crowd_marl
from kofn.sim.density import DensityGame, density_rollout

FAST: dict[str, Any] = {"grid": 5, "rounds": 1, "restarts": 1, "seed": 3}
EDGES = np.array([3.5, 5.5]) / 20


def crowded(success: list[float]) -> DensityGame:
    """Twenty robots in five zones; `success` of moves by the bin of the source count."""
    P = ring_kernel(success)
    template = arena()
    plain = Game(
        template.P_g, template.r_g, np.broadcast_to(P.mean(axis=0), template.P_l.shape),
        template.r_l, template.gamma, initial=template.initial, horizon=20,
    )  # fmt: skip
    return DensityGame(plain, P[None], EDGES)


def test_training_by_crowd_earns_more_where_crowds_decide_who_moves() -> None:
    density = crowded([0.95, 0.6, 0.1])
    plain = alternating_marl(density.game, 4, 20, **FAST).policy
    found = crowd_marl(density, 4, 20, **FAST)
    by_crowd, by_plain = (
        density_rollout(density, policy, n=20, k=4, rollouts=4000, seed=77).returns
        for policy in (found.policy, plain)
    )
    ahead = by_crowd - by_plain
    # By 4 %: crowds let go slowly, so targets wait.
    assert ahead.mean() > 5 * ahead.std() / np.sqrt(ahead.size)
    assert not found.exact
    made = found.policy.provenance
    assert made["motion"] == "binned"
    # What is promised in the file is what the crowd-dependent system pays.
    assert abs(by_crowd.mean() - float(made["belief"])) < 0.02 * by_crowd.mean()  # type: ignore[arg-type]
    # The belief moves by the kernel of the crowds that were met, not by that of the data.
    assert not np.allclose(found.policy.game.P_l, density.game.P_l, atol=1e-3)


def test_where_bins_are_equal_the_policy_is_that_of_the_plain_game() -> None:
    density = crowded([0.7, 0.7, 0.7])
    found = crowd_marl(density, 4, 20, **FAST)
    plain = alternating_marl(density.game, 4, 20, **FAST).policy
    assert found.exact
    assert found.policy.sha256 == plain.sha256
    assert found.policy.provenance["belief"] == plain.provenance["belief"]


def test_a_judge_of_another_fleet_is_refused() -> None:
    game = arena()
    with pytest.raises(InputError, match="not for this game with k=3 and n=12"):
        alternating_marl(game, 3, 12, deployment=Deployment(game, 13, 3, 0))
