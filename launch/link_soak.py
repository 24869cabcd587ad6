# SPDX-License-Identifier: MIT
"""`kofn bench link --soak SECONDS`: whether a control period is held, and memory stays.

A controller and its hosts run at a fixed period; counted are ticks that were overrun, rounds that
did not hear all k robots, and resident memory of every process, once a second. The growth of memory
is the slope b of a straight line through the second half (the first fills caches and buffers of a
fixed size), by least squares through the means y_i of `BLOCKS` blocks at times x_i:

    b +- T s_b,    s_b^2 = sum (y_i - line)^2 / (BLOCKS - 2) / sum (x_i - mean x)^2

Means of blocks, because what a process holds now and a second later is not independent. A soak can
fail, in two ways: the period was missed in more than `MISSED_LIMIT` of all ticks; or memory of some
process grows, by more than `GROWTH_MB_H` with the whole interval above zero. Memory is flat where
no interval reaches beyond `FLAT_MB_H`; between the two the soak was too short to tell.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from kofn.controller.results import Decision
from kofn.launch.link_bench import Case, Outcome, percentile, play

WARM_UP = 20

MISSED_LIMIT = 0.001
BLOCKS = 10
T = 3.355
"""99 % of Student's t with BLOCKS - 2 = 8 degrees of freedom lies within +- T."""
GROWTH_MB_H, FLAT_MB_H = 1.0, 5.0

Series = list[tuple[float, float]]
Memory = Literal["flat", "grows", "undecided"]


