# SPDX-License-Identifier: MIT
"""`kofn robot` with a fleet file and a calibration: what they say is applied, or one sentence."""

import re
import time
from pathlib import Path

import pytest
from kofn_process import Kofn
from plain_broker import MOSQUITTO
from process_fleet import Agent, Fleet, PtyRobot

from kofn.controller.core.errors import InputError
from kofn.hardware.calibration import Calibration, write_calibration
from kofn.launch.robot_files import read_robot_files

FLEET = """
[all]
deadman_s = 0.4
limits = { v = 0.4 }
[types.cart]
driver = "serial"
settings = { answer_s = 0.5, track_m = 0.2 }
[robots.r07]
type = "cart"
limits = { v = 0.1, w = 1.0 }
[robots.r08]
type = "cart"
host = "bot"
state = "/var/lib/bot"
[robots.r09]
type = "cart"
enabled = false
[robots.pico]
driver = "firmware"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


def calibrate(folder: Path, robot: str = "r07", driver: str = "serial") -> Path:
    made = Calibration(robot=robot, driver=driver, date="2026-01-01", track_m=0.17, right_scale=1.5)
    return write_calibration(folder, made)


def test_a_calibration_wins_over_the_fleet_file_and_brings_only_what_the_driver_has(
    fleet: Path, tmp_path: Path
) -> None:
    calibrate(tmp_path)
    files = read_robot_files("r07", None, fleet, tmp_path)
    assert files.driver == "serial"
    assert (files.settings["answer_s"], files.settings["track_m"]) == (0.5, 0.17)
    assert files.settings["right_scale"] == 1.5
    assert "deadband" not in files.settings  # its board has none to be told
    assert files.times == {"deadman_s": 0.4}
    assert files.limits is not None
    assert (files.limits.v, files.limits.w) == (0.1, 1.0)


def test_a_robot_is_found_by_its_host_and_nothing_named_says_nothing(fleet: Path) -> None:
    files = read_robot_files("bot", None, fleet, None)
    assert files.state == Path("/var/lib/bot")
    assert read_robot_files("bot", "serial", None, None)[:2] == ("serial", {})


@pytest.mark.parametrize(
    ("host", "driver", "calibrated", "sentence"),
    [
        ("r99", None, None, "has no robot 'r99'; it has pico, r07, r08, r09"),
        ("r09", None, None, "robot 'r09' is disabled in [robots.r09]"),
        ("pico", None, None, "pico is a board with a host of its own"),
        ("r07", "gpio", ("r07", "serial"), "is of driver 'serial', not of 'gpio'"),
        ("r07", None, ("r08", "serial"), "has no calibration r07.toml"),
        ("r07", None, None, "answer_s"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(
    fleet: Path,
    tmp_path: Path,
    kofn: Kofn,
    host: str,
    driver: str | None,
    calibrated: tuple[str, str] | None,
    sentence: str,
) -> None:
    if sentence == "answer_s":  # through the verb: a setting that the driver does not have
        fleet.write_text(FLEET.replace("answer_s", "answer_ms"))
        named = ["--fleet-file", str(fleet), "--settings", '{"port": "x"}']
        done = kofn.run("robot", "--host", host, "--broker", "mqtt://127.0.0.1:1", *named)
        assert (done.returncode, "answer_ms" in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr
        return
    folder = None
    if calibrated is not None:
        folder = tmp_path / "calibration"
        calibrate(folder, *calibrated)
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_robot_files(host, driver, fleet, folder)


@pytest.mark.broker
@pytest.mark.slow
def test_a_robot_drives_within_the_fleet_files_limits_and_by_its_calibration(
    tmp_path: Path,
) -> None:
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto")
    fleet_file = tmp_path / "fleet.toml"
    fleet_file.write_text('[robots.serial]\ndriver = "serial"\nlimits = { v = 0.08 }\n')
    made = Calibration(robot="serial", driver="serial", date="2026-01-01", right_scale=2.0)
    folder = tmp_path / "calibration"
    write_calibration(folder, made)
    named = ["--fleet-file", str(fleet_file), "--calibration", str(folder)]
    fleet = Fleet(["serial"], tmp_path, {"serial": named})
    try:
        fleet.start()
        robot = fleet.robots["serial"]
        assert isinstance(robot, Agent)
        assert isinstance(robot.device, PtyRobot)
        until_s = time.monotonic() + 60
        while not (robot.try_to_arm() and robot.moving):
            assert time.monotonic() < until_s, fleet.log()
            time.sleep(0.05)
        time.sleep(2.0)  # past the first turn
        rows = robot.device.board.wheels.changes
    finally:
        fleet.close()
    ahead = [(left, right) for _, left, right in rows if left > 0 and right > 0]
    assert ahead
    # Counter-clockwise the right wheel is the faster one; it is told half, for it does twice.
    assert all(right < left for left, right in ahead)
    assert all((left + 2 * right) / 2 < 0.08 + 0.002 for left, right in ahead)
