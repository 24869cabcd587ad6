# SPDX-License-Identifier: MIT
"""Figures of a running controller in the text format of Prometheus.

    # HELP kofn_round_seconds Poll rounds, from the first poll to the close.
    # TYPE kofn_round_seconds summary
    kofn_round_seconds{quantile="0.5"} 0.0031

One thread adds (the control loop), another reads (`metrics_server`); a lock keeps a page
consistent. Labels have few values, all of ours: a host cannot make up new ones.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kofn.controller.histogram import LogHistogram
from kofn.controller.results import REFUSED, Decision

KINDS = ("fresh", "topped_up", "remembered", "padded")
EVENTS = ("hold_timer", "halted", "step_policy", "step_halted", "step_old_epoch", "controller_lost")
"""Events of hosts that are counted by name; the rest is "other"."""

_Samples = Iterable[tuple[str, float]]


class LinkState(NamedTuple):
    """What the link says of itself after a step.

    Attributes
    ----------
    transport
        `Transport.statistics`.
    hosts
        Hosts by state: "in_frame", "out_of_frame" (online, but refused, silent, without the
        policy, or held), "held", "offline".
    events
        Events of hosts so far, by code.
    commands_under_way
        Commands that wait for their acknowledgement.
    quarantines
        How often a host was put into quarantine so far.
    """

    transport: Mapping[str, int]
    hosts: Mapping[str, int]
    events: Mapping[str, int]
    commands_under_way: int
    quarantines: int


class Metrics:
    """Counters of one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rounds_ms = LogHistogram()
        self._round_sum_ms = 0.0
        self._totals: Counter[str] = Counter()
        self._refused: Counter[str] = Counter(dict.fromkeys(REFUSED, 0))
        self._entries: Counter[str] = Counter()
        self._waves: Counter[str] = Counter()
        self._last: Decision | None = None
        self._link: LinkState | None = None
        self._echo_ms: float | None = None
        self._hold_s = self._out_s = 0.0
        self._dropped_hosts = 0
        self._k = 0

    def set_echo(self, echo_ms: float) -> None:
        """Note the round trip to the broker."""
        with self._lock:
            self._echo_ms = echo_ms

    def add(
        self, decision: Decision, k: int, link: LinkState, since_s: float, dropped_hosts: int
    ) -> None:
        """Add one step.

        Parameters
        ----------
        decision
            What was decided.
        k
            Poll size.
        link
            State of the link now.
        since_s
            Wall seconds since the step before.
        dropped_hosts
            Silent hosts dropped so far.
        """
        with self._lock:
            self._k, self._last, self._link = k, decision, link
            self._rounds_ms.add(decision.latency_ms)
            self._round_sum_ms += decision.latency_ms
            self._totals.update(
                steps=1,
                missing=decision.missing,
                fallback_steps=int(decision.fallback),
                skipped_ticks=decision.skipped_ticks,
            )
            self._refused.update({kind: getattr(decision, kind) for kind in REFUSED})
            self._entries.update(dict(zip(KINDS, decision.m, strict=True)))
            self._waves.update({"1": len(decision.asked), "2": len(decision.asked_instead)})
            self._hold_s += since_s * link.hosts.get("held", 0)
            self._out_s += since_s * link.hosts.get("out_of_frame", 0)
            self._dropped_hosts = dropped_hosts

    def text(self) -> str:
        """Return the page."""
        with self._lock:
            lines: list[str] = []
            for name, kind, help_text, samples in self._families():
                lines.append(f"# HELP kofn_{name} {help_text}")
                lines.append(f"# TYPE kofn_{name} {kind}")
                lines += [f"kofn_{name}{rest} {value:.10g}" for rest, value in samples]
            return "\n".join(lines) + "\n"

    def _families(self) -> Iterable[tuple[str, str, str, _Samples]]:
        """Yield (name, type, help, samples); a sample is (suffix and labels, value)."""
        steps = self._totals["steps"]
        rounds: list[tuple[str, float]] = [
            (f'{{quantile="{q:g}"}}', self._rounds_ms.percentile(100 * q) / 1000)
            for q in ((0.5, 0.99) if steps else ())
        ]
        rounds += [("_sum", self._round_sum_ms / 1000), ("_count", steps)]
        yield "round_seconds", "summary", "Poll rounds, from the first poll to the close.", rounds
        for name, text in (
            ("steps", "Steps decided."),
            ("missing", "Robots asked that gave no valid row in time."),
            ("fallback_steps", "Steps that kept the last action for want of answers."),
            ("skipped_ticks", "Ticks of the period that were overrun."),
        ):
            yield f"{name}_total", "counter", text, [("", self._totals[name])]
        yield from self._rounds_in_detail()
        yield from self._wire()

    def _rounds_in_detail(self) -> Iterable[tuple[str, str, str, _Samples]]:
        last = self._last
        yield "poll_size", "gauge", "Robots to be asked in a step, k.", [("", self._k)]
        asked = [(f'{{wave="{wave}"}}', self._waves[wave]) for wave in ("1", "2")]
        yield "polled_total", "counter", "Robots asked.", asked
        entries = [(f'{{kind="{kind}"}}', self._entries[kind]) for kind in KINDS]
        yield "entries_total", "counter", "What decisions were made from.", entries
        refused = [(f'{{reason="{kind}"}}', self._refused[kind]) for kind in REFUSED]
        yield "refused_total", "counter", "Rows and messages that did not count.", refused
        if last is None:
            return
        now = [(f'{{kind="{kind}"}}', m) for kind, m in zip(KINDS, last.m, strict=True)]
        yield "entries", "gauge", "What the last decision was made from.", now
        yield "frame_robots", "gauge", "Robots that could be asked.", [("", last.frame)]
        yield "degraded", "gauge", "1 after three fallbacks in a row.", [("", last.degraded)]
        yield "epoch", "gauge", "Epoch of this controller.", [("", last.ep)]
        yield "step", "gauge", "Last step decided.", [("", last.t)]

    def _wire(self) -> Iterable[tuple[str, str, str, _Samples]]:
        if self._echo_ms is not None:
            text = "Round trip to the broker at the start."
            yield "echo_seconds", "gauge", text, [("", self._echo_ms / 1000)]
        yield "hold_seconds_total", "counter", "Host-seconds held by order.", [("", self._hold_s)]
        text = "Host-seconds online, but out of the frame."
        yield "out_of_frame_seconds_total", "counter", text, [("", self._out_s)]
        text = "Silent hosts taken out of the frame."
        yield "dropped_hosts_total", "counter", text, [("", self._dropped_hosts)]
        link = self._link
        if link is None:
            return
        hosts = [(f'{{state="{state}"}}', count) for state, count in sorted(link.hosts.items())]
        yield "hosts", "gauge", "Hosts by state.", hosts
        known = {code: link.events.get(code, 0) for code in EVENTS}
        other = sum(link.events.values()) - sum(known.values())
        events = [(f'{{code="{code}"}}', n) for code, n in (known | {"other": other}).items()]
        yield "host_events_total", "counter", "What hosts reported.", events
        text = "Hosts put into quarantine."
        yield "quarantines_total", "counter", text, [("", link.quarantines)]
        statistics = link.transport
        reconnects = max(0, statistics.get("connections", 1) - 1)
        yield "reconnects_total", "counter", "Connections after the first.", [("", reconnects)]
        fates = ("received", "sent", "unsent", "dropped", "superseded", "forged")
        messages = [(f'{{fate="{fate}"}}', statistics.get(fate, 0)) for fate in fates]
        yield "messages_total", "counter", "Messages, by what became of them.", messages
        depths = [
            ('{queue="inbox"}', statistics.get("queued", 0)),
            ('{queue="commands"}', link.commands_under_way),
        ]
        yield "queue_depth", "gauge", "Messages that wait.", depths
