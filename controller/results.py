# SPDX-License-Identifier: MIT
"""What a run says of itself: one `Decision` per step, one `Summary` per run.

`m` = (fresh, topped up, remembered, padded) tells how good the information of a step was; whatever
did not become a fresh answer is counted by kind and never hidden.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

REFUSED = (
    "late",
    "duplicate",
    "conflict",
    "foreign",
    "out_of_range",
    "stale",
    "unavailable",
    "malformed",
)
"""Kinds of rows that did not become a fresh answer; fields of `Decision` and `Summary`."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what was asked, what came back, what was believed and done.

    Attributes
    ----------
    ep, t, g, u
        Epoch, step, target g(t) and the global action u(t) chosen from this step's answers.
    asked
        Robots polled, in random order.
    counts
        Fresh answers per zone, shape (S_l,).
    belief
        Pseudo-counts per zone after the answers, shape (S_l,).
    m
        Fresh, topped-up, remembered and padded answers.
    frame
        Robots that could have been polled.
    missing
        Robots asked that gave no valid row before the deadline.
    fallback
        Too few fresh answers: u is the last one.
    latency_ms
        Wall milliseconds from the first poll to the close of the round.
    late .. malformed
        Refused or unusable rows since the previous decision, by kind.
    skipped_ticks
        Real time: ticks of the grid that were overrun before this step.
    """

    ep: int
    t: int
    g: int
    u: int
    asked: list[str]
    counts: list[int]
    belief: list[float]
    m: tuple[int, int, int, int]
    frame: int
    missing: int
    fallback: bool
    latency_ms: float
    late: int = 0
    duplicate: int = 0
    conflict: int = 0
    foreign: int = 0
    out_of_range: int = 0
    stale: int = 0
    unavailable: int = 0
    malformed: int = 0
    skipped_ticks: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, as scripts read them.

    `polls_sent` counts robots asked, `poll_messages` the messages that asked them; `replies_used`
    the zones that entered decisions, never more than k a step; `steps` the steps really made.
    """

    name: str
    fleet: str
    game: str
    completed: bool
    steps: int
    k: int
    robots: int
    dispatcher: str
    seed: int
    epoch: int
    policy_sha256: str
    polls_sent: int
    poll_messages: int
    replies_used: int
    late: int
    duplicate: int
    conflict: int
    foreign: int
    out_of_range: int
    stale: int
    unavailable: int
    malformed: int
    missing: int
    fallback_steps: int
    small_frame_steps: int
    skipped_ticks: int
    dropped_hosts: int
    poll_p50_ms: float
    poll_p99_ms: float
    wall_s: float
    error: str = ""


class Totals:
    """Sums over the decisions of a run."""

    def __init__(self) -> None:
        self.steps = 0
        self.polls_sent = 0
        self.poll_messages = 0
        self.replies_used = 0
        self.missing = 0
        self.fallback_steps = 0
        self.small_frame_steps = 0
        self.skipped_ticks = 0
        self.dropped_hosts = 0
        self.refused: Counter[str] = Counter()
        self._latencies_ms: list[float] = []

    def add(self, decision: Decision, k: int) -> None:
        """Add one step of a run with poll size `k`."""
        self.steps += 1
        self.polls_sent += len(decision.asked)
        self.replies_used += decision.m[0]
        self.missing += decision.missing
        self.fallback_steps += decision.fallback
        self.small_frame_steps += len(decision.asked) < k
        self.skipped_ticks += decision.skipped_ticks
        self.refused.update({kind: getattr(decision, kind) for kind in REFUSED})
        self._latencies_ms.append(decision.latency_ms)

    def latency_ms(self, percentiles: Sequence[float]) -> list[float]:
        """Percentiles of the poll latency; 0 while there is none."""
        if not self._latencies_ms:
            return [0.0 for _ in percentiles]
        return [float(value) for value in np.percentile(self._latencies_ms, percentiles)]
