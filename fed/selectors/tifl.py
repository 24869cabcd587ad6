# SPDX-License-Identifier: MIT
"""TiFL: clients in tiers of like speed; one tier trains in a round.

Latency is profiled once: each client tells its times when it is first seen online (one poll), and
what rounds measure later counts for more. Clients are cut into tiers by it. A round draws one tier
and m clients in it; seats that it cannot fill go to the tiers next to it. Every `interval` rounds
tiers are ranked by the accuracy that their clients reported: with x tiers the i-th best from below
gets the probability (x - i) / (x (x - 1) / 2), so the least accurate is drawn most and the best not
at all. Credits bound how often a slow tier is drawn.

Reference: Chai et al., HPDC 2020, arXiv 2001.09249, Algorithms 1 and 2. Tier accuracy comes from
those that took part, not from a test of all clients as in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.checks import check_size
from kofn.fed.selectors.base import BaseSelector, draw
from kofn.fed.selectors.protocol import PollRequest, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kofn.fed.selectors.protocol import Outcome, Status

#: Weight of a new duration in a client's latency.
_STEP = 0.3

#: Rounds that the tiers may be drawn, from fast to slow.
CREDITS = (10**9, 200, 100, 60, 40)


def tiers_of(latency: Mapping[str, float], n_tiers: int) -> dict[str, int]:
    """Return the tier of each client, 0 the fastest; equal numbers in each."""
    ordered = sorted(latency, key=lambda name: (latency[name], name))
    parts = np.array_split(np.arange(len(ordered)), n_tiers)
    return {ordered[i]: tier for tier, part in enumerate(parts) for i in part}


def rank_law(accuracy: Sequence[float]) -> list[float]:
    """Return the probability of each tier by the rank of its accuracy, the lowest first."""
    x = len(accuracy)
    if x == 1:
        return [1.0]
    order = sorted(range(x), key=lambda tier: (accuracy[tier], tier))
    law = [0.0] * x
    for rank, tier in enumerate(order, start=1):
        law[tier] = (x - rank) / (x * (x - 1) / 2)
    return law


class TiFLSelector(BaseSelector):
    """One tier a round.

    Parameters
    ----------
    tiers : int
        Number of tiers.
    interval : int
        Rounds between changes of the tiers' probabilities.
    credits_ : sequence of int
        How often each tier may be drawn, from fast to slow; when all are used up they start anew.
    """

    name = "tifl"

    def __init__(
        self,
        *,
        tiers: int = 5,
        interval: int = 20,
        credits_: Sequence[int] = CREDITS,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.n_tiers = check_size("tiers", tiers, 2)
        self.interval = check_size("interval", interval)
        if len(credits_) != tiers or min(credits_) < 1:
            raise InputError(
                f"{len(credits_)} credits are given for {tiers} tiers, each at least 1"
            )
        self.granted = list(credits_)
        self.credits = list(credits_)
        self.law = [1 / tiers] * tiers
        self.latency: dict[str, float] = {}
        self.accuracy: dict[str, float] = {}

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Profile those that were never seen."""
        del server_round, rng
        new = [name for name in sorted(online) if name not in self.latency]
        return PollRequest(clients=tuple(new), what="resources" if new else "nothing")

    def take(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Keep the profile."""
        del server_round
        for status in statuses:
            if status.compute_s is not None and status.upload_s is not None:
                self.latency[status.name] = status.compute_s + status.upload_s

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Draw a tier and choose in it."""
        tiers = tiers_of(self.latency, self.n_tiers)
        if server_round % self.interval == 0:
            self._rank(tiers)
        members: list[list[str]] = [[] for _ in range(self.n_tiers)]
        for name in sorted(online):
            if name in tiers:
                members[tiers[name]].append(name)
        law = np.array(
            [p if members[t] and self.credits[t] > 0 else 0.0 for t, p in enumerate(self.law)]
        )
        if law.sum() <= 0:
            self.credits = list(self.granted)
            law = np.array([float(bool(own)) for own in members])
        chosen: list[str] = []
        call = ""
        if law.sum() > 0:
            tier = int(rng.choice(self.n_tiers, p=law / law.sum()))
            self.credits[tier] -= 1
            call = f"tier {tier}"
            for near in sorted(range(self.n_tiers), key=lambda t: (abs(t - tier), t)):
                chosen += draw(members[near], m - len(chosen), rng)
        chosen += draw(sorted(set(online) - set(chosen)), m - len(chosen), rng)
        return Selection(clients=tuple(chosen), call=call)

    def _rank(self, tiers: Mapping[str, int]) -> None:
        known: list[list[float]] = [[] for _ in range(self.n_tiers)]
        for name, accuracy in self.accuracy.items():
            if name in tiers:
                known[tiers[name]].append(accuracy)
        if all(known):
            self.law = rank_law([float(np.mean(own)) for own in known])

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Keep durations and accuracies."""
        del server_round
        for outcome in outcomes:
            known = self.latency.get(outcome.name, outcome.duration_s)
            if outcome.arrived:
                self.latency[outcome.name] = known + _STEP * (outcome.duration_s - known)
            if outcome.arrived and outcome.accuracy is not None:
                self.accuracy[outcome.name] = outcome.accuracy

    def remembered(self) -> dict[str, Any]:
        """Return profile, credits and law."""
        return {
            "latency": self.latency,
            "accuracy": self.accuracy,
            "credits": self.credits,
            "law": self.law,
        }

    def recall(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.latency, self.accuracy = dict(state["latency"]), dict(state["accuracy"])
        self.credits, self.law = list(state["credits"]), list(state["law"])
