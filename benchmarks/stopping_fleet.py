# SPDX-License-Identifier: MIT
"""Cases of the stopping benchmark on a fleet of real processes (`tests/hardware/process_fleet`)."""

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("hardware", "controller", "firmware")]

from process_fleet import PERIOD_S, Board, Change, Fleet  # noqa: E402

PATIENCE_S = 300.0
FRESH_S = 0.6
"""What happens so soon after motors began to turn is not the natural end of their option."""


class WatchedFleet(Fleet):
    """A fleet whose stops are timed."""

    def wait_until_moving(self, kinds: list[str]) -> None:
        """Arm robots and wait until they have just begun to turn.

        A black box reaches the disk once a second, so the moment is taken from those that are seen
        at once; `turned_at` looks again afterwards.
        """
        until_s = time.monotonic() + PATIENCE_S
        seen = [kind for kind in kinds if kind != "dry_run"] or ["serial"]
        asked = {*kinds, *seen}
        armed: set[str] = set()
        look_again_s = 0.0
        while time.monotonic() < until_s:
            if time.monotonic() >= look_again_s:
                armed.clear()
                look_again_s = time.monotonic() + 1.0
            for kind in asked - armed:
                if self.robots[kind].try_to_arm():
                    armed.add(kind)
            ages = {kind: _turning_for_s(self.robots[kind].changes()) for kind in seen}
            if armed == asked and all(0.1 < age < FRESH_S for age in ages.values()):
                return
            for kind, age in ages.items():  # from option to option without a stop: begin again
                if PERIOD_S < age < float("inf") and self.robots[kind].ask("disarm"):
                    armed.discard(kind)
            time.sleep(0.02)
        raise SystemExit(f"a robot does not move: {self.log()}")

    def stops_after(self, event_s: float, kinds: list[str]) -> dict[str, float]:
        """Seconds from the event until the motors stood still, of each robot that turned then."""
        took: dict[str, float] = {}
        until_s = event_s + 8.0
        while time.monotonic() < until_s and len(took) < len(kinds):
            time.sleep(0.05)
            for kind in set(kinds) - set(took):
                changes = self.robots[kind].changes()
                still = [at for at, moves in changes if at >= event_s and not moves]
                if still:
                    took[kind] = still[0] - event_s
        turned = [kind for kind in kinds if _turned_at(self.robots[kind].changes(), event_s)]
        return {kind: took.get(kind, float("inf")) for kind in turned}


def wire_case(fleet: WatchedFleet, case: str, kinds: list[str]) -> dict[str, float]:
    """Kill or freeze one process, see the robots stop, and bring everything back."""
    fleet.wait_until_moving(kinds)
    target = fleet.broker.process if case.startswith("broker") else fleet.controller
    event_s = time.monotonic()
    os.kill(target.pid, signal.SIGKILL if case.endswith("kill") else signal.SIGSTOP)
    took = fleet.stops_after(event_s, kinds)
    if case.endswith("freeze"):
        os.kill(target.pid, signal.SIGCONT)
    else:
        target.wait()
        if case.startswith("broker"):
            fleet.broker.start()
        else:
            fleet.start_controller()
    return took


def board_blocked_case(fleet: WatchedFleet) -> dict[str, float]:
    """Let the read of a board's encoders hang; only its second dead-man is left."""
    board = fleet.robots["firmware"]
    assert isinstance(board, Board)
    fleet.wait_until_moving(["firmware"])
    before = len(board.blocks())
    board.robot.press(block=True)
    until_s = time.monotonic() + PATIENCE_S
    while len(board.blocks()) == before and time.monotonic() < until_s:
        time.sleep(0.01)
    took = fleet.stops_after(board.blocks()[-1], ["firmware"])
    board.robot.press()
    return took


def _turned_at(changes: list[Change], event_s: float) -> bool:
    """Whether motors turned at an instant, and had begun to do so just before."""
    turning_for_s = _turning_for_s([change for change in changes if change[0] < event_s], event_s)
    return turning_for_s < FRESH_S + 0.1


def _turning_for_s(changes: list[Change], now_s: float | None = None) -> float:
    """How long motors turn without a stop by now, s; infinite when they do not."""
    turning = None
    for at, moves in reversed(changes):
        if not moves:
            break
        turning = at
    if turning is None:
        return float("inf")
    return (time.monotonic() if now_s is None else now_s) - turning
