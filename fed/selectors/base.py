# SPDX-License-Identifier: MIT
"""What selectors share: the register, the intake of statuses, and draws without replacement."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.selectors.protocol import PollRequest, Selection
from kofn.fed.status import FIVE, Intake

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kofn.fed.selectors.protocol import Outcome, Status
    from kofn.fed.status import Bins


class BaseSelector:
    """A selector that polls nobody and remembers only which clients exist.

    Subclasses override `wants`, `take` (statuses that passed the intake), `select`, `learn`
    (outcomes that are numbers), `remembered` and `recall`.

    Parameters
    ----------
    bins : Bins
        Declared status bins; a status outside them is dropped and counted.
    """

    name = "base"

    def __init__(self, *, bins: Bins = FIVE) -> None:
        self.bins = bins
        self.intake = Intake(bins)
        self.registered: dict[str, None] = {}

    def register(self, names: Sequence[str]) -> None:
        """Learn which clients exist; called again with those that join later."""
        self.registered.update(dict.fromkeys(names))

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Return whom to poll: nobody."""
        del server_round, online, rng
        return PollRequest()

    def observe(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Take replies; those that break the declared limits are dropped and counted."""
        self.take(server_round, self.intake.sift(statuses))

    def take(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Learn from valid replies; nothing by default."""

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose clients."""
        raise NotImplementedError

    def update(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes; those without a finite duration or with a loss that is no number go."""
        self.learn(server_round, [outcome for outcome in outcomes if _sound(outcome)])

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Learn from valid outcomes; nothing by default."""

    def state(self) -> dict[str, Any]:
        """Return all that is remembered, as JSON values."""
        return {
            "rule": self.name,
            "registered": list(self.registered),
            "dropped": dict(self.intake.dropped),
            **self.remembered(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if state.get("rule") != self.name:
            raise InputError(f"a state of rule {state.get('rule')!r} is not one of {self.name!r}")
        self.registered = dict.fromkeys(state["registered"])
        self.intake.dropped.clear()
        self.intake.dropped.update(state["dropped"])
        self.recall(state)

    def remembered(self) -> dict[str, Any]:
        """Return what the rule itself remembers; nothing by default."""
        return {}

    def recall(self, state: dict[str, Any]) -> None:
        """Take back what `remembered` returned."""

    def close(self) -> None:
        """End what runs in the background; nothing by default."""


def _sound(outcome: Outcome) -> bool:
    numbers = [outcome.duration_s]
    numbers += [x for x in (outcome.loss, outcome.loss_rms, outcome.accuracy) if x is not None]
    return all(
        isinstance(x, (int, float)) and math.isfinite(x) and 0 <= x <= 1e9 for x in numbers
    ) and (isinstance(outcome.samples, int) and 0 <= outcome.samples <= 10**9)


def draw(
    names: Sequence[str],
    size: int,
    rng: np.random.Generator,
    weights: Mapping[str, float] | None = None,
) -> list[str]:
    """Draw min(size, len(names)) names without replacement, evenly or with given weights.

    The names are sorted first: the order in which clients came online must not change a draw.
    Where too few weights are positive, the rest is drawn evenly.
    """
    pool = sorted(set(names))
    size = min(size, len(pool))
    if size <= 0:
        return []
    if weights is None:
        return [pool[i] for i in rng.permutation(len(pool))[:size]]
    # Gumbel keys: the largest are a draw without replacement, one after the other.
    heavy = np.array([max(weights.get(name, 0.0), 0.0) for name in pool])
    with np.errstate(divide="ignore"):
        keys = np.log(heavy) - np.log(rng.standard_exponential(len(pool)))
    spare = rng.random(len(pool))
    order = np.lexsort((-spare, -keys))
    return [pool[i] for i in order[:size]]


def largest(
    names: Sequence[str], size: int, score: Mapping[str, float], rng: np.random.Generator
) -> list[str]:
    """Return the min(size, len(names)) names of largest score; ties are broken by the generator."""
    shuffled = draw(names, len(names), rng)
    return sorted(shuffled, key=lambda name: -score[name])[: max(size, 0)]
