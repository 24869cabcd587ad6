# SPDX-License-Identifier: MIT
r"""FedCS: as many clients as the time of a round allows, by their resources.

k clients are asked for their computing and upload times. They are added greedily, each time the one
that lengthens the round least, while the round stays within its time:

.. math:: \Theta_j = \Theta_{j-1} + t^{up}_j + \max(0, t^{compute}_j - \Theta_{j-1})

Uploads follow one another, as the paper has it. No more than m are taken; fewer where the time is
short, but one at least. Where nobody replied the choice is even.

Reference: Nishio & Yonetani, ICC 2019, arXiv 1804.08333, Algorithm 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kofn.controller.core.errors import InputError
from kofn.fed.checks import check_size
from kofn.fed.selectors.base import BaseSelector, draw
from kofn.fed.selectors.protocol import PollRequest, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from kofn.fed.selectors.protocol import Status


def greedy(
    times: Mapping[str, tuple[float, float]], limit_s: float, m: int
) -> tuple[list[str], float]:
    """Return the clients that the greedy rule adds, in order, and the time of their round, s.

    Parameters
    ----------
    times : mapping of str to (float, float)
        Computing and upload time of each client, s.
    limit_s : float
        The time of a round, s.
    m : int
        Clients at most.
    """
    chosen: list[str] = []
    theta = 0.0
    rest = dict(times)

    def grown(name: str) -> float:
        compute_s, upload_s = rest[name]
        return theta + upload_s + max(0.0, compute_s - theta)

    while rest and len(chosen) < m:
        name = min(rest, key=lambda candidate: (grown(candidate), candidate))
        longer = grown(name)
        if longer > limit_s and chosen:
            break
        chosen.append(name)
        theta = longer
        del rest[name]
    return chosen, theta


class FedCSSelector(BaseSelector):
    """The greedy rule over k polled clients.

    Parameters
    ----------
    k : int
        Clients polled for their resources.
    round_s : float
        Time of a round, s.
    """

    name = "fedcs"

    def __init__(self, *, k: int, round_s: float = 60.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.k = check_size("poll size", k)
        if not 0 < round_s < 1e9:
            raise InputError(f"round_s {round_s} is not a positive time")
        self.round_s = float(round_s)
        self._times: dict[str, tuple[float, float]] = {}

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Ask k clients online for their resources."""
        del server_round
        self._times = {}
        return PollRequest(clients=tuple(draw(online, self.k, rng)), what="resources")

    def take(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Keep the resources of this round."""
        del server_round
        for status in statuses:
            if status.compute_s is not None and status.upload_s is not None:
                self._times[status.name] = (status.compute_s, status.upload_s)

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose greedily."""
        del server_round
        here = set(online)
        times = {name: times for name, times in self._times.items() if name in here}
        if not times:
            return Selection(clients=tuple(draw(online, m, rng)), deadline_s=self.round_s)
        chosen, theta = greedy(times, self.round_s, m)
        # A single client that needs longer is waited for.
        return Selection(clients=tuple(chosen), deadline_s=max(self.round_s, 1.5 * theta))
