# SPDX-License-Identifier: MIT
"""How long motors turn after something died: real processes, a real broker, kill -9 and SIGSTOP.

    python benchmarks/bench_stopping.py [--repetitions 50] [--drivers dry_run,serial,firmware]
        [--cases broker-kill,..] [--record FILE] [--json] [--write]

All robots of one repetition hang on one broker and one controller (`stopping_fleet`), so that one
kill gives one time of each. Motors are watched from outside the process that is to stop them. Each
row: median and worst time from the event to motors at zero, and the limit plus 50 ms.

| case | what happens | limit |
|---|---|---|
| broker-kill, broker-freeze | SIGKILL, SIGSTOP of mosquitto | link_s |
| controller-kill, controller-freeze | SIGKILL, SIGSTOP of `kofn controller` | link_s |
| cable | the pty of `serial` is closed; its board stops by its own dead-man | deadman_s |
| blocked | a read blocks for ever: the driver's thread, the encoders of the firmware | deadman_s |

`dry_run` has no cable, and the firmware runs on the board itself: there is none to pull. Every time
is kept as a line of --record, with the load of the machine; a run with the same file goes on where
it was ended. --write puts the table into docs/safety.md. 50 repetitions take some 20 minutes.
"""

import argparse
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable  # noqa: TC003
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("hardware", "controller", "firmware")]

from devices import DryRunBench, PtyBench, TextBoard  # noqa: E402
from measuring import machine  # noqa: E402
from plain_broker import MOSQUITTO  # noqa: E402
from process_fleet import LIMITS  # noqa: E402
from stopping_fleet import WatchedFleet, board_blocked_case, wire_case  # noqa: E402

from kofn.controller.core.errors import InputError  # noqa: E402
from kofn.controller.link.clock import MonotonicClock  # noqa: E402
from kofn.hardware.conformance_host import Stage  # noqa: E402
from kofn.hardware.driver import Observation  # noqa: E402
from kofn.hardware.drivers.dry_run import DryRunDriver  # noqa: E402
from kofn.hardware.drivers.serial_text import SerialTextDriver  # noqa: E402
from kofn.hardware.firmware_bench import find_micropython  # noqa: E402

MARGIN_S = 0.05
KINDS = ("dry_run", "serial", "firmware")
WIRE_CASES = ("broker-kill", "broker-freeze", "controller-kill", "controller-freeze")
CASES = (*WIRE_CASES, "cable", "blocked")
PAGE = ROOT / "docs" / "safety.md"
BEGIN, END = "<!-- stopping times: begin -->", "<!-- stopping times: end -->"

Key = tuple[str, str]
"""Driver and case."""


