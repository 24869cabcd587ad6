# SPDX-License-Identifier: MIT
"""A fleet of real processes whose motors are watched: broker, controller, one robot of each kind.

| robot | its process | its motors are seen |
|---|---|---|
| dry_run, gpio | `kofn robot` (gpio on mock pins) | in its black box |
| serial, create2 | `kofn robot` | by a device at the far end of a pty |
| rosbridge | `kofn robot` | by a rosbridge server without ROS |
| vda5050 | `kofn robot` | by a vehicle on the same broker |
| firmware | MicroPython unix port | by the stub of its pins, which writes every change to a file |

All stamps are of the monotonic clock of this machine; the firmware's are whole milliseconds.
"""

import asyncio
import json
import os
import signal
import subprocess  # noqa: TC003
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paho.mqtt.client as mqtt
from board_bench import TOKEN, Robot
from paho.mqtt.enums import CallbackAPIVersion
from plain_broker import PlainBroker
from small_fleet import ZONES, small_policy

from kofn.controller.core.policy import Policy
from kofn.controller.link.children import end_child, spawn_child
from kofn.hardware.black_box import PATTERN
from kofn.hardware.board_settings import BoardBroker, BoardSettings, token_hash
from kofn.hardware.fakes.rosbridge_server import FakeRosbridge
from kofn.hardware.fakes.serial_devices import FakeCreate2, PtyDevice, TextBoard
from kofn.hardware.fakes.vehicle import FakeVehicle
from kofn.hardware.local_socket import FILE, Ask, Op, ask_agent
from kofn.hardware.operator_token import make_token
from kofn.hardware.safety_task import SafetySettings

LIMITS = SafetySettings(deadman_s=0.5, link_s=2.0)
OPTION_S, PERIOD_S = 3.0, 3.4
"""A robot turns for OPTION_S of each period."""
MOCK_PINS = {"GPIOZERO_PIN_FACTORY": "mock", "GPIOZERO_MOCK_PIN_CLASS": "mockpwmpin"}
PLACES = [(float(np.cos(a)), float(np.sin(a))) for a in np.arange(ZONES) * 2 * np.pi / ZONES]
NODES = [{"id": f"z{i}", "x": x, "y": y} for i, (x, y) in enumerate(PLACES)]

Change = tuple[float, bool]
"""When (monotonic, s) motors began to turn, or stood still."""


class Device(Protocol):
    """What a driver drives."""

    def settings(self) -> dict[str, Any]: ...
    def plug(self) -> None: ...
    def unplug(self) -> None: ...
    def changes(self) -> list[Change]: ...


class PtyRobot:
    """A board at the far end of a pty."""

    def __init__(self, board: PtyDevice) -> None:
        self.board = board
        self.plug, self.unplug = board.plug, board.unplug

    def settings(self) -> dict[str, Any]:
        return {"port": str(self.board.path), "answer_s": 1.0}

    def changes(self) -> list[Change]:
        return [(at, left != 0 or right != 0) for at, left, right in self.board.wheels.changes]


