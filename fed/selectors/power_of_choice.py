# SPDX-License-Identifier: MIT
"""Power-of-Choice: of d random candidates, the m with the largest loss of the fresh model.

Candidates are drawn without replacement with probability p_i = n_i / sum n among those online.
Three ways to know their losses:

==========================  ======================================================
`power-of-choice`           polled: each downloads the model and passes over its data
`power-of-choice-batch`     polled: the loss is estimated on one batch
`power-of-choice-cached`    not polled: the last loss reported when the client trained
                            (rpow-d); one that never trained comes first
==========================  ======================================================

d is the poll size k. n_i is known of clients that replied or trained; of others it is taken to be
the mean. A candidate that does not reply is chosen last.

Reference: Cho, Wang & Joshi 2020, arXiv 2010.01243.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kofn.fed.checks import check_size
from kofn.fed.selectors.base import BaseSelector, draw, largest
from kofn.fed.selectors.protocol import PollRequest, Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from kofn.fed.selectors.protocol import Outcome, Status


class PowerOfChoiceSelector(BaseSelector):
    """The m largest losses of d candidates that are polled.

    Parameters
    ----------
    k : int
        d, the number of candidates; at least m to be of use.
    """

    name = "power-of-choice"
    batch: int | None = None

    def __init__(self, *, k: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.k = check_size("poll size", k)
        self.samples: dict[str, int] = {}
        self.losses: dict[str, float] = {}
        self._candidates: list[str] = []

    def _draw(self, online: Sequence[str], rng: np.random.Generator) -> list[str]:
        known = [n for n in self.samples.values() if n > 0]
        usual = sum(known) / len(known) if known else 1.0
        weights = {name: float(self.samples.get(name) or usual) for name in online}
        return draw(online, self.k, rng, weights)

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Poll the candidates for their loss."""
        del server_round
        self._candidates = self._draw(online, rng)
        self.losses = {}
        return PollRequest(clients=tuple(self._candidates), what="loss", samples=self.batch)

    def take(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Keep the losses of this round."""
        del server_round
        for status in statuses:
            if status.loss is not None:
                self.losses[status.name] = status.loss
            if status.samples:
                self.samples[status.name] = status.samples

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose the largest losses; seats left over are filled evenly."""
        del server_round
        here = set(online)
        candidates = [name for name in self._candidates if name in here]
        score = {name: self._score(name) for name in candidates}
        chosen = largest(candidates, m, score, rng)
        chosen += draw(sorted(here - set(chosen)), m - len(chosen), rng)
        return Selection(clients=tuple(chosen))

    def _score(self, name: str) -> float:
        return self.losses.get(name, -math.inf)

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Learn how many samples clients have."""
        del server_round
        self.samples.update({o.name: o.samples for o in outcomes if o.arrived and o.samples})

    def remembered(self) -> dict[str, Any]:
        """Return sizes and losses."""
        return {"samples": self.samples, "losses": self.losses}

    def recall(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.samples, self.losses = dict(state["samples"]), dict(state["losses"])


class BatchPowerOfChoiceSelector(PowerOfChoiceSelector):
    """The same with the loss estimated on one batch of this many samples."""

    name = "power-of-choice-batch"

    def __init__(self, *, k: int, batch: int = 20, **settings: Any) -> None:
        super().__init__(k=k, **settings)
        self.batch = check_size("batch", batch)


class CachedPowerOfChoiceSelector(PowerOfChoiceSelector):
    """The same with the loss that was reported when a client last trained."""

    name = "power-of-choice-cached"

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Draw the candidates; nobody is polled."""
        del server_round
        self._candidates = self._draw(online, rng)
        return PollRequest()

    def _score(self, name: str) -> float:
        return self.losses.get(name, math.inf)

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Keep what participants report."""
        super().learn(server_round, outcomes)
        self.losses.update({o.name: o.loss for o in outcomes if o.arrived and o.loss is not None})
