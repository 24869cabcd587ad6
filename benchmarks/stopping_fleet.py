# SPDX-License-Identifier: MIT
"""A fleet of real processes whose motors are watched: broker, controller, one robot of each kind.

| robot | its process | its motors are seen |
|---|---|---|
| dry_run | `kofn robot` | in its black box |
| serial | `kofn robot` | by a board at the far end of a pty, which stamps every change |
| firmware | MicroPython unix port | by the stub of its pins, which writes every change to a file |

All stamps are of the monotonic clock of this machine; the firmware's are whole milliseconds.
"""

import json
import os
import signal
import subprocess  # noqa: TC003
import sys
import time
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / name) for name in ("hardware", "controller", "firmware")]

import numpy as np  # noqa: E402
from board_bench import TOKEN, Robot  # noqa: E402
from devices import TextBoard  # noqa: E402
from plain_broker import PlainBroker  # noqa: E402
from small_fleet import ZONES, small_policy  # noqa: E402

from kofn.controller.core.policy import Policy  # noqa: E402
from kofn.controller.link.children import end_child, spawn_child  # noqa: E402
from kofn.hardware.black_box import PATTERN  # noqa: E402
from kofn.hardware.board_settings import BoardBroker, BoardSettings, token_hash  # noqa: E402
from kofn.hardware.local_socket import FILE, Ask, ask_agent  # noqa: E402
from kofn.hardware.operator_token import make_token  # noqa: E402
from kofn.hardware.safety_task import SafetySettings  # noqa: E402

LIMITS = SafetySettings(deadman_s=0.5, link_s=2.0)
PATIENCE_S = 300.0
OPTION_S, PERIOD_S, FRESH_S = 3.0, 3.4, 0.6
"""A robot turns for OPTION_S of each period; what happens within FRESH_S is not its natural end."""

Change = tuple[float, bool]
"""When (monotonic, s) motors began to turn, or stood still."""


class Watched(Protocol):
    """A robot of the fleet."""

    def try_to_arm(self) -> bool:
        """Clear a fault and arm, as its operator does; True where it is armed."""
        ...

    def changes(self) -> list[Change]:
        """Return all changes so far."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class Agent:
    """`kofn robot` with a driver."""

    def __init__(self, fleet: "Fleet", driver: str) -> None:
        self.driver, self.state = driver, fleet.folder / driver
        self.board = TextBoard(fleet.folder / "port")
        settings = {}
        if driver == "serial":
            self.board.plug()
            settings = {"port": str(self.board.path)}
        self._read: dict[Path, int] = {}
        self._changes: list[Change] = []
        self.token = make_token(self.state)
        self.name = driver.replace("_", "-")
        times = json.dumps({"deadman_s": LIMITS.deadman_s, "link_s": LIMITS.link_s})
        self.process = fleet.spawn(
            "robot",
            *("--host", self.name, "--driver", driver, "--settings", json.dumps(settings)),
            *("--state", str(self.state), "--safety", times),
            *("--arena", json.dumps({"zones": ZONES}), "--period", str(OPTION_S)),
        )

    def try_to_arm(self) -> bool:
        try:
            for op in ("clear", "arm"):
                ask = Ask(op=op, robot=f"{self.name}.r0", token=self.token, force=True)
                answer = ask_agent(self.state / FILE, ask)
        except Exception:  # noqa: BLE001  the agent is not there yet
            return False
        return bool(answer.robots[0]["mode"] == "ARMED")

    def changes(self) -> list[Change]:
        if self.driver == "serial":
            return [(at, left != 0 or right != 0) for at, left, right in self.board.wheels.changes]
        for path in sorted(self.state.glob(PATTERN)):
            with path.open("rb") as file:  # from where the last look ended
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    row = json.loads(line)
                    if row["kind"] == "drive":
                        self._changes.append((row["s"], any(abs(v) > 1e-6 for v in row["applied"])))
        return self._changes

    def close(self) -> None:
        end_child(self.process)
        self.board.unplug()


class Board:
    """The firmware; its wheels are the stub's."""

    def __init__(self, fleet: "Fleet") -> None:
        settings = BoardSettings(
            fleet="fleet",
            host="board",
            robot="board",
            broker=BoardBroker(host="127.0.0.1", port=fleet.broker.port),
            token_sha256=token_hash(TOKEN),
            arena={"zones": ZONES},
            deadman_ms=round(1000 * LIMITS.deadman_s),
            link_ms=round(1000 * LIMITS.link_s),
            option_ms=round(1000 * OPTION_S),
        )
        self.robot = Robot(fleet.folder / "board", settings, arm=False)

    def try_to_arm(self) -> bool:
        status = self.robot.say("status")
        if "state=FAULT" in status:
            self.robot.say("clear")
        if "state=ARMED" in status:
            return True
        return self.robot.say(f"arm {TOKEN}") == "arm ok"

    def changes(self) -> list[Change]:
        # Stamps are cut to milliseconds: no stop may look as if it came before its cause.
        return [((ms + 1) / 1000, turning == 1) for ms, turning in self.robot.motion()]

    def blocks(self) -> list[float]:
        """When the read of its encoders began to hang."""
        return [ms / 1000 for ms in self.robot.blocked()]

    def close(self) -> None:
        self.robot.press()
        self.robot.kill()


class Fleet:
    """Broker, controller and robots as processes; the robots go on from case to case."""

    def __init__(self, kinds: list[str], folder: Path) -> None:
        self.folder = folder
        self.broker = PlainBroker(folder)
        game = small_policy()
        onwards = np.zeros((ZONES, ZONES, 3))
        onwards[:, :, 1] = 1.0  # robots never rest
        policy = Policy(game.game, game.grid, game.action, onwards, memory=game.memory)
        policy.save(folder / "p.npz")
        self._kinds = kinds
        self.robots: dict[str, Watched] = {}
        self.controller: Any = None
        self._log = (folder / "log").open("wb")

    def start(self) -> None:
        """Start everything."""
        self.broker.start()
        for kind in self._kinds:
            self.robots[kind] = Board(self) if kind == "firmware" else Agent(self, kind)
        self.start_controller()

    def start_controller(self) -> None:
        """Start the next controller; it waits for all robots."""
        robots = len(self._kinds)
        self.controller = self.spawn(
            "controller",
            *("--policy", str(self.folder / "p.npz"), "--k", "1", "--robots", str(robots)),
            *("--steps", "100000", "--period", str(PERIOD_S), "--beat", "0.4", "--wait", "60"),
            *("--out", str(self.folder / "runs")),
        )

    def close(self) -> None:
        """End everything."""
        for process in (self.controller, self.broker.process):
            if process is not None and process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
        if self.controller is not None:
            end_child(self.controller)
        for robot in self.robots.values():
            robot.close()
        self.broker.end()
        self._log.close()

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
            ages = [_turning_for_s(self.robots[kind].changes()) for kind in seen]
            if armed == asked and all(0.1 < age < FRESH_S for age in ages):
                return
            time.sleep(0.02)
        raise SystemExit(f"a robot does not move: {(self.folder / 'log').read_text()[-2000:]}")

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

    def spawn(self, verb: str, *options: str) -> "subprocess.Popen[bytes]":
        """Start a verb of kofn at this broker."""
        command = [sys.executable, "-m", "kofn.launch", verb, "--broker", self.broker.url]
        return spawn_child([*command, *options], stdout=self._log, stderr=self._log)


def wire_case(fleet: Fleet, case: str, kinds: list[str]) -> dict[str, float]:
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


def board_blocked_case(fleet: Fleet) -> dict[str, float]:
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
