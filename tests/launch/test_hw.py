# SPDX-License-Identifier: MIT
"""`kofn hw` on real processes and ptys."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kofn_process import Kofn
from plain_broker import PlainBroker, plain_broker

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Pose, PoseRow, Roster, encode
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Session
from kofn.hardware.calibration import Calibration, read_calibration, write_calibration
from kofn.hardware.doctor import key_line
from kofn.hardware.fakes.serial_devices import TextBoard
from kofn.hardware.fleet_file import read_fleet
from kofn.launch.doctor_lines import software_finding

FLEET = """
[all]
deadman_s = 0.5
limits = { v = 0.4, w = 2.0, accel = 0.8 }
[types.pico]
driver = "serial"
battery_v = { warn = 3.5, critical = 3.3 }
[robots.r07]
type = "pico"
tag = 7
limits = { v = 0.3, w = 9.0 }
[robots.r08]
type = "pico"
enabled = false
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[TextBoard]:
    made = TextBoard(tmp_path / "port")
    made.plug()
    yield made
    made.unplug()


def driver_of(board: TextBoard) -> list[str]:
    return ["--driver", "serial", "--settings", f'{{"port": "{board.path}", "answer_s": 0.5}}']


def test_doctor_without_anything_attached_is_a_table_with_hints_and_code_2(kofn: Kofn) -> None:
    done = kofn.run("hw", "doctor")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    failed = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert failed
    assert all("hint: " in lines[i + 1] for i in failed)
    assert all(line.startswith(("ok ", "warn", "FAIL", " ")) for line in lines)


def test_doctor_looks_at_key_files_and_at_the_camera_s_poses(kofn: Kofn, tmp_path: Path) -> None:
    key = tmp_path / "h.key"
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    key.chmod(0o644)
    assert not key_line(key).ok
    key.chmod(0o600)
    assert key_line(key).ok
    key.write_bytes(b"0\x82")
    assert "no PEM key" in key_line(key).seen
    assert "cannot be read" in key_line(tmp_path / "none").seen
    with plain_broker(tmp_path) as broker:
        voice = MqttTransport(broker.url, MonotonicClock())
        voice.open(Session("localiser", [], lambda _c: None, lambda _c: ()))
        try:
            pose = encode(Pose(b="b", r=[PoseRow("h0.r0", 0.0, 0.0, 0.0, 40)]))
            voice.publish("kofn1/fleet/pose/h0", pose, qos=1, retain=True)
            board = a_roster(sw="kofn-firmware 0.0.1")
            voice.publish("kofn1/fleet/roster/h0", encode(board), qos=1, retain=True)
            done = kofn.run("hw", "doctor", "h0", "--state", str(tmp_path), "--broker", broker.url)
        finally:
            voice.close([])
    assert "1 robots, the oldest 40 ms old" in done.stdout
    assert "kofn-firmware 0.0.1, protocol 1" in done.stdout
    assert "flash the firmware of this version" in done.stdout


def a_roster(**changes: Any) -> Roster:
    no = f"sha256:{'0' * 64}"
    return Roster(b="b", pace="realtime", robots=["h0.r0"], S=no, G=no, A=no, have=[], **changes)


@pytest.mark.parametrize(
    ("roster", "state", "words"),
    [
        (None, "ok", "no roster"),
        (a_roster(sw="kofn 1.2.3"), "ok", "kofn 1.2.3, protocol 1"),
        (a_roster(sw="their own 7"), "ok", "their own 7"),
        (a_roster(), "ok", "unnamed, protocol 1"),
        (a_roster(sw="kofn 1.2.4"), "warn", "upgrade"),
        (a_roster(sw="kofn-firmware 1.2.2"), "warn", "flash"),
        (a_roster(sw="kofn-firmware 1.2.3", proto=[2, 3]), "fail", "speaks protocol 1"),
    ],
)
def test_doctor_compares_versions_of_hosts(roster: Roster | None, state: str, words: str) -> None:
    found = software_finding(roster, "1.2.3")
    assert found.state == state
    assert words in f"{found.what} {found.hint}"
    assert (found.state == "ok") == (not found.hint)


