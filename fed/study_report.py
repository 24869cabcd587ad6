# SPDX-License-Identifier: MIT
"""What a study says: medians, quartiles, paired differences, and whether its claims hold.

A run that never reached a target counts as infinitely late, so medians and quartiles stay honest;
how many there were is shown. Paired differences of times take the horizon for such runs (so they
understate), and have bootstrap intervals over seeds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from kofn.fed.study import RunResult, Study

BOOTSTRAPS = 10_000


def quartiles(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Return the three quartiles; None counts as infinity."""
    x = np.sort(np.array([math.inf if v is None else v for v in values], dtype=np.float64))
    if not len(x):
        return math.nan, math.nan, math.nan

    def at(q: float) -> float:
        place = q * (len(x) - 1)
        low, high = x[math.floor(place)], x[math.ceil(place)]
        share = place - math.floor(place)
        return float(low if share == 0 else low + share * (high - low) if high < math.inf else high)

    return at(0.25), at(0.5), at(0.75)


def bootstrap(
    differences: npt.ArrayLike,
    statistic: Callable[..., Any] = np.median,
    *,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return a statistic of paired differences with its 95 % percentile interval over seeds."""
    x = np.asarray(differences, dtype=np.float64)
    if not len(x):
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = statistic(x[rng.integers(len(x), size=(BOOTSTRAPS, len(x)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(statistic(x)), float(low), float(high)


class Table:
    """Results of a study by partition, arm and poll size, paired by seed."""

    def __init__(self, study: Study, results: Sequence[RunResult]) -> None:
        self.study = study
        self.groups: dict[tuple[str, str, int | None], dict[int, RunResult]] = {}
        for r in results:
            key = (r.cell.partition, r.cell.arm, r.cell.k)
            self.groups.setdefault(key, {})[r.cell.seed] = r

    def runs(self, partition: str, arm: str, k: int | None) -> dict[int, RunResult]:
        """Return the runs of one arm by seed; empty where there are none."""
        return self.groups.get((partition, arm, k), {})

    def baseline(self, partition: str) -> dict[int, RunResult]:
        """Return the runs of the baseline."""
        name = self.study.claim.baseline
        k = next((k for p, arm, k in self.groups if p == partition and arm == name), None)
        return self.runs(partition, name, k)

    def row(self, partition: str, arm: str, k: int | None) -> dict[str, Any]:
        """Return the figures of one arm."""
        runs = list(self.runs(partition, arm, k).values())
        base = self.baseline(partition)
        found: dict[str, Any] = {
            "partition": partition,
            "selector": arm,
            "k": k,
            "runs": len(runs),
            "targets": [],
        }
        for i, target in enumerate(self.study.targets):
            times = [r.time_to[i] for r in runs]
            pairs = [
                self._capped(r.time_to[i]) - self._capped(base[r.cell.seed].time_to[i])
                for r in runs
                if r.cell.seed in base
            ]
            found["targets"].append(
                {
                    "target": target,
                    "time_s": _finite(quartiles(times)),
                    "rounds": _finite(quartiles([r.rounds_to[i] for r in runs])),
                    "never": sum(t is None for t in times),
                    "difference_s": _finite(bootstrap(pairs)),
                }
            )
        for key in (
            "accuracy_end", "worst_decile", "rounds", "bytes_poll", "bytes_model",
            "ever_trained", "gini", "selector_ms", "wall_s",
        ):  # fmt: skip
            found[key] = _finite(quartiles([float(getattr(r, key)) for r in runs]))
        found["polls_per_round"] = _finite(quartiles([r.polled / max(r.rounds, 1) for r in runs]))
        return found

    def _capped(self, t: float | None) -> float:
        return self.study.horizon_s if t is None else t

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows, in order of the study."""
        return [
            self.row(how, arm.title, k)
            for how in self.study.partitions
            for arm in self.study.arms
            for k in arm.sizes
            if self.runs(how, arm.title, k)
        ]

    def claims(self) -> list[dict[str, Any]]:
        """Return each claim with what was measured and whether it holds."""
        claim = self.study.claim
        found: list[dict[str, Any]] = []
        for how in self.study.partitions:
            own = self.runs(how, claim.arm, claim.k)
            base, full = self.baseline(how), self.runs(how, claim.arm, claim.k_all)
            fixed = self.runs(how, claim.control, claim.k)
            if not own or not base:
                continue
            for i, target in enumerate(self.study.targets):
                mine, other = self._median(own, i), self._median(base, i)
                found.append(
                    _claim(
                        how,
                        f"median time to {target:g} at most {claim.factor:g} times that of "
                        f"{claim.baseline}",
                        self._ratio(mine, other),
                        claim.factor,
                        f"{_seconds(mine)} against {_seconds(other)}",
                    )
                )
                if fixed:
                    best = self._median(fixed, i)
                    found.append(
                        _claim(
                            how,
                            f"median time to {target:g} not above that of {claim.control}",
                            self._ratio(mine, best),
                            1.0,
                            f"{_seconds(mine)} against {_seconds(best)}",
                        )
                    )
                if full:
                    all_ = self._median(full, i)
                    found.append(
                        _claim(
                            how,
                            f"median time to {target:g} within {100 * claim.within:g} % of "
                            f"k = {claim.k_all}",
                            self._ratio(mine, all_),
                            1 + claim.within,
                            f"{_seconds(mine)} against {_seconds(all_)}",
                        )
                    )
            ends = [np.median([r.accuracy_end for r in runs.values()]) for runs in (own, base)]
            found.append(
                _claim(
                    how,
                    f"accuracy at {self.study.horizon_s:g} s at most {claim.accuracy_loss:g} "
                    f"below {claim.baseline}",
                    float(ends[1] - ends[0]),
                    claim.accuracy_loss,
                    f"{ends[0]:.3f} against {ends[1]:.3f}",
                )
            )
        return found

    def _ratio(self, mine: float, other: float) -> float:
        # Where the other never arrives, the horizon stands for it: the true ratio is smaller.
        return mine / min(other, self.study.horizon_s)

    def _median(self, runs: dict[int, RunResult], i: int) -> float:
        return quartiles([r.time_to[i] for r in runs.values()])[1]


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if math.isfinite(value) else "never"


def _claim(how: str, text: str, measured: float, limit: float, shown: str) -> dict[str, Any]:
    return {
        "partition": how,
        "claim": text,
        "measured": measured if math.isfinite(measured) else None,
        "limit": limit,
        "holds": bool(measured <= limit),
        "shown": shown,
    }


def _finite(values: tuple[float, float, float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def markdown(study: Study, study_hash: str, table: Table) -> str:
    """Return the report as Markdown."""
    rows = table.rows()
    n = max((row["runs"] for row in rows), default=0)
    lines = [
        f"# {study.name}",
        "",
        f"Study file SHA-256 `{study_hash}`; {n} of {len(study.seeds)} seeds played.",
        f"Study seeds {_span(study.seeds)}, tuning seeds {_span(study.tuning_seeds)}.",
        f"{study.dataset}, {study.clients} clients, {study.m} chosen in a round, "
        f"{study.horizon_s:g} simulated seconds; polls are charged, traces are synthetic.",
        "",
        "Stated before the runs:",
        "",
        *(f"- {sentence}" for sentence in study.hypotheses),
        "",
        "## Claims",
        "",
        "| partition | claim | measured | | holds |",
        "|---|---|---|---|---|",
        *(
            f"| {c['partition']} | {c['claim']} | {_number(c['measured'], 3)} | {c['shown']} | "
            f"{'yes' if c['holds'] else '**no**'} |"
            for c in table.claims()
        ),
        "",
        "## Not reached",
        "",
        *(f"- {sentence}" for sentence in _missed(table)),
    ]
    for how in study.partitions:
        lines += ["", f"## {how}", ""]
        head = ["selector", "k", "runs"]
        for target in study.targets:
            head += [f"s to {target:g} (quartiles)", "never", "minus baseline (95 %)"]
        head += ["accuracy at the end", "worst decile", "rounds", "polls a round"]
        head += ["MB polls", "MB models", "ever trained", "Gini"]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for row in (row for row in rows if row["partition"] == how):
            cells = [row["selector"], "" if row["k"] is None else str(row["k"]), str(row["runs"])]
            for found in row["targets"]:
                low, mid, high = (_number(v, 0, never="never") for v in found["time_s"])
                d, d_low, d_high = (_number(v, 0) for v in found["difference_s"])
                cells += [f"{mid} ({low} to {high})", str(found["never"])]
                cells += [f"{d} ({d_low} to {d_high})"]
            cells += [_number(row[key][1], 3) for key in ("accuracy_end", "worst_decile")]
            cells += [_number(row["rounds"][1], 0), _number(row["polls_per_round"][1], 1)]
            cells += [
                _number(None if row[key][1] is None else row[key][1] / 1e6, 2)
                for key in ("bytes_poll", "bytes_model")
            ]
            cells += [_number(row["ever_trained"][1], 2), _number(row["gini"][1], 2)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Times are simulated seconds. Paired differences take the horizon for runs that never "
        "reached the target.",
        "Worst decile: mean over the tenth of the clients that are served worst of the expected "
        "test accuracy on their own mix of classes.",
        "",
    ]
    return "\n".join(lines)


def _missed(table: Table) -> list[str]:
    """Return one sentence for each claim that does not hold, and for each arm with late runs."""
    claims = table.claims()
    failed = [
        f"{c['partition']}: {c['claim']}, stated before the runs, does not hold: {c['shown']}."
        for c in claims
        if not c["holds"]
    ]
    late = []
    for row in table.rows():
        arm = row["selector"] if row["k"] is None else f"{row['selector']} (k = {row['k']})"
        never = [
            f"{found['target']:g} in {found['never']} of {row['runs']} runs"
            for found in row["targets"]
            if found["never"]
        ]
        if never:
            late.append(f"{row['partition']}: {arm} never reached {' and '.join(never)}.")
    none = "Every claim holds." if claims else "No claim could be judged."
    return (failed or [none]) + (late or ["Every run reached every target."])


def _span(seeds: Sequence[int]) -> str:
    ordered = sorted(seeds)
    if len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered)) or "none"


def _number(value: float | None, digits: int, *, never: str = "-") -> str:
    return never if value is None else f"{value:.{digits}f}"