class Record:
    """Times so far, in memory and as lines of a file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            lines = path.read_text().splitlines()
            self.rows = [json.loads(line) for line in lines if line.endswith("}")]

    def add(self, driver: str, case: str, took_s: float) -> None:
        """Keep one time, s."""
        row = {"driver": driver, "case": case, "took_s": took_s, "load": os.getloadavg()[0]}
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def times(self, key: Key) -> list[float]:
        """Return the times of one row of the table, s."""
        return [row["took_s"] for row in self.rows if (row["driver"], row["case"]) == key]

    def missing(self, keys: list[Key], repetitions: int) -> list[Key]:
        """Return the rows that are not full."""
        return [key for key in keys if len(self.times(key)) < repetitions]


def cable_case(folder: Path) -> float:
    """Pull a serial cable; the board lives on and stops by its own dead-man."""
    bench: Any = None

    def make() -> Any:
        nonlocal bench
        bench = PtyBench(folder, TextBoard, SerialTextDriver, 0.15)
        return bench

    with Stage(make, folder / "state", LIMITS) as stage:
        stage.arm()
        stage.start_moving()
        time.sleep(0.3)
        board = bench.device
        event_s = time.monotonic()
        board.unplug()
        while time.monotonic() < event_s + 3.0 and not board.wheels.still:
            board.on_time()  # the board's own loop goes on without its cable
            time.sleep(0.001)
        return _after(board.wheels.changes, event_s)


def blocked_case(folder: Path, driver: str) -> float:
    """Block the thread in which the driver reads, for ever."""
    stuck, end = threading.Event(), threading.Event()

    def hang() -> None:
        if stuck.is_set():
            end.wait(30.0)

    class BlockedSerial(SerialTextDriver):
        async def read(self) -> Observation:
            hang()
            return await super().read()

    class BlockedDryRun(DryRunDriver):
        async def read(self) -> Observation:
            hang()
            return await super().read()

    bench: Any = None

    def make() -> Any:
        nonlocal bench
        if driver == "serial":
            bench = PtyBench(folder, TextBoard, BlockedSerial, 0.15)
            bench.device.DEADMAN_S = 60.0  # ours alone is measured, not the board's
        else:
            bench = DryRunBench(BlockedDryRun, MonotonicClock())
        return bench

    with Stage(make, folder / "state", LIMITS) as stage:
        stage.arm()
        stage.start_moving()
        time.sleep(0.3)
        event_s = time.monotonic()
        stuck.set()
        try:
            stage.stops(5.0)
            if driver == "serial":
                return _after(bench.device.wheels.changes, event_s)
            stops = [c.stamp_s for c in bench.driver.commands if c.stamp_s >= event_s]
            still = [c for c in bench.driver.commands if c.stamp_s in stops and c.v == c.w == 0]
            return float(still[0].stamp_s - event_s)
        finally:
            end.set()


def _after(changes: list[tuple[float, float, float]], event_s: float) -> float:
    later = [at for at, left, right in changes if at >= event_s and left == right == 0]
    return later[0] - event_s if later else float("inf")


def measure_in_processes(record: Record, keys: list[Key], repetitions: int) -> None:
    """Fill the rows of the wire, and of boards whose read blocks."""
    kinds = [kind for kind in KINDS if kind == "serial" or any(kind == key[0] for key in keys)]
    with tempfile.TemporaryDirectory(prefix="stop-") as text:
        fleet = WatchedFleet(kinds, Path(text))
        try:
            fleet.start()
            while missing := record.missing(keys, repetitions):
                case = missing[0][1]
                wanted = [key[0] for key in missing if key[1] == case]
                if case == "blocked":
                    took = board_blocked_case(fleet)
                else:
                    took = wire_case(fleet, case, wanted)
                for kind, took_s in took.items():
                    record.add(kind, case, took_s)
        finally:
            fleet.close()


def measure_here(record: Record, key: Key, repetitions: int) -> None:
    """Fill one row of a driver in this process."""
    driver, case = key
    one: Callable[[Path], float] = (
        cable_case if case == "cable" else lambda path: blocked_case(path, driver)
    )
    while record.missing([key], repetitions):
        with tempfile.TemporaryDirectory(prefix="stop-") as text:
            record.add(driver, case, one(Path(text)))


def keys_of(drivers: list[str], cases: list[str]) -> list[Key]:
    """Rows of the table that are asked for."""
    keys = [(driver, case) for case in cases for driver in drivers]
    return [key for key in keys if key[1] != "cable" or key[0] == "serial"]


def limit_s(case: str) -> float:
    """Return the time that a case may take, s."""
    return (LIMITS.link_s if case in WIRE_CASES else LIMITS.deadman_s) + MARGIN_S


def summary(record: Record, keys: list[Key]) -> list[dict[str, Any]]:
    """Rows of the table."""
    rows = []
    for driver, case in sorted(keys, key=lambda key: (KINDS.index(key[0]), CASES.index(key[1]))):
        times = record.times((driver, case))
        if times:
            within = sum(took_s <= limit_s(case) for took_s in times)
            row = {"driver": driver, "case": case, "n": len(times), "within": within}
            row |= {"median_s": statistics.median(times), "worst_s": max(times)}
            rows.append({**row, "limit_s": limit_s(case)})
    return rows


def table(rows: list[dict[str, Any]], loads: list[float]) -> list[str]:
    """Lines of the page."""
    lines = [
        "| robot | case | n | median s | worst s | limit + 50 ms | within |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['driver']} | {row['case']} | {row['n']} | {row['median_s']:.3f} | "
        f"{row['worst_s']:.3f} | {row['limit_s']:.2f} | {row['within']} of {row['n']} |"
        for row in rows
    ]
    load = (
        f"{machine()}. Load average while measuring: {min(loads):.1f} to {max(loads):.1f}, "
        f"median {statistics.median(loads):.1f}, on {os.cpu_count()} cores."
    )
    return [*lines, "", load]


def write_page(lines: list[str]) -> None:
    """Put the table between the marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise SystemExit(f"{PAGE} has no marks {BEGIN} and {END}")
    middle = "\n".join([BEGIN, "", *lines, "", END])
    PAGE.write_text(before + middle + after, encoding="utf-8")


def chosen(name: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Read a list of names."""
    names = text.split(",")
    for value in names:
        if value not in known:
            raise SystemExit(f"{name} {value!r} is none of {', '.join(known)}")
    return names


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--drivers", default=",".join(KINDS))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--record", type=Path, help="JSON lines; a run goes on from them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args()
    drivers = chosen("driver", options.drivers, KINDS)
    cases = chosen("case", options.cases, CASES)
    if MOSQUITTO is None:
        raise SystemExit("mosquitto is not installed: nothing else can be frozen as a broker")
    if "firmware" in drivers:
        try:
            find_micropython()
        except InputError as error:
            print(f"without firmware: {error}", file=sys.stderr)
            drivers.remove("firmware")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # end everything that was started
    logging.disable()  # each repetition is a fault that a log would tell
    record, keys = Record(options.record), keys_of(drivers, cases)
    outside = [key for key in keys if key[1] in WIRE_CASES or key == ("firmware", "blocked")]
    inside = [key for key in keys if key not in outside]
    if record.missing(inside, options.repetitions):
        with ThreadPoolExecutor(len(inside)) as pool:
            list(pool.map(lambda key: measure_here(record, key, options.repetitions), inside))
    if record.missing(outside, options.repetitions):
        measure_in_processes(record, outside, options.repetitions)
    rows = summary(record, keys)
    lines = table(rows, [row["load"] for row in record.rows])
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
    else:
        print("\n".join(lines))
    if options.write:
        write_page(lines)


if __name__ == "__main__":
    main()
