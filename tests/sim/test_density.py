# SPDX-License-Identifier: MIT
"""Where crowding changes nothing, the crowd-dependent game is the ordinary one."""

import numpy as np
import pytest

from kofn.controller.core import Policy, g_learn, load_game, rollout
from kofn.controller.core.errors import InputError
from kofn.sim.density import DensityGame, density_g_learn, density_rollout, occupancy

GAME = load_game("ring-current")
PI_L = GAME.uniform_local_policy()
TWO_EQUAL_BINS = np.stack([np.array(GAME.P_l)] * 2, axis=1)


def twice() -> DensityGame:
    return DensityGame(GAME, TWO_EQUAL_BINS, np.array([0.3]))


def test_sampled_values_come_to_the_exact_ones_as_samples_grow() -> None:
    exact = np.asarray(g_learn(GAME, PI_L, 4).value)
    errors = []
    for samples in (20, 2000):
        found = density_g_learn(twice(), PI_L, 4, samples=samples, seed=1)
        assert found.samples == exact.size * samples
        errors.append(float(np.abs(found.value - exact).max()))
    # A hundred times the samples: a tenth of the error, and twice that for luck.
    assert errors[1] < 0.2 * errors[0]
    assert errors[1] < 0.01 * float(np.abs(exact).max())


def test_rollouts_and_the_plain_kernel_of_what_was_met_agree_with_the_core() -> None:
    action = np.asarray(g_learn(GAME, PI_L, 4).action)
    policy = Policy(GAME, 4, action, PI_L)
    ours = density_rollout(
        twice(), policy, n=200, k=4, horizon=20, rollouts=2000, seed=1, memory="none", record=True
    )
    core = rollout(GAME, policy, n=200, k=4, horizon=20, rollouts=2000, seed=2, memory="none")
    assert abs(ours.mean - core.mean) < 4 * float(np.hypot(ours.stderr, core.stderr))
    weights = occupancy(twice(), ours)
    assert weights.sum() == 2000 * 20 * 200
    assert (weights > 0).any(axis=(0, 1)).all()  # thin and crowded zones were both met
    assert np.allclose(twice().plain_at(weights).P_l, GAME.P_l)


def test_a_kernel_that_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(InputError, match="with 3 bins does not fit"):
        DensityGame(GAME, TWO_EQUAL_BINS, np.array([0.3, 0.5]))
    with pytest.raises(InputError, match="no distribution"):
        DensityGame(GAME, 0.5 * TWO_EQUAL_BINS, np.array([0.3]))
