# SPDX-License-Identifier: MIT
"""Settings of a policy that are found by playing: its prior, and the memory of its belief.

The prior is for bare polls: a number of pseudo-agents spread as the fleet usually is, tuned for
play without memory. The memory bounds what a belief may claim to know. Episodes of the model hardly
tell a long memory from a longer one, while a real fleet that strays from its model is tracked worse
with each agent remembered; so the shortest memory is taken that is as good as the best one, up to
one standard error of their paired difference. Play without memory is chosen only where it earns
more, as a memory also bridges answers that a real fleet fails to give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core.deployment import LOOK, STRONG_PRIOR, Deployment
from kofn.controller.core.policy import Policy, check_policy

if TYPE_CHECKING:
    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray, Game

#: Memories to try, in agents beyond the poll.
MEMORIES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)

#: Sizes of the prior to try, in agents. A good one depends on the fleet's spread, hardly on k.
PRIORS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 14.0, 18.0, 25.0, 40.0)


def with_settings(
    policy: Policy,
    *,
    memory: float | None,
    prior: npt.ArrayLike | None = None,
    bare: Policy | None = None,
) -> Policy:
    """Return the same pair with another memory, and another prior and bare pair if given."""
    return Policy(
        policy.game,
        policy.grid,
        policy.action,
        policy.pi_l,
        memory=memory,
        prior=policy.prior if prior is None else prior,
        provenance=policy.provenance,
        bare=policy.bare if bare is None else bare,
    )


def best_prior(deployment: Deployment, policy: Policy, rollouts: int = LOOK) -> Policy:
    """Return the policy with the prior that is best for play without memory.

    Its picture is the usual one of the policy itself, or of the constant dispatcher whose picture
    serves best.
    """

    def best_of(options: list[Policy]) -> Policy:
        means = [float(deployment.memoryless(option, rollouts).mean()) for option in options]
        return options[int(np.argmax(means))]

    def variant(size: float, picture: FloatArray) -> Policy:
        return with_settings(policy, memory=policy.memory, prior=size * picture)

    strong = best_of([variant(STRONG_PRIOR, p) for p in deployment.constant_pictures(policy)])
    pictures = [deployment.usual_picture(policy), strong.prior / STRONG_PRIOR]
    return best_of([variant(size, picture) for picture in pictures for size in PRIORS])


def best_memory(deployment: Deployment, policy: Policy, rollouts: int = LOOK) -> Policy:
    """Return the policy with the shortest memory that is as good as the best one.

    It plays without memory only if that earns more than all of them.
    """
    options = [with_settings(policy, memory=deployment.k + m) for m in MEMORIES]
    returns = [deployment.remembering(option, rollouts) for option in options]
    best = int(np.argmax([r.mean() for r in returns]))
    bare = with_settings(policy, memory=None)
    if deployment.remembering(bare, rollouts).mean() > returns[best].mean():
        return bare
    for option, got in zip(options[:best], returns[:best], strict=True):
        gap = returns[best] - got
        if gap.mean() <= gap.std(ddof=1) / np.sqrt(gap.size):
            return option
    return options[best]


def tune_memory(game: Game, policy: Policy, *, n: int, k: int, seed: int = 0) -> Policy:
    """Return the policy with its memory tuned for polls of k among n agents.

    Parameters
    ----------
    game : Game
        The game to play, of the policy's shape.
    policy : Policy
        Its pair and prior are kept.
    n, k : int
        Fleet size and poll size, which need not be those that the policy was learned for.
    seed : int
        Of the episodes of tuning; `rollout` under the same seed meets others.
    """
    check_policy(policy, game)
    return best_memory(Deployment(game, n, k, seed), policy, 2 * LOOK)
