# SPDX-License-Identifier: MIT
"""What a run says of itself: one `Decision` per step, one `Summary` per run, a `Checkpoint`.

`m` = (fresh, topped up, remembered, padded) tells how good the information of a step was; whatever
did not become a fresh answer is counted by kind and never hidden.
"""

from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import numpy as np

from kofn.controller.histogram import LogHistogram

REFUSED = (
    "late",
    "duplicate",
    "conflict",
    "foreign",
    "out_of_range",
    "stale",
    "unavailable",
    "malformed",
    "unlisted",
    "overflow",
    "quarantined",
)
"""Kinds of rows, and (from `malformed` on) of messages, that did not become an answer; fields of
`Decision` and `Summary`."""

LATE_KEPT = 10_000


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One step: what was asked, what came back, what was believed and done.

    Attributes
    ----------
    ep, t, g, u
        Epoch, step, target g(t) and the global action u(t) chosen from this step's answers.
    asked
        Robots polled in the first wave, in random order.
    counts
        Answers that count, fresh and topped up, per zone, shape (S_l,).
    belief
        Pseudo-counts per zone after the answers, shape (S_l,).
    m
        Fresh, topped-up, remembered and padded entries (`estimate`); at most k in all.
    frame
        Robots that could have been polled: those that said lately that they are unavailable could
        not.
    missing
        Robots asked, in either wave, that gave no valid row before the deadline.
    fallback
        Too few answers: u is the last one.
    latency_ms
        Wall milliseconds from the first poll to the close of the round.
    late .. quarantined
        Refused or unusable rows and messages since the previous decision, by kind: `unlisted` are
        of hosts that the allow-list does not have, `overflow` above what one host may send,
        `quarantined` of hosts that have done so for too long or have contradicted themselves.
    skipped_ticks
        Real time: ticks of the grid that were overrun before this step.
    asked_instead
        Robots polled in the second wave.
    surplus
        Answers of the second wave that were not needed.
    remembered
        Silent robots whose last answer stood in.
    padded
        Padding per zone, shape (S_l,).
    share
        This round's estimate of the fleet's distribution over zones, shape (S_l,), summing to 1;
        empty when there was nothing to estimate from.
    degraded
        This is at least the third fallback in a row.
    transitions
        Last transitions of the robots that answered in time: (z(t-1), a(t-1), z(t)) each, made
        under the target of the step before. A robot that missed that step, was held in it, or
        whose action was altered gives none.
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
    unlisted: int = 0
    overflow: int = 0
    quarantined: int = 0
    skipped_ticks: int = 0
    asked_instead: list[str] = []
    surplus: int = 0
    remembered: list[str] = []
    padded: list[int] = []
    share: list[float] = []
    degraded: bool = False
    transitions: list[tuple[int, int, int]] = []


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """From where a run continues: its last decision, and what has happened since.

    Attributes
    ----------
    run
        Name of the folder of the run that is continued.
    ep
        Its last epoch; the new one must be higher.
    t, g, u, belief, m, frame
        As in its last `Decision`.
    repeats
        How often step t+1 was published without coming to a decision: robots have moved so often.
    seed, policy_sha256
        Of the run; it can be continued with these only.
    """

    run: str
    ep: int
    t: int
    g: int
    u: int
    belief: list[float]
    m: tuple[int, int, int, int]
    frame: int
    repeats: int
    seed: int
    policy_sha256: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, as scripts read them.

    `polls_sent` counts robots asked, `poll_messages` the messages that asked them; `replies_used`
    the zones that entered decisions, fresh or topped up, never more than k a step; `steps` the
    steps made, from `first_step` on (above 0 when the run continues `resumed_from`).

    `answer_rate` is the share of robots heard by their last-known zone, of `answer_asked` robots;
    `loss_p_value` that of the test that it is the same in all zones, over the whole run;
    `loss_depends_on_state` tells whether the alarm was raised. `late_p50_ms` and `late_max_ms` are
    wall milliseconds by which late zones missed the end of their round.
    `echo_ms` is the round trip to the broker before the first step, wall milliseconds.
    `poll_p50_ms` and `poll_p99_ms` are right to 1 %. `quarantined_hosts` counts how often a host
    was put into quarantine.
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
    first_step: int = 0
    resumed_from: str = ""
    polls_instead: int = 0
    topped_up: int = 0
    remembered: int = 0
    padded: int = 0
    surplus: int = 0
    degraded_steps: int = 0
    late_p50_ms: float = 0.0
    late_max_ms: float = 0.0
    answer_rate: list[float | None] = []
    answer_asked: list[int] = []
    loss_p_value: float | None = None
    loss_depends_on_state: bool = False
    unlisted: int = 0
    overflow: int = 0
    quarantined: int = 0
    quarantined_hosts: int = 0
    echo_ms: float | None = None


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
        self.polls_instead = 0
        self.topped_up = 0
        self.remembered = 0
        self.padded = 0
        self.surplus = 0
        self.degraded_steps = 0
        self._late_ms: deque[float] = deque(maxlen=LATE_KEPT)
        self.refused: Counter[str] = Counter()
        self._latencies_ms = LogHistogram()

    def add(self, decision: Decision, k: int) -> None:
        """Add one step of a run with poll size `k`."""
        self.steps += 1
        fresh, topped_up, remembered, padded = decision.m
        self.polls_sent += len(decision.asked) + len(decision.asked_instead)
        self.polls_instead += len(decision.asked_instead)
        self.replies_used += fresh + topped_up
        self.topped_up += topped_up
        self.remembered += remembered
        self.padded += padded
        self.surplus += decision.surplus
        self.degraded_steps += decision.degraded
        self.missing += decision.missing
        self.fallback_steps += decision.fallback
        self.small_frame_steps += len(decision.asked) < k
        self.skipped_ticks += decision.skipped_ticks
        self.refused.update({kind: getattr(decision, kind) for kind in REFUSED})
        self._latencies_ms.add(decision.latency_ms)

    def add_late(self, late_ms: Sequence[float]) -> None:
        """Add by how much zones came too late."""
        self._late_ms.extend(late_ms)

    def late_ms(self, percentile: float) -> float:
        """Percentile of the lateness of late zones (the last ones, if many); 0 without any."""
        return float(np.percentile(list(self._late_ms), percentile)) if self._late_ms else 0.0

    def latency_ms(self, percent: float) -> float:
        """Percentile of the poll latency, within 1 %; 0 while there is none."""
        return self._latencies_ms.percentile(percent)