class Growth(NamedTuple):
    """Slope of memory, MB an hour, and the ends of its interval."""

    mb_h: float
    low: float
    high: float

    @property
    def memory(self) -> Memory:
        """What is to be said of it."""
        if self.low > 0 and self.mb_h > GROWTH_MB_H:
            return "grows"
        return "flat" if self.high <= FLAT_MB_H else "undecided"


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a soak; memory in MB, growth in MB an hour (controller, and the worst host).

    `memory` is "flat", "grows" or "undecided"; `failed` says why the soak failed, and is empty
    where it did not. A growth has the ends of its 99 % interval beside it (null when it was too
    short for one).
    `missed_share` is the share of ticks that were overrun; `short_share` that of rounds that heard
    fewer than k robots in their time; `all_hosts_share` that of steps that every host has taken.
    """

    broker: str
    n: int
    k: int
    hosts: int
    period_ms: float
    seconds: float
    steps: int
    missed_share: float
    short_share: float
    all_hosts_share: float
    poll_p50_ms: float
    poll_p99_ms: float
    broadcast_p50_ms: float
    controller_rss_mb: float
    controller_growth_mb_h: float
    controller_growth_interval: tuple[float, float]
    host_rss_mb: float
    host_growth_mb_h: float
    host_growth_interval: tuple[float, float]
    memory: Memory
    failed: str
    figure: str


def soak(
    seconds: float,
    *,
    n: int,
    k: int,
    hosts: int,
    period_s: float = 0.05,
    broker: str = "auto",
    out: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> SoakReport:
    """Run for `seconds`, write `soak.png` and `soak.json` into `out`, return the figures."""
    rounds = max(1, round(seconds / period_s) - WARM_UP)
    case = Case(n=n, k=k, hosts=hosts, rounds=rounds, period_s=period_s, warm_up=WARM_UP)

    def note(decision: Decision) -> None:
        if decision.t % 20 == 0:
            progress(decision.t)

    # As a user would run it: both waves, half a period for a poll.
    settings: dict[str, Any] = {"waves": 2, "poll_ttl_s": None}
    outcome = play(case, broker=broker, settings=settings, progress=note)
    out.mkdir(parents=True, exist_ok=True)
    figure = out / "soak.png"
    _draw(outcome, figure)
    report = _report(case, outcome, seconds, figure)
    series = {"controller": outcome.rss, "hosts": [host.rss for host in outcome.reports]}
    table = {**msgspec.to_builtins(report), "rss_mb": series}
    (out / "soak.json").write_bytes(msgspec.json.encode(table))
    return report


def growth(series: Series) -> Growth:
    """Growth over the second half of a series; without an interval below `2 * BLOCKS` points."""
    half = series[len(series) // 2 :]
    if len(half) < 2 * BLOCKS:
        return Growth(0.0, -math.inf, math.inf)
    blocks = np.array_split(np.array(half), BLOCKS)
    hours, mb = np.array([block.mean(axis=0) for block in blocks]).T
    hours = (hours - hours.mean()) / 3600
    spread = float(hours @ hours)
    slope = float(hours @ mb) / spread
    rest = mb - mb.mean() - slope * hours
    error = T * math.sqrt(float(rest @ rest) / (BLOCKS - 2) / spread)
    return Growth(round(slope, 3), round(slope - error, 3), round(slope + error, 3))


def verdict(missed_share: float, grown: Mapping[str, Growth]) -> tuple[Memory, str]:
    """What is to be said of the memory of all processes, and why the soak failed ("": not)."""
    failures = []
    if missed_share > MISSED_LIMIT:
        failures.append(f"{missed_share:.2%} of the ticks were missed, not {MISSED_LIMIT:.1%}")
    growing = [name for name, one in grown.items() if one.memory == "grows"]
    if growing:
        failures.append(f"memory grows in {', '.join(growing)}")
    flat = all(one.memory == "flat" for one in grown.values())
    return "grows" if growing else "flat" if flat else "undecided", "; ".join(failures)


def _report(case: Case, outcome: Outcome, seconds: float, figure: Path) -> SoakReport:
    summary = outcome.summary
    ticks = summary.steps + summary.skipped_ticks
    missed_share = round(summary.skipped_ticks / ticks, 6)
    hosts = {f"host h{i}": growth(host.rss) for i, host in enumerate(outcome.reports)}
    controller, worst = growth(outcome.rss), max(hosts.values(), key=lambda one: one.mb_h)
    memory, failed = verdict(missed_share, {"the controller": controller, **hosts})
    return SoakReport(
        broker=outcome.broker,
        n=case.n,
        k=case.k,
        hosts=case.hosts,
        period_ms=1000 * case.period_s,
        seconds=seconds,
        steps=summary.steps,
        missed_share=missed_share,
        short_share=round(outcome.short_rounds / max(1, len(outcome.latencies_ms)), 6),
        all_hosts_share=round(outcome.taken_by_all / summary.steps, 6),
        poll_p50_ms=percentile(outcome.latencies_ms, 50),
        poll_p99_ms=percentile(outcome.latencies_ms, 99),
        broadcast_p50_ms=percentile(outcome.broadcasts_ms, 50),
        controller_rss_mb=outcome.rss[-1][1],
        controller_growth_mb_h=controller.mb_h,
        controller_growth_interval=(controller.low, controller.high),
        host_rss_mb=max(host.rss[-1][1] for host in outcome.reports),
        host_growth_mb_h=worst.mb_h,
        host_growth_interval=(worst.low, worst.high),
        memory=memory,
        failed=failed,
        figure=str(figure),
    )


def _draw(outcome: Outcome, path: Path) -> None:
    """Draw resident memory of all processes, and the latency of every round."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (memory, latency) = plt.subplots(2, 1, figsize=(9, 7), layout="constrained")
    start_s = outcome.rss[0][0]
    for i, host in enumerate(outcome.reports):
        at_s, mb = np.array(host.rss).T
        label = "hosts" if i == 0 else None
        memory.plot(at_s - start_s, mb, color="tab:orange", lw=0.8, label=label)
    at_s, mb = np.array(outcome.rss).T
    memory.plot(at_s - start_s, mb, color="tab:blue", label="controller")
    memory.set(xlabel="time (s)", ylabel="resident memory (MB)", ylim=(0, None))
    memory.legend()
    latency.plot(outcome.latencies_ms, ".", ms=2, alpha=0.5)
    latency.set(xlabel="round", ylabel="poll round (ms)", yscale="log")
    figure.savefig(path, dpi=110)
    plt.close(figure)
