# SPDX-License-Identifier: MIT
r"""Oort: statistical utility, discounted for slow clients, with exploration and a pacer.

.. math:: U_i = n_i \sqrt{\tfrac{1}{n_i} \sum_s loss_s^2}, \qquad
   score_i = \Bigl(\tilde U_i + \sqrt{0.1 \ln R / L_i}\Bigr) (T / t_i)^{a\, 1[t_i > T]}

U is clipped at a percentile and scaled to [0, 1]; R is the round, L_i the last round of client i
(staleness), t_i its duration, T the pacer's duration. Of the m seats a share eps explores clients
that never trained; the others are drawn by score among those above `cut_off` times the score at the
cut. More than m are sent out and the first m count (over-commitment).

*Pacer*: T is a percentile of the durations seen; when the utility of the last `pacer_step` rounds
is no more than `FLAT` times that of those before, the percentile goes up by `pacer_delta`.

Where paper and released code differ, this follows the code in the form of the score (scaled utility
plus staleness) and the paper in the clipping at the 95th percentile; the pool above the cut-off is
the code's.

Reference: Lai et al., OSDI 2021, arXiv 2010.06081.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.selectors.base import BaseSelector, draw
from kofn.fed.selectors.protocol import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kofn.fed.selectors.protocol import Outcome

#: Utility that has not grown beyond this factor counts as flat.
FLAT = 1.1


class OortSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Constants of the rule.

    Attributes
    ----------
    explore, explore_decay, explore_least : float
        eps at the start, its factor per round, and its floor.
    penalty : float
        a, how hard slow clients are discounted.
    clip : float
        Percentile at which utilities are clipped.
    cut_off : float
        Share of the score at the cut above which clients are in the pool.
    pacer_step : int
        Rounds between looks of the pacer.
    pacer_percentile, pacer_delta : float
        Percentile of durations at the start, and its steps.
    most_rounds : int
        A client that took part so often is left out while others are there.
    over_commit : float
        How many are sent out for each seat.
    """

    explore: float = 0.9
    explore_decay: float = 0.98
    explore_least: float = 0.2
    penalty: float = 2.0
    clip: float = 95.0
    cut_off: float = 0.95
    pacer_step: int = 20
    pacer_percentile: float = 50.0
    pacer_delta: float = 5.0
    most_rounds: int = 50
    over_commit: float = 1.3

    def __post_init__(self) -> None:
        if not 1 <= self.over_commit <= 10:
            raise InputError(f"over_commit {self.over_commit} is not from 1 to 10")
        if not 0 <= self.explore_least <= self.explore <= 1:
            raise InputError(
                f"explore {self.explore} and explore_least {self.explore_least} "
                "are not ordered shares"
            )


class OortSelector(BaseSelector):
    """Utility over time, as in the module's docstring; polls nobody."""

    name = "oort"

    def __init__(self, *, settings: OortSettings | None = None, **others: Any) -> None:
        super().__init__(**others)
        self.settings = settings or OortSettings()
        self.utility: dict[str, float] = {}
        self.duration: dict[str, float] = {}
        self.last: dict[str, int] = {}
        self.times: dict[str, int] = {}
        self.percentile = self.settings.pacer_percentile
        self.history: list[float] = []

    @property
    def pace_s(self) -> float:
        """T, the duration above which a client is discounted, s."""
        if not self.duration:
            return math.inf
        return float(np.percentile(list(self.duration.values()), min(self.percentile, 100.0)))

    def scores(self, names: Sequence[str], server_round: int) -> dict[str, float]:
        """Return the scores of clients that have trained."""
        seen = [name for name in names if name in self.utility]
        if not seen:
            return {}
        raw = np.array([self.utility[name] for name in seen])
        clipped = np.minimum(raw, np.percentile(raw, self.settings.clip))
        low, spread = clipped.min(), np.ptp(clipped)
        scaled = (clipped - low) / spread if spread > 0 else np.ones(len(seen))
        pace = self.pace_s
        found = {}
        for name, useful in zip(seen, scaled.tolist(), strict=True):
            stale = math.sqrt(0.1 * math.log(max(server_round, 1)) / max(self.last[name], 1))
            late = self.duration[name] > pace
            slow = (pace / self.duration[name]) ** self.settings.penalty if late else 1.0
            found[name] = (useful + stale) * slow
        return found

    def exploring(self, server_round: int) -> float:
        """Return eps, the share of seats that explore in a round."""
        s = self.settings
        return max(s.explore_least, s.explore * s.explore_decay ** max(server_round - 1, 0))

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Exploit by score, explore the unseen, over-commit."""
        size = min(math.ceil(self.settings.over_commit * m), len(online))
        fresh = [name for name in online if self.times.get(name, 0) < self.settings.most_rounds]
        if len(fresh) < size:
            fresh = list(online)
        unseen = [name for name in fresh if name not in self.utility]
        explore = min(round(self.exploring(server_round) * size), len(unseen))
        score = self.scores(fresh, server_round)
        exploit = min(size - explore, len(score))
        chosen: list[str] = []
        if exploit:
            ordered = sorted(score.values(), reverse=True)
            bar = self.settings.cut_off * ordered[exploit - 1]
            pool = [name for name, value in score.items() if value >= bar]
            chosen = draw(pool, exploit, rng, score)
        chosen += draw(unseen, size - len(chosen), rng)
        chosen += draw(sorted(set(online) - set(chosen)), size - len(chosen), rng)
        return Selection(clients=tuple(chosen), keep=min(m, len(online)) if chosen else None)

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Keep utility and duration of participants, and let the pacer look."""
        gained = 0.0
        for outcome in outcomes:
            self.times[outcome.name] = self.times.get(outcome.name, 0) + 1
            if not outcome.arrived:
                # Not needed or not back: it was at least so slow.
                known = self.duration.get(outcome.name, 0.0)
                if outcome.name in self.utility:
                    self.duration[outcome.name] = max(known, outcome.duration_s)
                continue
            rms = outcome.loss_rms if outcome.loss_rms is not None else outcome.loss
            if rms is None:
                continue
            self.utility[outcome.name] = outcome.samples * rms
            self.duration[outcome.name] = max(outcome.duration_s, 1e-6)
            self.last[outcome.name] = max(server_round, 1)
            gained += self.utility[outcome.name]
        self.history.append(gained)
        self._pace()

    def _pace(self) -> None:
        step = self.settings.pacer_step
        if len(self.history) < 2 * step or len(self.history) % step:
            return
        before, now = sum(self.history[-2 * step : -step]), sum(self.history[-step:])
        if now <= FLAT * before:
            self.percentile = min(100.0, self.percentile + self.settings.pacer_delta)
        del self.history[: -2 * step]

    def remembered(self) -> dict[str, Any]:
        """Return what is known of participants."""
        return {
            "utility": self.utility,
            "duration": self.duration,
            "last": self.last,
            "times": self.times,
            "percentile": self.percentile,
            "history": self.history,
        }

    def recall(self, state: dict[str, Any]) -> None:
        """Take it back."""
        for key in ("utility", "duration", "last", "times"):
            setattr(self, key, dict(state[key]))
        self.percentile, self.history = state["percentile"], list(state["history"])
