# SPDX-License-Identifier: MIT
r"""Safe improvement: a learned policy is used only where it is surely better than a known one.

A known policy, the baseline, is in force until the log says with high probability that the learned
one earns more. The log says so by draws of games from its posterior: candidate c and baseline b
play the same episodes in each drawn game M_i, and

.. math:: \Pr(\rho_M(c) > \rho_M(b) \mid log) \approx \frac1D \sum_{i=1}^D
   [\rho_{M_i}(c) > \rho_{M_i}(b)] \ge SURE

is asked for. Otherwise the baseline stays ("no solution found"). Few rounds make wide posteriors,
so that nothing is changed without evidence. Sure is sure *in the game*: what its template cannot
say (docs/federated.md) no posterior knows.

References: Thomas, Theocharous & Ghavamzadeh, High Confidence Policy Improvement, ICML 2015 (the
test of a candidate; their bound is from re-weighted returns, ours from a posterior); Laroche,
Trichelair & Tachet des Combes, Safe Policy Improvement with Baseline Bootstrapping, ICML 2019.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kofn.controller.core.game import Game
    from kofn.controller.core.policy import Policy

#: Probability of an improvement that is asked for.
SURE = 0.95

#: Games drawn from the posterior, and episodes in each.
DRAWS = 40
EPISODES = 50


def constant_policy(game: Game, call: int, efforts: Sequence[int]) -> Policy:
    """Return the policy of one constant call.

    Parameters
    ----------
    game : Game
    call : int
    efforts : sequence of int, shape (B,)
        Effort of each bin; a client that is offline skips.
    """
    from kofn.controller.core.policy import Policy

    pi_l = np.zeros(game.r_l.shape)
    pi_l[:, 0, 0] = 1.0
    for bin_, effort in enumerate(efforts):
        pi_l[:, 1 + bin_, effort] = 1.0
    # One cell for each state of a single client is the coarsest table there is.
    action = np.full((game.n_global, game.n_local), call, dtype=np.int32)
    return Policy(game, 1, action, pi_l)


def share_better(
    candidate: Policy, baseline: Policy, drawn: Sequence[Game], *, n: int, k: int
) -> float:
    """Return the share of games in which the candidate earns more than the baseline."""
    from kofn.controller.core.rollouts import rollout

    n = max(n, 1)
    better = 0
    for i, game in enumerate(drawn):
        own, known = (
            rollout(game, policy, n=n, k=min(k, n), rollouts=EPISODES, seed=i).mean
            for policy in (candidate, baseline)
        )
        better += own > known
    return better / max(len(drawn), 1)
