# SPDX-License-Identifier: MIT
"""An emergency stop holds across real restarts of robots, broker and controller, for every driver.

Everything is a process of its own. The broker keeps nothing when it is killed, so a robot that
stays stopped knows that by itself; each new controller has a higher epoch and sends valid steps.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from plain_broker import MOSQUITTO
from process_fleet import PERIOD_S, Fleet, Watched

from kofn.controller.core.errors import InputError
from kofn.hardware.firmware_bench import find_micropython

pytestmark = pytest.mark.broker
PATIENCE_S = 60.0
STEP = "kofn1/fleet/step"
BREAKABLE = ("serial", "create2", "rosbridge", "vda5050")
"""Drivers whose device can be taken away; a fault of the others is tried in one process."""
ARITHMETIC = "dry_run"
"""Without motors: it stays stopped until a higher epoch, and needs no release then."""


def wait_for(condition: Callable[[], bool], fleet: Fleet, what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        modes = {kind: (robot.mode(), robot.moving) for kind, robot in fleet.robots.items()}
        assert time.monotonic() < until_s, f"{what}: {modes}\n{fleet.log()}"
        time.sleep(0.05)


class Ear:
    """Hears steps above an epoch, and may say any again."""

    def __init__(self, fleet: Fleet, above: int = -1) -> None:
        self.steps: list[bytes] = []
        self._above = above
        self._first = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="ear")
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", fleet.broker.port)
        self._client.subscribe(STEP)
        self._client.loop_start()

    def _take(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if json.loads(message.payload)["ep"] > self._above:
            self.steps.append(bytes(message.payload))
            self._first.set()

    def hear_one(self) -> dict[str, int]:
        assert self._first.wait(PATIENCE_S)
        step: dict[str, int] = json.loads(self.steps[-1])
        return step

    def say(self, payload: bytes, *, retain: bool) -> None:
        self._client.publish(STEP, payload, 1, retain).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def all_are(fleet: Fleet, mode: str) -> bool:
    return all(robot.mode() == mode for robot in fleet.robots.values())


def who_moves(fleet: Fleet) -> dict[str, str]:
    return {kind: robot.mode() for kind, robot in fleet.robots.items() if robot.moving}


def arm_and_move(fleet: Fleet) -> None:
    moved: set[str] = set()

    def all_moved() -> bool:
        for kind in fleet.robots.keys() - moved:
            robot = fleet.robots[kind]
            if robot.try_to_arm() and robot.moving:
                moved.add(kind)
        return len(moved) == len(fleet.robots)

    wait_for(all_moved, fleet, "all are armed, and move on a step")


def halt(fleet: Fleet) -> None:
    """`kofn hw estop`; who is not connected does not answer it, and hears of it later."""
    command = [sys.executable, "-m", "kofn.launch", "hw", "estop", "--broker", fleet.broker.url]
    subprocess.run(
        [*command, "--why", "test"], capture_output=True, check=False, timeout=PATIENCE_S
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def bring_into(state: str, fleet: Fleet) -> None:
    robots: list[Watched] = list(fleet.robots.values())
    if state == "disarmed":
        for robot in robots:
            robot.ask("disarm")
        wait_for(lambda: all_are(fleet, "DISARMED"), fleet, "all are disarmed")
    elif state == "reconnecting":
        kill(fleet.broker.process)
        wait_for(lambda: not who_moves(fleet), fleet, "all stop without a broker")
        fleet.broker.start()
    elif state == "opening":
        for robot in robots:
            robot.kill()
        for robot in robots:
            robot.start()
    elif state == "fault":
        broken = [fleet.robots[kind] for kind in BREAKABLE if kind in fleet.robots]
        for robot in broken:
            robot.unplug()
        wait_for(lambda: all(r.mode() == "FAULT" for r in broken), fleet, "they are in FAULT")
        for robot in broken:
            robot.plug()


def check_that_a_halt_holds(fleet: Fleet, state: str) -> None:
    arm_and_move(fleet)
    ear = Ear(fleet)
    ear.hear_one()
    old_steps = ear.steps
    ear.close()
    bring_into(state, fleet)
    halt(fleet)
    wait_for(lambda: all_are(fleet, "ESTOP") and not who_moves(fleet), fleet, "all are stopped")

    kill(fleet.controller)
    for robot in fleet.robots.values():
        robot.kill()
    kill(fleet.broker.process)  # and with it the halt that it kept
    fleet.broker.start()
    old = json.loads(old_steps[-1])
    ear = Ear(fleet, above=old["ep"])
    ear.say(old_steps[-1], retain=True)
    for robot in fleet.robots.values():
        robot.start()
    wait_for(lambda: all_are(fleet, "ESTOP"), fleet, "all know of the halt after their restart")
    ear.say(old_steps[-1], retain=False)
    assert who_moves(fleet) == {}
    fleet.start_controller()
    new = ear.hear_one()
    ear.say(old_steps[-1], retain=False)
    ear.say(ear.steps[-1], retain=True)
    ear.say(ear.steps[-1], retain=False)
    ear.say(json.dumps({**new, "ep": old["ep"], "t": 10**6}).encode(), retain=False)
    heard = len(ear.steps)
    stopped = {kind: robot for kind, robot in fleet.robots.items() if kind != ARITHMETIC}
    until_s = time.monotonic() + 1.2 * PERIOD_S
    while time.monotonic() < until_s or len(ear.steps) < heard + 2:  # new, valid steps come too
        assert time.monotonic() < until_s + PATIENCE_S
        assert who_moves(fleet).keys() <= {ARITHMETIC}
        assert [kind for kind, robot in stopped.items() if robot.ask("arm")] == []
        time.sleep(0.1)
    assert {robot.mode() for robot in stopped.values()} == {"ESTOP"}
    ear.close()

    def released() -> bool:
        return all(r.mode() != "ESTOP" or r.ask("release") for r in fleet.robots.values())

    wait_for(released, fleet, "all are released")
    arm_and_move(fleet)


def test_a_halt_outlives_the_death_of_robot_broker_and_controller(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto")
    fleet = Fleet(["serial"], tmp_path)
    try:
        fleet.start()
        check_that_a_halt_holds(fleet, "connected")
    finally:
        fleet.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_driver_stays_halted_from_every_state_through_every_restart(tmp_path: Path) -> None:
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto")
    pytest.importorskip("gpiozero")
    try:
        find_micropython()
    except InputError as missing:
        pytest.skip(str(missing))
    kinds = ["dry_run", "serial", "create2", "gpio", "rosbridge", "vda5050", "firmware"]
    fleet = Fleet(kinds, tmp_path)
    try:
        fleet.start()
        for state in ("connected", "disarmed", "reconnecting", "opening", "fault"):
            check_that_a_halt_holds(fleet, state)
    finally:
        fleet.close()
