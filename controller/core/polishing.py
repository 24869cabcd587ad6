# SPDX-License-Identifier: MIT
r"""Coordinate search over the local policy, judged by the deployed system itself.

L-LEARN raises the value of a closed system of K agents who see each other; what counts is the
return of n agents who see k. So each entry (s_g, s_l) of pi_l is switched to each other action in
turn, under a fixed dispatcher, and the change is kept if it wins in the n-agent system
(`deployment`). After a pass the dispatcher is solved anew and the new pair must win again. Passes
end early when one changes nothing. A pair for bare polls (`Policy.bare`) stays as it is.

A pass makes S_g S_l (A_l - 1) comparisons, so that some changes are luck; the search therefore
tests each at LEVEL, and the gain that is reported comes from fresh episodes that chose nothing. If
these do not confirm it, the policy is handed back as it came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import MAX_TIMES, check_callable, check_int
from kofn.controller.core.deployment import (
    LOOK,
    Deployment,
    Estimate,
    Judged,
    Play,
    check_play,
    gain,
)
from kofn.controller.core.global_learner import g_learn
from kofn.controller.core.policy import Policy, check_policy
from kofn.controller.core.tuning import best_memory, best_prior

if TYPE_CHECKING:
    from kofn.controller.core.alternation import Progress
    from kofn.controller.core.game import FloatArray, Game

#: Episodes of the first look at an entry: most changes are plainly bad.
_FIRST = LOOK // 4

#: Fresh episodes of the final judgement.
_FINAL = 8 * LOOK


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of pi_l that was switched: in which pass, where, and to which action."""

    pass_: int
    s_g: int
    s_l: int
    action: int
    gain: Estimate


@dataclass(frozen=True, slots=True)
class Polished:
    """The result of `polish`.

    Attributes
    ----------
    policy : Policy
        The polished policy, or the given one where the gain was not confirmed.
    gain : Gain
        Of the polished policy over the given one in fresh episodes, confirmed or not; none are
        played where nothing was changed.
    confirmed : bool
        Whether the lower end of the gain's 95 % interval is above zero.
    changes : tuple of Change
        What the search kept, in order.
    tried : int
        Candidates played.
    seconds : float
        Time spent.
    """

    policy: Policy
    gain: Estimate
    confirmed: bool
    changes: tuple[Change, ...]
    tried: int
    seconds: float


def polish(
    game: Game,
    policy: Policy,
    *,
    n: int,
    k: int,
    passes: int = 1,
    seed: int = 0,
    play: Play = "both",
    progress: Progress | None = None,
    deployment: Deployment | None = None,
) -> Polished:
    """Improve the local policy entry by entry in the n-agent system.

    Parameters
    ----------
    game : Game
        The game to play.
    policy : Policy
        Where to start; the result has a table on the same grid, and tuned prior and memory.
    n, k : int
        Fleet size and poll size.
    passes : int
        Most often that all entries are gone through.
    seed : int
        Of all episodes.
    play : {"both", "memory", "none"}
        What counts as a policy's score.
    progress : callable, optional
        Told about each entry.
    deployment : Deployment, optional
        Where entries are judged, if not in the game itself.
    """
    passes = check_int("passes", passes, 1, MAX_TIMES)
    check_policy(policy, game, same=True)
    check_callable("progress", progress)
    began = time.perf_counter()
    check_play(play)
    deployment = deployment or Deployment(game, n, k, seed)
    best = deployment.judge(policy)
    changes: list[Change] = []
    tried = 0
    entries = list(np.ndindex(game.n_global, game.n_local))
    for index in range(passes):
        current, kept = best, 0
        for position, (s, j) in enumerate(entries):
            for pi_l, action in switched(current.policy.pi_l, s, j):
                before = current
                tried += 1
                wins, new, current = deployment.better(
                    deployment.judge(with_local(current.policy, pi_l), _FIRST), current, play
                )
                if wins:
                    changes.append(Change(index, s, j, action, gain(new, before, play)))
                    current, kept = new, kept + 1
            if progress is not None:
                reached = float(current.scores(play).mean())
                text = f"polish: {reached:.2f} after entry ({s}, {j})"
                progress(index * len(entries) + position + 1, passes * len(entries), text)
        if not kept:
            break
        best = _solved_again(deployment, current, play)
    ahead = Estimate(0.0, 0.0, 0)
    if changes:
        before, after = (deployment.judge(p, _FINAL, fresh=True) for p in (policy, best.policy))
        ahead = gain(after, before, play)
    confirmed = ahead.interval[0] > 0
    return Polished(
        policy=best.policy if confirmed else policy,
        gain=ahead,
        confirmed=confirmed,
        changes=tuple(changes),
        tried=tried,
        seconds=time.perf_counter() - began,
    )


def default_tolerance(game: Game) -> float:
    """Return the error of values that no decision depends on, in units of the return."""
    return 1e-4 * float(np.ptp(game.r_l) + np.ptp(game.r_g) + 1e-300) / (1 - game.gamma)


def switched(pi_l: FloatArray, s_g: int, s_l: int) -> list[tuple[FloatArray, int]]:
    """Return pi_l with entry (s_g, s_l) switched to each action that it does not take surely."""
    result: list[tuple[FloatArray, int]] = []
    for action in range(pi_l.shape[2]):
        if pi_l[s_g, s_l, action] < 1:
            candidate = pi_l.copy()
            candidate[s_g, s_l] = np.eye(pi_l.shape[2])[action]
            result.append((candidate, action))
    return result


def with_local(policy: Policy, pi_l: FloatArray) -> Policy:
    """Return the policy with another local policy under the same dispatcher."""
    return Policy(
        policy.game,
        policy.grid,
        policy.action,
        pi_l,
        memory=policy.memory,
        prior=policy.prior,
        bare=policy.bare,
    )


def _solved_again(deployment: Deployment, current: Judged, play: Play) -> Judged:
    """Return the pair with its dispatcher solved and its settings tuned anew, unless that loses."""
    game, policy = deployment.game, current.policy
    table = g_learn(game, policy.pi_l, policy.grid, tol=default_tolerance(game))
    dressed = Policy(
        game, policy.grid, table.action, policy.pi_l, memory=policy.memory, bare=policy.bare
    )
    tuned = best_memory(deployment, best_prior(deployment, dressed))
    wins, challenger, current = deployment.better(deployment.judge(tuned), current, play)
    # The response to the new local policy is kept unless it is behind: the next pass starts on it.
    return challenger if wins or gain(challenger, current, play).mean > 0 else current
