# SPDX-License-Identifier: MIT
r"""The n-agent system as a judge: which of two policies earns more where it is to be used.

Two policies meet the same random numbers; the mean of the paired differences d of their returns,
of standard error e, decides. A close call is looked at again with twice as many episodes, up to L
looks in all. Whoever looks L times at a threshold made for one look is wrong too often, so the
level is shared between the looks (Bonferroni): the challenger wins at the first look with

.. math:: \bar d > z\, e, \qquad z = \Phi^{-1}(1 - LEVEL / L),

so that one which is no better wins with probability at most LEVEL = 2.5 %, whatever the looks and
however many there are. (L = 3: z = 2.39, L = 5: z = 2.58.) It loses at the first
look at which it is behind, or cannot be ahead by more than the indifference.

A policy has two ways to be played, without memory and with it. A comparison is about one of them,
or about both: then d is the mean of the two differences, and a challenger must not be behind in
either.

The episodes of judging, of tuning pictures and of final figures have different seeds, and none of
them is the user's seed itself: whoever evaluates the policy under that meets new episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from kofn.controller.core._arguments import check_choice, check_kind, check_poll, check_seed
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import resolve_horizon, rollout

if TYPE_CHECKING:
    import numpy.typing as npt

    from kofn.controller.core.game import FloatArray
    from kofn.controller.core.rollouts import Rollouts

#: What a policy is good for: play without memory, with it, or both equally.
Play = Literal["both", "memory", "none"]

#: Probability that a challenger which is no better replaces the best policy.
LEVEL = 0.025

#: Episodes of an ordinary first look, and of the last one.
LOOK, MOST = 1000, 4000

#: A challenger that can be better by no more than this share of the return is not looked at again.
INDIFFERENT = 1e-3

#: Memory in agents beyond the poll, and size of the prior, with which pairs are compared.
USUAL_MEMORY, USUAL_PRIOR, STRONG_PRIOR = 80.0, 12.0, 30.0

_TRAINING = 0x7261696E


@dataclass(frozen=True, slots=True)
class Judged:
    """A policy and the returns of its episodes in both ways, each of shape (episodes,)."""

    policy: Policy
    memoryless: FloatArray
    belief: FloatArray

    @property
    def episodes(self) -> int:
        """Episodes played in each way."""
        return int(self.memoryless.size)

    def scores(self, play: Play) -> FloatArray:
        """Return what is compared, shape (episodes,)."""
        if play == "none":
            return self.memoryless
        if play == "memory":
            return self.belief
        result: FloatArray = (self.memoryless + self.belief) / 2
        return result


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over episodes with its standard error."""

    mean: float
    stderr: float
    episodes: int

    @classmethod
    def of(cls, values: FloatArray) -> Estimate:
        """Return the estimate from one value per episode."""
        error = float(values.std(ddof=1)) / math.sqrt(values.size)
        return cls(float(values.mean()), error, int(values.size))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, for a single look."""
        margin = NormalDist().inv_cdf(0.975) * self.stderr
        return self.mean - margin, self.mean + margin


def gain(new: Judged, old: Judged, play: Play) -> Estimate:
    """Return how much more the new policy earned in the episodes that both have played."""
    size = min(new.episodes, old.episodes)
    return Estimate.of(new.scores(play)[:size] - old.scores(play)[:size])


class Deployment:
    """The n-agent system in which policies are judged.

    Parameters
    ----------
    game : Game
    n, k : int
        Fleet size and poll size, 1 <= k <= n.
    seed : int
        Of all episodes.
    """

    def __init__(self, game: Game, n: int, k: int, seed: int) -> None:
        self.game = check_kind("game", game, Game)
        self.k, self.n = check_poll(k, n)
        self.horizon = resolve_horizon(game, None)
        seeds = np.random.SeedSequence([check_seed(seed), _TRAINING]).generate_state(3)
        self._judging, self._picture, self._final = (int(s) for s in seeds)

    def play(
        self,
        policy: Policy,
        *,
        rollouts: int,
        seed: int,
        memory: float | str = "auto",
        record: bool = False,
    ) -> Rollouts:
        """Play episodes; all that is judged here comes from this, so a subclass may replace it."""
        return rollout(
            self.game,
            policy,
            n=self.n,
            k=self.k,
            horizon=self.horizon,
            rollouts=rollouts,
            seed=seed,
            memory=memory,
            record=record,
        )

    def _returns(self, policy: Policy, rollouts: int, memory: float | str, seed: int) -> FloatArray:
        return self.play(policy, rollouts=rollouts, seed=seed, memory=memory).returns

    def memoryless(self, policy: Policy, rollouts: int = LOOK) -> FloatArray:
        """Return the returns of play without memory, shape (rollouts,)."""
        return self._returns(policy, rollouts, "none", self._judging)

    def remembering(self, policy: Policy, rollouts: int = LOOK) -> FloatArray:
        """Return the returns of play with the policy's own memory, shape (rollouts,)."""
        return self._returns(policy, rollouts, "auto", self._judging)

    def judge(self, policy: Policy, rollouts: int = LOOK, *, fresh: bool = False) -> Judged:
        """Play a policy in both ways; `fresh` episodes have had no part in choosing it."""
        seed = self._final if fresh else self._judging
        return Judged(
            policy,
            self._returns(policy, rollouts, "none", seed),
            self._returns(policy, rollouts, "auto", seed),
        )

    def usual_picture(self, policy: Policy, rollouts: int = 100) -> FloatArray:
        """Return the mean shares of the fleet while the global state is s_g, (S_g, S_l)."""
        records = self.play(policy, rollouts=rollouts, seed=self._picture, record=True).records
        assert records is not None  # noqa: S101 - record=True
        shares = np.full((self.game.n_global, self.game.n_local), 1.0 / self.game.n_local)
        for s in range(self.game.n_global):
            seen = records.s_g == s
            if seen.any():
                shares[s] = records.counts[seen].mean(axis=0) / self.n
        return shares

    def constant_pictures(self, policy: Policy) -> list[FloatArray]:
        """Return the usual pictures under the constant dispatchers, each (S_g, S_l).

        Where polls tell little, a dispatcher that expects the fleet in one place, and so keeps it
        there, does better than one that knows no place from another.
        """
        shape = policy.action.shape
        return [
            self.usual_picture(
                Policy(self.game, policy.grid, np.full(shape, a, dtype=np.int32), policy.pi_l), 50
            )
            for a in range(self.game.n_global_actions)
        ]

    def dress(self, grid: int, action: npt.NDArray[np.int32], pi_l: FloatArray) -> Policy:
        """Return the pair with an ordinary memory, and the better of a few ordinary priors."""
        memory = self.k + USUAL_MEMORY

        def variant(size: float, picture: FloatArray | None) -> Policy:
            prior = None if picture is None else size * picture
            return Policy(self.game, grid, action, pi_l, memory=memory, prior=prior)

        bare = variant(0.0, None)
        options = [variant(USUAL_PRIOR, self.usual_picture(bare))]
        options += [variant(STRONG_PRIOR, picture) for picture in self.constant_pictures(bare)]
        means = [float(self.memoryless(option, LOOK // 4).mean()) for option in options]
        return options[int(np.argmax(means))]

    def better(self, new: Judged, best: Judged, play: Play) -> tuple[bool, Judged, Judged]:
        """Decide whether a policy replaces the best one; return both with all episodes played.

        The first look is at the episodes that `new` has played already.
        """
        looks = 1
        while new.episodes << (looks - 1) < MOST:
            looks += 1
        threshold = NormalDist().inv_cdf(1 - LEVEL / looks)
        while True:
            ahead = gain(new, best, play)
            margin = threshold * ahead.stderr
            wins = ahead.mean > margin
            hopeless = ahead.mean + margin <= INDIFFERENT * abs(float(best.scores(play).mean()))
            if play == "both":
                worst = min(gain(new, best, "none").mean, gain(new, best, "memory").mean)
                wins, hopeless = wins and worst >= 0, hopeless or worst < -margin
            if wins or ahead.mean <= 0 or hopeless or ahead.episodes >= MOST:
                return wins, new, best
            new = self.judge(new.policy, 2 * ahead.episodes)
            if best.episodes < 2 * ahead.episodes:
                best = self.judge(best.policy, 2 * ahead.episodes)


def check_play(play: str) -> None:
    """Raise InputError unless there is this way of play."""
    check_choice("play", play, get_args(Play))
