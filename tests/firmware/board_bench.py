# SPDX-License-Identifier: MIT
"""A bench robot in the MicroPython unix port on a real broker, and a controller's voice."""

import json
import queue
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from kofn.controller.link.messages import Ctl, Halt, Message, Poll, Step, encode
from kofn.controller.link.policies import pack_policy
from kofn.hardware.board_settings import BoardBroker, BoardSettings, token_hash
from kofn.hardware.firmware_bench import prepare_bench, press

PATIENCE_S = 20.0
FLEET = "bench"
TOKEN = "operator-token"  # noqa: S105
ALWAYS_NEXT = np.eye(3)[np.ones((5, 5), dtype=int)]
DIGEST, POLICY = pack_policy(ALWAYS_NEXT)


def settings_of(robot: str, broker: BoardBroker, **more: Any) -> BoardSettings:
    # Short options keep the tests short: a robot crosses a sector in some 4 s at 0.6 m/s.
    return BoardSettings(
        fleet=FLEET, host=robot, robot=robot, broker=broker, token_sha256=token_hash(TOKEN),
        # Generous timers: a loaded machine may keep a process waiting for half a second.
        **{
            "option_ms": 5000, "speed": 2.0, "option": {"speed_mps": 0.6},
            "deadman_ms": 2000, "link_ms": 6000, "pose_max_age_ms": 6000, **more,
        },
    )  # fmt: skip


class Robot:
    """One process of the unix port."""

    def __init__(self, folder: Path, settings: BoardSettings, *, arm: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        log, trace = str(folder / "box.jsonl"), str(folder / "trace")
        self.settings = msgspec.structs.replace(settings, log=log, trace=trace)
        command = prepare_bench(folder, self.settings, arm=arm)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def press(self, **levels: Any) -> None:
        press(self.folder, self.settings, **levels)

    def say(self, line: str) -> str:
        """Type a line at the board's console; return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().strip()

    def until(self, what: str) -> str:
        """Ask for the status until it holds `what`."""
        return str(
            wait_for(lambda: status if what in (status := self.say("status")) else None, what)
        )

    def rows(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "box.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [row for row in rows if row["row"] == kind]

    def motion(self) -> list[tuple[int, int]]:
        """(ms of the monotonic clock, turning) at each change."""
        return [(ms, int(what)) for ms, what in self._trace() if what != "blocked"]

    def blocked(self) -> list[int]:
        """Ms of the monotonic clock at which reads began to hang."""
        return [ms for ms, what in self._trace() if what == "blocked"]

    def _trace(self) -> list[tuple[int, str]]:
        path = self.folder / "trace"
        text = path.read_text() if path.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [(int(ms), what) for ms, what in (line.split() for line in lines)]

    @property
    def turning(self) -> bool:
        motion = self.motion()
        return bool(motion) and motion[-1][1] == 1

    @property
    def memory_mb(self) -> float:
        """Private memory of the process (what one more robot costs), MB."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
        private = ("Private_Clean", "Private_Dirty")
        return sum(int(fields[name].split()[0]) for name in private) / 1000

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Voice:
    """Speaks as the controller and hears everything that hosts say."""

    def __init__(self, port: int, user: str, password: str, tls: Any = None) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=user)
        self.client.username_pw_set(user, password)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.on_message = lambda _c, _u, m: self.heard.put((m.topic, bytes(m.payload)))
        self.client.connect("localhost" if tls else "127.0.0.1", port)
        for kind in ("rep", "conn", "roster", "ack", "evt"):
            self.client.subscribe(f"kofn1/{FLEET}/{kind}/+", 1)
        self.client.loop_start()
        self.client.publish(f"kofn1/{FLEET}/pol/{DIGEST}", POLICY, 1, retain=True)

    def send(self, kind: str, message: Message, *, retain: bool = False, qos: int = 0) -> None:
        info = self.client.publish(f"kofn1/{FLEET}/{kind}", encode(message), qos, retain=retain)
        info.wait_for_publish(PATIENCE_S)

    def ctl(self, ep: int, period_ms: int = 5000, beat: int = 0) -> None:
        ctl = Ctl(
            ep=ep, b="c", c=1, st="ONLINE", pace="realtime", period=period_ms, hold=3 * period_ms,
            beat=beat,
        )  # fmt: skip
        self.send("ctl", ctl, retain=True, qos=1)

    def step(self, ep: int, t: int, *, ttl: int = 5000, up: int = 0, retain: bool = False) -> None:
        step = Step(
            ep=ep, t=t, up=up, g=1, u=0, ttl=ttl, pol="sha256:" + DIGEST, k=1, m=(1, 0, 0, 0)
        )
        self.send("step", step, retain=retain)

    def poll(self, robot: str, ep: int, t: int, *, q: str = "0123456789abcdef") -> None:
        self.send(f"poll/{robot}", Poll(ep=ep, t=t, up=0, q=q, w=1, ttl=4000, ids=[robot]))

    def halt(self, ep: int) -> None:
        self.send("halt", Halt(ep=ep, by="operator"), retain=True, qos=1)

    def hear(self, kind: str, host: str, field: str = "", value: object = None) -> dict[str, Any]:
        """Wait for the next message of a kind from a host (with a field of that value)."""
        topic, deadline = f"kofn1/{FLEET}/{kind}/{host}", time.monotonic() + PATIENCE_S
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"no {kind} of {host} with {field} = {value}"
            try:
                seen, payload = self.heard.get(timeout=left)
            except queue.Empty:
                continue
            if seen == topic and payload:
                message: dict[str, Any] = json.loads(payload)
                if not field or message[field] == value:
                    return message

    def ask(self, robot: str, ep: int, t: int) -> list[Any]:
        """Poll a robot and return its row."""
        self.poll(robot, ep, t)
        row: list[Any] = self.hear("rep", robot, "t", t)["r"][0]
        return row

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll `condition` until it is true; real processes give no other sign."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return value