def test_doctor_sees_a_board_and_a_broker(kofn: Kofn, board: TextBoard, tmp_path: Path) -> None:
    with plain_broker(tmp_path) as broker:
        done = kofn.run("hw", "doctor", *driver_of(board), "--broker", broker.url)
    assert "opens, motors stopped; " in done.stdout
    assert ", protocol kofn1" in done.stdout
    assert "7.40 V" in done.stdout
    assert "there and back: p50" in done.stdout


def test_selftest_turns_the_wheels_and_keeps_its_result(
    kofn: Kofn, board: TextBoard, tmp_path: Path
) -> None:
    command = ["hw", "selftest", "bot", *driver_of(board), "--state", str(tmp_path / "s")]
    refused = kofn.run(*command)
    assert refused.returncode == 2
    assert board.wheels.changes == []
    result = kofn.json(*command, "--yes")
    assert result["ok"], result
    assert {line["name"] for line in result["lines"]} >= {"forward, encoder sign", "dead-man"}
    assert board.wheels.still
    assert max(abs(left) for _, left, _ in board.wheels.changes) < 0.1  # a fifth of the limits
    assert (tmp_path / "s" / "selftest.json").exists()


def test_calibration_is_corrected_by_the_tape_and_the_old_version_is_kept(
    kofn: Kofn, board: TextBoard, tmp_path: Path
) -> None:
    folder = tmp_path / "calibration"
    write_calibration(folder, Calibration(robot="bot", driver="serial", date="2026-01-01"))
    fast = f'{{"port": "{board.path}", "answer_s": 0.5, "v_max_mps": 5, "w_max_radps": 40}}'
    board.MOST = 200_000
    result = kofn.json(
        *("hw", "calibrate", "bot", "--driver", "serial", "--settings", fast),
        *("--folder", str(folder), "--straight", "1.05", "--turned", "5", "--yes"),
    )
    new = read_calibration(folder / "bot.toml", "bot")
    assert new.left_scale == pytest.approx(1.05 / result["told_m"])
    assert read_calibration(folder / "bot.1.toml", "bot").left_scale == 1.0
    assert set(result["changes"]) >= {"left_scale", "right_scale", "track_m"}


def test_wheels_in_the_air_tell_direction_and_deadband(
    kofn: Kofn, board: TextBoard, tmp_path: Path
) -> None:
    folder = tmp_path / "calibration"
    board.LEAST = 212  # 0.03 m/s
    words = ["hw", "calibrate", "bot", *driver_of(board), "--folder", str(folder), "--wheels-up"]
    asked = kofn.run(*words, "--yes")
    assert asked.returncode == 2
    assert "nobody is here to say how the left wheel turned" in asked.stderr
    result = kofn.json(*words, "--yes", "--left", "forward", "--right", "backward")
    new = read_calibration(folder / "bot.toml", "bot")
    assert (new.flip_left, new.flip_right) == (False, True)
    assert result["moved_at"] * 0.3 == pytest.approx(0.03, abs=0.004)
    assert new.deadband == pytest.approx(result["moved_at"] - 0.01)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (FLEET.replace("tag = 7", "tga = 7"), "unknown key 'tga' in [robots.r07]"),
        (FLEET.replace('type = "pico"', 'type = "nano"', 1), "no type 'nano'; known are pico"),
        (FLEET.replace("0.5", "0.05"), "deadman_s = 0.05 s must lie in 0.1..2 s"),
        (FLEET.replace("v = 0.3", "v = -1"), "limit v = -1.0 must be at least 0"),
        ("[all]\n", "names no [robots.<id>]"),
        ("[robot.a]\n", "unknown table [robot]"),
    ],
)
def test_bad_fleet_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_fleet(path)


