# SPDX-License-Identifier: MIT
"""How long motors turn after something died: real processes, a real broker, kill -9 and SIGSTOP.

    python benchmarks/bench_stopping.py [--repetitions 50] [--drivers dry_run,serial] [--cases ..]

Motors are watched from outside: for `serial` at the far end of a pty, by a board that stamps every
change; for `dry_run` in the robot's black box. Both use the monotonic clock of this machine. Each
row: median and worst time from the event to motors at zero, and the limit plus 50 ms.

| case | what happens | limit |
|---|---|---|
| broker-kill, broker-freeze | SIGKILL, SIGSTOP of mosquitto | link_s |
| controller-kill, controller-freeze | SIGKILL, SIGSTOP of `kofn controller` | link_s |
| cable | the pty is closed; the board stops by its own dead-man | deadman_s |
| blocked | a driver whose read blocks its thread for ever (in this process) | deadman_s |
"""

import argparse
import json
import os
import signal
import statistics
import subprocess  # noqa: TC003
import sys
import tempfile
import threading
import time
from collections.abc import Callable  # noqa: TC003
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("hardware", "controller")]

import numpy as np  # noqa: E402
from devices import DryRunBench, PtyBench, TextBoard  # noqa: E402
from measuring import machine  # noqa: E402
from plain_broker import PlainBroker  # noqa: E402
from small_fleet import small_policy  # noqa: E402

from kofn.controller.core.policy import Policy  # noqa: E402
from kofn.controller.link.children import end_child, spawn_child  # noqa: E402
from kofn.controller.link.clock import MonotonicClock  # noqa: E402
from kofn.hardware.black_box import read_black_box  # noqa: E402
from kofn.hardware.conformance_host import Stage  # noqa: E402
from kofn.hardware.driver import Observation  # noqa: E402
from kofn.hardware.drivers.dry_run import DryRunDriver  # noqa: E402
from kofn.hardware.drivers.serial_text import SerialTextDriver  # noqa: E402
from kofn.hardware.local_socket import FILE, Ask, ask_agent  # noqa: E402
from kofn.hardware.operator_token import make_token  # noqa: E402
from kofn.hardware.safety_task import SafetySettings  # noqa: E402

LIMITS = SafetySettings(deadman_s=0.5, link_s=2.0)
MARGIN_S = 0.05
PATIENCE_S = 40.0
WIRE_CASES = ("broker-kill", "broker-freeze", "controller-kill", "controller-freeze")
CASES = (*WIRE_CASES, "cable", "blocked")
ZONES = 4


class Fleet:
    """Broker, controller and one robot as processes; the robot goes on from case to case."""

    def __init__(self, driver: str, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.state = folder / "state"
        self.broker = PlainBroker(folder)
        self.board = TextBoard(folder / "port")
        game = small_policy()
        onwards = np.zeros((ZONES, ZONES, 3))
        onwards[:, :, 1] = 1.0  # robots never rest
        Policy(game.game, game.grid, game.action, onwards, memory=game.memory).save(
            folder / "p.npz"
        )
        self.token = make_token(self.state)
        self.robot: Any = None
        self.controller: Any = None
        self._log = (folder / "log").open("wb")

    def start(self) -> None:
        self.broker.start()
        if self.driver == "serial":
            self.board.plug()
        settings = {"port": str(self.board.path)} if self.driver == "serial" else {}
        self.robot = self._spawn(
            "robot",
            *("--host", "r", "--driver", self.driver, "--settings", json.dumps(settings)),
            *("--state", str(self.state), "--safety", '{"deadman_s": 0.5, "link_s": 2.0}'),
            *("--arena", json.dumps({"zones": ZONES}), "--period", "6"),
        )
        self.start_controller()

    def start_controller(self) -> None:
        self.controller = self._spawn(
            "controller",
            *("--policy", str(self.folder / "p.npz"), "--k", "1", "--robots", "1"),
            *("--steps", "100000", "--period", "6", "--beat", "0.4", "--wait", "60"),
            *("--out", str(self.folder / "runs")),
        )

    def close(self) -> None:
        for process in (self.controller, self.robot):
            if process is not None:
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGCONT)
                end_child(process)
        self.board.unplug()
        self.broker.end()
        self._log.close()

    def arm(self) -> None:
        """Bring the robot to ARMED as its operator does, whatever happened before."""
        until_s = time.monotonic() + PATIENCE_S
        socket = self.state / FILE
        while time.monotonic() < until_s:
            try:
                for op in ("clear", "arm"):
                    answer = ask_agent(
                        socket, Ask(op=op, robot="r.r0", token=self.token, force=True)
                    )
                if answer.robots[0]["mode"] == "ARMED":
                    return
            except Exception:  # noqa: BLE001  the agent is not there yet
                time.sleep(0.1)
            time.sleep(0.1)
        raise SystemExit(f"the robot does not arm: {(self.folder / 'log').read_text()[-2000:]}")

    def changes(self) -> list[tuple[float, bool]]:
        """When motors began to turn and stood still, monotonic seconds."""
        if self.driver == "serial":
            return [(at, left != 0 or right != 0) for at, left, right in self.board.wheels.changes]
        rows = [row for row in read_black_box(self.state) if row["kind"] == "drive"]
        return [(row["s"], any(abs(speed) > 1e-6 for speed in row["applied"])) for row in rows]

    def wait_until_moving(self) -> None:
        """Wait for motors that began to turn just now: the natural end of the way is far."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            changes = self.changes()
            if changes and changes[-1][1]:
                turning = changes[-1][0]
                for at, moves in reversed(changes):
                    if not moves:
                        break
                    turning = at
                if time.monotonic() - turning < 1.5:
                    return
            time.sleep(0.02)
        raise SystemExit(f"the robot does not move: {(self.folder / 'log').read_text()[-2000:]}")

    def stop_after(self, event_s: float) -> float:
        """Seconds from the event until motors stood still."""
        until_s = time.monotonic() + 8.0
        while time.monotonic() < until_s:
            later = [at for at, moves in self.changes() if at >= event_s and not moves]
            if later:
                return later[0] - event_s
            time.sleep(0.05)
        return float("inf")

    def _spawn(self, verb: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "kofn.launch", verb, "--broker", self.broker.url]
        return spawn_child([*command, *options], stdout=self._log, stderr=self._log)


def wire_case(fleet: Fleet, case: str) -> float:
    """Kill or freeze one process, see the robot stop, and bring everything back."""
    fleet.arm()
    fleet.wait_until_moving()
    target = fleet.broker.process if case.startswith("broker") else fleet.controller
    event_s = time.monotonic()
    os.kill(target.pid, signal.SIGKILL if case.endswith("kill") else signal.SIGSTOP)
    took_s = fleet.stop_after(event_s)
    if case.endswith("freeze"):
        os.kill(target.pid, signal.SIGCONT)
    else:
        target.wait()
        if case.startswith("broker"):
            fleet.broker.start()
        else:
            fleet.start_controller()
    return took_s


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


def measure(driver: str, case: str, repetitions: int) -> list[float]:
    """Times of one row, s."""
    with tempfile.TemporaryDirectory(prefix="stop-") as text:
        folder = Path(text)
        if case in WIRE_CASES:
            fleet = Fleet(driver, folder)
            try:
                fleet.start()
                return [wire_case(fleet, case) for _ in range(repetitions)]
            finally:
                fleet.close()
        one: Callable[[Path], float] = (
            cable_case if case == "cable" else lambda path: blocked_case(path, driver)
        )
        times = []
        for i in range(repetitions):
            (folder / str(i)).mkdir()
            times.append(one(folder / str(i)))
        return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--drivers", default="dry_run,serial")
    parser.add_argument("--cases", default=",".join(CASES))
    chosen = parser.parse_args()
    print(machine())
    print("| driver | case | n | median s | worst s | limit + 50 ms | within |")
    print("|---|---|---|---|---|---|---|")
    for driver in chosen.drivers.split(","):
        for case in chosen.cases.split(","):
            if case == "cable" and driver != "serial":
                continue
            times = measure(driver, case, chosen.repetitions)
            limit_s = (LIMITS.link_s if case in WIRE_CASES else LIMITS.deadman_s) + MARGIN_S
            within = sum(took <= limit_s for took in times)
            print(
                f"| {driver} | {case} | {len(times)} | {statistics.median(times):.3f} | "
                f"{max(times):.3f} | {limit_s:.2f} | {within} of {len(times)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
