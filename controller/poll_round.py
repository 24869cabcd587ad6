# SPDX-License-Identifier: MIT
"""One poll round: which k robots are asked at step t, and which of their answers count.

Pure: no clock, no socket. All randomness is one permutation of the frame, drawn before anything is
sent; its first k robots are asked, one message per host. A row of a reply counts only if

    (ep, t, q) is the open round, the robot was asked, and it belongs to the host that answers;

the first row of a robot counts, whatever comes later. The result takes the answers in the order of
the permutation, so it does not depend on the order of arrival.

| symbol | name | meaning |
|---|---|---|
| q | `nonce` | 64 random bits: nobody can answer before having been asked |
| k | `len(asked)` | robots asked, at most the configured poll size |
| c | `Outcome.counts` | fresh answers per zone, shape (n_zones,), sum <= k |
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kofn.controller.link.messages import Flag, Poll, Reply, Row

Kind = Literal[
    "late", "duplicate", "conflict", "foreign", "out_of_range", "stale", "unavailable", "malformed"
]
Tally = Counter[Kind]
"""How many rows (or, for `malformed`, messages) did not become a fresh answer, by kind."""


class Outcome(NamedTuple):
    """What a closed round says.

    `zones` are the fresh answers in the order of the permutation; `counts[z]` their histogram;
    `missing` robots were asked and gave no valid row at all.
    """

    zones: tuple[int, ...]
    counts: tuple[int, ...]
    missing: int


@dataclass(frozen=True, slots=True)
class RoundKey:
    """What identifies a round on the wire."""

    ep: int
    t: int
    q: str


class PollRound:
    """The round of one step.

    Parameters
    ----------
    key
        Epoch, step and nonce.
    permutation
        The frame in random order; its first `k` robots are asked.
    host_of
        Robot -> host that speaks for it.
    k
        Poll size; a smaller frame is asked as a whole.
    n_zones
        Zones are 0..n_zones-1.
    deadline_s
        Time on the controller's clock after which nothing counts any more.
    """

    def __init__(
        self,
        key: RoundKey,
        *,
        permutation: Sequence[str],
        host_of: Mapping[str, str],
        k: int,
        n_zones: int,
        deadline_s: float,
    ) -> None:
        self.key = key
        self.asked: tuple[str, ...] = tuple(permutation[:k])
        self.deadline_s = deadline_s
        self._host_of = {robot: host_of[robot] for robot in self.asked}
        self._n_zones = n_zones
        self._rows: dict[str, Row] = {}
        self._closed = False

    def polls(self, *, up_ms: int, ttl_ms: int) -> dict[str, Poll]:
        """Return host -> its poll message, in the order in which hosts appear in the sample."""
        ids: dict[str, list[str]] = {}
        for robot in self.asked:
            ids.setdefault(self._host_of[robot], []).append(robot)
        ep, t, q = self.key.ep, self.key.t, self.key.q
        return {
            host: Poll(ep=ep, t=t, up=up_ms, q=q, w=1, ttl=ttl_ms, ids=robots)
            for host, robots in ids.items()
        }

    def accept(self, host: str, reply: Reply, now_s: float) -> Tally:
        """Take a reply from `host` at `now_s`; count the rows that are no fresh answer."""
        tally: Tally = Counter()
        if RoundKey(reply.ep, reply.t, reply.q) != self.key:
            tally["foreign"] += max(1, len(reply.r))
            return tally
        for row in reply.r:
            refused = self._judge(host, row, now_s)
            if refused is None:
                self._rows[row.id] = row
                refused = self._unusable(row)
            if refused is not None:
                tally[refused] += 1
        return tally

    def _judge(self, host: str, row: Row, now_s: float) -> Kind | None:
        """Why a row is refused; None when it is the valid answer of its robot."""
        if self._host_of.get(row.id) != host:
            return "foreign"
        first = self._rows.get(row.id)
        if first is not None:
            return "duplicate" if first == row else "conflict"
        if self._closed or now_s >= self.deadline_s:
            return "late"
        if row.flag is Flag.OK and (row.z is None or row.z >= self._n_zones):
            return "out_of_range"
        return None

    def _unusable(self, row: Row) -> Kind | None:
        """Why a valid answer is not a fresh zone; None when it is one."""
        if row.flag is Flag.OK:
            return None
        return "stale" if row.flag is Flag.STALE else "unavailable"

    @property
    def complete(self) -> bool:
        """Whether every robot that was asked has answered, one way or another."""
        return len(self._rows) == len(self.asked)

    def is_closed(self, now_s: float) -> bool:
        """Whether nothing more can count: all have answered, or the deadline has passed."""
        return self._closed or self.complete or now_s >= self.deadline_s

    def close(self) -> Outcome:
        """Close the round and return what it says; later rows are counted as late."""
        self._closed = True
        zones = tuple(
            row.z
            for row in (self._rows.get(robot) for robot in self.asked)
            if row is not None and row.flag is Flag.OK and row.z is not None
        )
        counts = [0] * self._n_zones
        for zone in zones:
            counts[zone] += 1
        return Outcome(zones, tuple(counts), len(self.asked) - len(self._rows))
