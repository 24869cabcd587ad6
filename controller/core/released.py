# SPDX-License-Identifier: MIT
r"""The algorithm of the paper's released code, put together from our parts, for comparison.

Each of at most five rounds from the uniform pi_l:

1. G-LEARN on the *rounded* expected histogram (`g_learn(backend="rounded")`);
2. L-LEARN *selfish*, with the mean field at uniform s_g and the softmax of temperature
   max(0.3, range_a(Q) / 3) (`l_learn(mean_field="released", softmax="released")`);
3. 20 episodes of 30 steps with all n agents. The best pair so far is kept; one that is more than
   1 % worse is thrown away for it, a slightly worse one stays. A value within 1 % of the one before
   ends the loop.

So pi_l is the answer to pi_g, but pi_g the answer to the pi_l before; neither the value of the
surrogate nor an interval of the deployed one has a say. Both learners believe that agents move
under s_g(t), whatever the game that is played: the code's do, while its episodes move them under
s_g(t + 1). Where we differ: values are solved to their fixed points, where the code stops after 100
sweeps, and the effective kernel is an exact expectation, where the code draws 200 histograms;
neither shows in the returns.

Reference: the code released with Anand & Karmarkar 2026, arXiv 2603.03759.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kofn.controller.core._arguments import MAX_SEED, MAX_TIMES, check_int, check_kind, check_poll
from kofn.controller.core.game import Game
from kofn.controller.core.global_learner import g_learn
from kofn.controller.core.local_learner import l_learn
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import rollout

#: Rounds, episodes and steps of a judgement, and what counts as a difference, in the code.
_ROUNDS, _EPISODES, _STEPS, _SHARE = 5, 20, 30, 0.01


@dataclass(frozen=True, slots=True)
class ReleasedSolution:
    """The result of `released_marl`.

    Attributes
    ----------
    policy : Policy
        The last pair that was not thrown away; no memory, no prior.
    values : tuple of float
        Mean return of the 20 short episodes of each round.
    """

    policy: Policy
    values: tuple[float, ...]


def released_marl(
    game: Game, k: int, n: int, *, rounds: int = _ROUNDS, seed: int = 0
) -> ReleasedSolution:
    """Learn as the paper's released code does.

    Parameters
    ----------
    game : Game
    k, n : int
        Poll size, which is the grid's size too, and fleet size, 1 <= k <= n.
    rounds : int
        Largest number of rounds.
    seed : int
        Of the judging episodes; round r plays those of seed + r.
    """
    check_kind("game", game, Game)
    k, n = check_poll(k, n)
    rounds = check_int("rounds", rounds, 1, MAX_TIMES)
    seed = check_int("seed", seed, 0, MAX_SEED - rounds)
    scale = float(np.ptp(game.r_l) + np.ptp(game.r_g) + 1e-300) / (1 - game.gamma)
    model = replace(game, local_sees="current")
    pi_l = game.uniform_local_policy()
    warm = None
    best: tuple[float, Policy] | None = None
    values: list[float] = []
    for index in range(rounds):
        answer = g_learn(model, pi_l, k, backend="rounded", tol=1e-5 * scale, warm_start=warm)
        warm = answer
        pi_l = l_learn(
            model,
            answer.action,
            pi_l,
            k,
            objective="selfish",
            softmax="released",
            mean_field="released",
        )
        policy = Policy(game, k, answer.action, pi_l, provenance={"kind": "released"})
        played = rollout(
            game,
            policy,
            n=n,
            k=k,
            horizon=_STEPS,
            rollouts=_EPISODES,
            seed=seed + index,
            memory="none",
        )
        values.append(played.mean)
        if best is None or values[-1] > best[0]:
            best = values[-1], policy
        elif values[-1] < best[0] - _SHARE * abs(best[0]):
            policy, pi_l = best[1], best[1].pi_l
        if index and abs(values[-1] - values[-2]) < _SHARE * max(abs(values[-2]), 1e-6):
            break
    return ReleasedSolution(policy, tuple(values))