def test_fleet_show_names_the_level_of_each_value_and_limits_only_fall(
    kofn: Kofn, tmp_path: Path
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    values = kofn.json("hw", "fleet", str(path), "--show", "r07")["values"]
    assert values["deadman_s"] == {"value": 0.5, "level": "all"}
    assert values["driver"] == {"value": "serial", "level": "types.pico"}
    assert values["limits"]["value"] == {"v": 0.3, "w": 2.0, "accel": 0.8}
    listed = kofn.json("hw", "fleet", str(path))["robots"]
    assert [row["enabled"] for row in listed] == [True, False]


class Robot:
    """`kofn robot` with a board, on a broker."""

    def __init__(self, kofn: Kofn, board: TextBoard, broker: PlainBroker, state: Path) -> None:
        self.kofn, self.state = kofn, state
        self.token = kofn.json("hw", "token", "--host", "bot", "--state", str(state))["token"]
        (state / "token").write_text(self.token)
        self._command = ["robot", "--host", "bot", "--broker", broker.url, *driver_of(board)]
        self._command += ["--state", str(state)]
        self.process = self.start()

    def start(self) -> "subprocess.Popen[str]":
        self.process = self.kofn.start(*self._command)
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            if self.ask("--status").returncode == 0 and self.mode() != "BOOT":
                return self.process
            time.sleep(0.1)
        raise AssertionError("the robot does not start")

    def ask(self, *options: str) -> "subprocess.CompletedProcess[str]":
        token = ["--token-file", str(self.state / "token")]
        return self.kofn.run("hw", "arm", "bot.r0", "--state", str(self.state), *token, *options)

    def mode(self) -> Any:
        words = ("hw", "arm", "bot.r0", "--state", str(self.state), "--status")
        return self.kofn.json(*words)["state"]["mode"]


@pytest.mark.broker
@pytest.mark.slow
def test_arming_needs_the_token_here_and_an_emergency_stop_outlives_a_kill(
    kofn: Kofn, board: TextBoard, tmp_path: Path
) -> None:
    state = tmp_path / "s"
    with plain_broker(tmp_path) as broker:
        robot = Robot(kofn, board, broker, state)
        assert robot.mode() == "DISARMED"
        assert "no self-test has passed" in robot.ask().stderr
        (state / "token").write_text("guess")
        wrong = robot.ask("--force")
        assert (wrong.returncode, "token is wrong" in wrong.stderr) == (1, True)
        (state / "token").write_text(robot.token)
        assert robot.ask("--force").returncode == 0
        assert robot.mode() == "ARMED"
        stopped = kofn.json("hw", "estop", "--broker", broker.url, "--why", "test")
        assert stopped["stopped"] == ["bot"]
        assert robot.mode() == "ESTOP"
        os.kill(robot.process.pid, signal.SIGKILL)
        robot.process.wait()
        robot.start()
        assert robot.mode() == "ESTOP"
        refused = robot.ask("--release")
        assert "a halt forbids epochs" in refused.stderr
        robot.process.terminate()
        robot.process.communicate(timeout=20)
    assert board.wheels.still


def test_estop_of_a_fleet_names_whoever_does_not_answer(kofn: Kofn, tmp_path: Path) -> None:
    from paho.mqtt.publish import single

    from kofn.controller.link.messages import Conn, encode

    with plain_broker(tmp_path) as broker:
        payload = encode(Conn(b="b", c=1, st="ONLINE", n=1))
        single("kofn1/fleet/conn/ghost", payload, 1, retain=True, port=broker.port)
        done = kofn.run("hw", "estop", "--broker", broker.url)
    assert done.returncode == 1
    assert "NO ANSWER from ghost" in done.stderr


def test_a_board_folder_is_provisioned_and_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOFN_OPERATOR_TOKEN", "choose-your-own")
    out = tmp_path / "board"
    kofn = [sys.executable, "-m", "kofn.launch", "hw", "provision", "r07", "--out", str(out)]
    here = [*kofn, "--broker", "mqtt://127.0.0.1:1883"]

    def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, capture_output=True, text=True, check=False)

    far = run([*kofn, "--broker", "mqtt://192.0.2.1:1883"])
    assert far.returncode == 2
    assert "mqtts://" in far.stderr
    fast = run([*here, "--board", '{"limits": {"v": 50}}'])
    assert fast.returncode == 2
    assert "limits.v" in fast.stderr
    assert not out.exists()
    done = run([*here, "--board", '{"pins": {"battery": 26}}', "--json"])
    assert done.returncode == 0, done.stderr
    settings = json.loads((out / "kofn.json").read_text())
    assert settings["pins"]["battery"] == 26
    assert "choose-your-own" not in (out / "kofn.json").read_text()
    assert (out / "robot" / "safety.py").exists()
    again = run(here)
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr
