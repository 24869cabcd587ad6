# SPDX-License-Identifier: MIT
"""`kofn bench link --soak SECONDS`: whether a control period is held, and memory stays.

A controller and its hosts run at a fixed period; counted are ticks that were overrun, rounds that
did not hear all k robots, and resident memory of every process, once a second. The growth of memory
is the slope of a straight line through the second half, by least squares: the first half fills
caches and buffers of a fixed size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.results import Decision
from kofn.launch.link_bench import Case, Outcome, percentile, play

WARM_UP = 20

Series = list[tuple[float, float]]


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a soak; memory in MB, growth in MB an hour (controller, and the worst host).

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
    host_rss_mb: float
    host_growth_mb_h: float
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


def growth_mb_h(series: Series) -> float:
    """Slope of memory over the second half of a series, MB an hour; 0 for less than 3 points."""
    half = series[len(series) // 2 :]
    if len(half) < 3:
        return 0.0
    at_s, mb = np.array(half).T
    return round(float(np.polyfit(at_s - at_s[0], mb, 1)[0]) * 3600, 3)


def _report(case: Case, outcome: Outcome, seconds: float, figure: Path) -> SoakReport:
    summary = outcome.summary
    ticks = summary.steps + summary.skipped_ticks
    return SoakReport(
        broker=outcome.broker,
        n=case.n,
        k=case.k,
        hosts=case.hosts,
        period_ms=1000 * case.period_s,
        seconds=seconds,
        steps=summary.steps,
        missed_share=round(summary.skipped_ticks / ticks, 6),
        short_share=round(outcome.short_rounds / max(1, len(outcome.latencies_ms)), 6),
        all_hosts_share=round(outcome.taken_by_all / summary.steps, 6),
        poll_p50_ms=percentile(outcome.latencies_ms, 50),
        poll_p99_ms=percentile(outcome.latencies_ms, 99),
        broadcast_p50_ms=percentile(outcome.broadcasts_ms, 50),
        controller_rss_mb=outcome.rss[-1][1],
        controller_growth_mb_h=growth_mb_h(outcome.rss),
        host_rss_mb=max(host.rss[-1][1] for host in outcome.reports),
        host_growth_mb_h=max((growth_mb_h(host.rss) for host in outcome.reports), key=abs),
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