class RosBase:
    """A base behind a rosbridge server, in an event loop of its own."""

    def __init__(self) -> None:
        self._server = FakeRosbridge(deadman_s=LIMITS.deadman_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rosbridge")
        self._thread.start()

    def settings(self) -> dict[str, Any]:
        return {"url": f"ws://127.0.0.1:{self._server.port}"}

    def plug(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.plug(), self._loop).result(20.0)

    def unplug(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.unplug(), self._loop).result(20.0)

    def changes(self) -> list[Change]:
        wheels = self._server.wheels
        return [(at, left != 0 or right != 0) for at, left, right in wheels.changes]

    def end(self) -> None:
        self.unplug()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class VdaVehicle:
    """A vehicle on the broker; unplugged it reports a fatal error."""

    def __init__(self, broker: PlainBroker) -> None:
        self._broker = broker
        self._fake = FakeVehicle(2, place=PLACES[0], speed_mps=0.3)
        self._changes: list[Change] = []
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="vehicle")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._greet
        self._client.on_message = self._take
        self._thread = threading.Thread(target=self._drive, name="vehicle")

    def start(self) -> None:
        self._client.connect("127.0.0.1", self._broker.port)
        self._client.loop_start()
        self._thread.start()

    def settings(self) -> dict[str, Any]:
        vehicle = {"manufacturer": "acme", "serial": "S1"}
        return {"url": self._broker.url, "vehicles": [vehicle], "nodes": NODES}

    def plug(self) -> None:
        with self._lock:
            self._fake.errors, self._fake.news = [], True

    def unplug(self) -> None:
        with self._lock:
            self._fake.errors = [{"errorType": "motor", "errorLevel": "FATAL"}]
            self._fake.driving, self._fake.news = False, True

    def changes(self) -> list[Change]:
        return self._changes

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _greet(self, client: mqtt.Client, *_: object) -> None:
        for kind in ("order", "instantActions"):
            client.subscribe(self._fake.topic(kind))
        client.publish(self._fake.topic("connection"), self._fake.connection("ONLINE"), 1, True)
        self._fake.news = True

    def _take(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self._fake.take(message.topic.rsplit("/", 1)[1], bytes(message.payload))
            self._note()

    def _drive(self) -> None:
        while not self._end.wait(0.05):
            with self._lock:
                self._fake.roll(0.05)
                self._note()
                if self._fake.news:
                    self._client.publish(self._fake.topic("state"), self._fake.state())

    def _note(self) -> None:
        if self._fake.driving != (bool(self._changes) and self._changes[-1][1]):
            self._changes.append((time.monotonic(), self._fake.driving))


class Unseen:
    """Pins and arithmetic: nothing but the black box says what they do."""

    def __init__(self, state: Path, settings: dict[str, Any]) -> None:
        self._state, self._settings = state, settings
        self._read: dict[Path, int] = {}
        self._changes: list[Change] = []

    def settings(self) -> dict[str, Any]:
        return self._settings

    def plug(self) -> None: ...

    def unplug(self) -> None: ...

    def changes(self) -> list[Change]:
        for path in sorted(self._state.glob(PATTERN)):
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


class Watched:
    """A robot of the fleet."""

    started_s = 0.0

    def start(self) -> None:
        """Start its process."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill its process as a power cut does."""
        raise NotImplementedError

    def mode(self) -> str:
        """State of its safety machine; empty while it cannot be asked."""
        raise NotImplementedError

    def ask(self, op: Op) -> bool:
        """Ask as its operator does, on its own machine; False where it is refused."""
        raise NotImplementedError

    def changes(self) -> list[Change]:
        """Return all changes of its motors since the first start."""
        raise NotImplementedError

    def unplug(self) -> None:
        """Break what it drives."""

    def plug(self) -> None:
        """Mend what it drives."""

    def close(self) -> None:
        """End its process, and the device."""
        raise NotImplementedError

    def try_to_arm(self) -> bool:
        """Clear a fault and arm; True where it is armed."""
        mode = self.mode()
        if mode == "FAULT":
            self.ask("clear")
        if mode in ("FAULT", "DISARMED"):
            self.ask("arm")
            mode = self.mode()
        return mode == "ARMED"

    @property
    def moving(self) -> bool:
        """Whether its motors turn, as far as is known since its last start."""
        changes = [moves for at, moves in self.changes() if at >= self.started_s]
        return bool(changes) and changes[-1]


class Agent(Watched):
    """`kofn robot` with a driver."""

    def __init__(self, fleet: "Fleet", kind: str) -> None:
        self._fleet, self._kind = fleet, kind
        self._state = fleet.folder / kind
        self._host = kind.replace("_", "-")
        self._robot = "acme.S1" if kind == "vda5050" else f"{self._host}.r0"
        self._token = make_token(self._state)
        self._process: Any = None
        self.device = self._device()
        if not isinstance(self.device, VdaVehicle):
            self.device.plug()
        else:
            self.device.start()

    def _device(self) -> Device:
        port = self._fleet.folder / f"{self._kind}.port"
        if self._kind in ("serial", "create2"):
            return PtyRobot((TextBoard if self._kind == "serial" else FakeCreate2)(port))
        if self._kind == "rosbridge":
            return RosBase()
        if self._kind == "vda5050":
            return VdaVehicle(self._fleet.broker)
        pins = {"left": [5, 6], "right": [13, 19]}
        return Unseen(self._state, pins if self._kind == "gpio" else {})

    def start(self) -> None:
        self.started_s = time.monotonic()
        times = json.dumps({"deadman_s": LIMITS.deadman_s, "link_s": LIMITS.link_s})
        self._process = self._fleet.spawn(
            "robot",
            *("--host", self._host, "--driver", self._kind),
            *("--settings", json.dumps(self.device.settings())),
            *("--state", str(self._state), "--safety", times),
            *("--arena", json.dumps({"zones": ZONES}), "--period", str(OPTION_S)),
            *self._fleet.options.get(self._kind, []),
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def mode(self) -> str:
        row = self._row(Ask(op="status"))
        return "" if row is None else str(row["mode"])

    def ask(self, op: Op) -> bool:
        try:
            ask = Ask(op=op, robot=self._robot, token=self._token, force=True)
            return ask_agent(self._state / FILE, ask).ok
        except Exception:  # noqa: BLE001  the agent is not there yet
            return False

    def changes(self) -> list[Change]:
        return self.device.changes()

    def unplug(self) -> None:
        self.device.unplug()

    def plug(self) -> None:
        self.device.plug()

    def close(self) -> None:
        if self._process is not None:
            end_child(self._process)
        if isinstance(self.device, RosBase | VdaVehicle):
            self.device.end()
        else:
            self.device.unplug()

    def _row(self, ask: Ask) -> dict[str, Any] | None:
        try:
            return ask_agent(self._state / FILE, ask).robots[0]
        except Exception:  # noqa: BLE001  the agent is not there yet
            return None


class Board(Watched):
    """The firmware; its wheels are the stub's."""

    def __init__(self, fleet: "Fleet") -> None:
        self._folder = fleet.folder / "board"
        self._settings = BoardSettings(
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
        self.robot: Robot

    def start(self) -> None:
        self.started_s = time.monotonic()
        self.robot = Robot(self._folder, self._settings, arm=False)

    def kill(self) -> None:
        self.robot.kill()

    def mode(self) -> str:
        status = self.robot.say("status")
        return status.partition("state=")[2].partition(" ")[0]

    def ask(self, op: Op) -> bool:
        if op in {"clear", "disarm"}:
            self.robot.say(op)
            return True
        return self.robot.say(f"{op} {TOKEN}") == f"{op} ok"

    def changes(self) -> list[Change]:
        # Stamps are cut to milliseconds: no stop may look as if it came before its cause.
        return [((ms + 1) / 1000, turning == 1) for ms, turning in self.robot.motion()]

    def blocks(self) -> list[float]:
        """When reads of its encoders began to hang."""
        return [ms / 1000 for ms in self.robot.blocked()]

    def close(self) -> None:
        if hasattr(self, "robot"):
            self.robot.press()
            self.robot.kill()


class Fleet:
    """Broker, controller and robots as processes; the robots go on from case to case."""

    def __init__(
        self, kinds: list[str], folder: Path, options: dict[str, list[str]] | None = None
    ) -> None:
        self.kinds, self.folder, self.options = kinds, folder, options or {}
        self.broker = PlainBroker(folder)
        game = small_policy()
        onwards = np.zeros((ZONES, ZONES, 3))
        onwards[:, :, 1] = 1.0  # robots never rest
        policy = Policy(game.game, game.grid, game.action, onwards, memory=game.memory)
        policy.save(folder / "p.npz")
        self.robots: dict[str, Watched] = {}
        self.controller: Any = None
        self._log = (folder / "log").open("wb")

    def start(self) -> None:
        """Start everything."""
        self.broker.start()
        for kind in self.kinds:
            self.robots[kind] = Board(self) if kind == "firmware" else Agent(self, kind)
        for robot in self.robots.values():
            robot.start()
        self.start_controller()

    def start_controller(self) -> None:
        """Start the next controller; it waits for all robots."""
        self.controller = self.spawn(
            "controller",
            *("--policy", str(self.folder / "p.npz"), "--k", "1"),
            *("--robots", str(len(self.kinds)), "--steps", "100000"),
            *("--period", str(PERIOD_S), "--beat", "0.4", "--wait", "120"),
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

    def log(self) -> str:
        """Return the end of what its processes said."""
        return (self.folder / "log").read_text()[-3000:]

    def spawn(self, verb: str, *options: str) -> "subprocess.Popen[bytes]":
        """Start a verb of kofn at this broker."""
        command = [sys.executable, "-m", "kofn.launch", verb, "--broker", self.broker.url]
        env = {**os.environ, **MOCK_PINS}
        return spawn_child([*command, *options], stdout=self._log, stderr=self._log, env=env)
