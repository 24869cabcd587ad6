# SPDX-License-Identifier: MIT
"""What the benchmarks share: timing, the machine's name, and the printed table.

Each benchmark warms up, then takes the median of its repeats, and prints each number beside that of
a named peer measured in the same run. `--json` prints the same rows for machines; `--quick` does
less of everything, to show that the script works.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kofn.controller.core._jit import thread_count

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Row = dict[str, float | int | str | None]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--repeats", type=int, default=5, help="timed repeats of each line")
    result.add_argument("--json", action="store_true", help="print one JSON object per table")
    result.add_argument("--quick", action="store_true", help="small sizes, for a first look")
    return result


def median_s(function: Callable[[], object], repeats: int, *, warm: bool = False) -> float:
    """Return the median wall time in seconds, after one warm-up unless `warm` already."""
    if not warm:
        function()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def interleaved_s(
    functions: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Return wall times of each function, s, taken in turns after a warm-up of each."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return times


def machine() -> str:
    """Name the machine: processor and threads in use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        if models:
            name = models[0].split(":", 1)[1].strip()
    return f"{name}, {thread_count()} threads, Python {platform.python_version()}"


def report(title: str, rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows that share their keys: as a table, or as one JSON object with the machine."""
    if as_json:
        print(json.dumps({"benchmark": title, "machine": machine(), "rows": list(rows)}))
        return
    print(f"{title}\n{machine()}")
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[c]) for line in cells) for c in range(len(names))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _text(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
