# SPDX-License-Identifier: MIT
"""Arming over the local socket; devices have one owner; the board's own sketch stops by itself."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import FakeClock, MonotonicClock
from kofn.hardware.black_box import BlackBox, read_black_box
from kofn.hardware.driver import DriverError
from kofn.hardware.drivers import serial_text
from kofn.hardware.drivers.serial_text import SerialTextDriver
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.local_requests import LocalRequests
from kofn.hardware.local_socket import Ask, LocalSocket, Op, ask_agent
from kofn.hardware.lock_file import PortLock
from kofn.hardware.operator_token import FILE, make_token
from kofn.hardware.preflight_result import PreflightResult, words, write_preflight
from kofn.hardware.safety_states import Mode
from kofn.hardware.safety_task import Safety
from kofn.hardware.selftest_result import SelftestResult, write_result


class Agent:
    """Safety of two robots behind a socket."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "s.sock"
        self.safety = Safety(("a", "b"), FakeClock())
        self.safety.self_check()
        for i in range(2):
            self.safety.see_pose(i)
        self.server = LocalSocket(self.path, LocalRequests(self.safety, folder))
        self.token = make_token(folder)
        self.server.open()

    def ask(self, op: Op, robot: str | None = "a", **more: Any) -> Any:
        return ask_agent(self.path, Ask(op=op, robot=robot, **more))

    def passes_selftest(self, *, ok: bool = True) -> None:
        failed = [] if ok else ["forward"]
        write_result(
            self.folder,
            SelftestResult(ok=ok, driver="d", utc="2026-01-01T00:00:00Z", failed=failed),
        )

    def passes_preflight(self, *failed: str) -> None:
        stamp = "2026-01-01T00:00:00Z"
        result = PreflightResult(
            ok=not failed, policy="0" * 64, run="run", utc=stamp, failed=list(failed)
        )
        write_preflight(self.folder, result)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.server.close()


def test_arming_takes_token_and_selftest_and_is_for_one_robot(agent: Agent) -> None:
    assert not agent.ask("arm", token="guess").ok  # noqa: S106
    assert "no self-test has passed" in agent.ask("arm", token=agent.token).why[0]
    agent.passes_selftest(ok=False)
    assert "failed: forward" in agent.ask("arm", token=agent.token).why[0]
    agent.passes_selftest()
    assert "no policy has passed its preflight" in agent.ask("arm", token=agent.token).why[0]
    agent.passes_preflight("geofence: 3 of 90 poses outside (mend the arena)")
    assert "geofence: 3 of 90 poses" in agent.ask("arm", token=agent.token).why[0]
    agent.passes_preflight()
    assert "one robot at a time" in agent.ask("arm", None, token=agent.token).why[0]
    assert agent.ask("arm", token=agent.token).ok
    assert (agent.safety.mode(0), agent.safety.mode(1)) == (Mode.ARMED, Mode.DISARMED)


def test_arming_asks_whether_limits_and_policy_are_those_of_the_preflight(tmp_path: Path) -> None:
    fence = [(0.5, -1.0), (2.0, -1.0), (2.0, 1.0)]
    limits = RobotLimits(v=0.4, geofence=fence)
    safety = Safety(("a",), FakeClock())
    safety.self_check()
    safety.see_pose(0)
    record = BlackBox(tmp_path, "boot")
    held: list[str] = []
    requests = LocalRequests(safety, tmp_path, record=record, limits=limits, policies=lambda: held)
    token = make_token(tmp_path)
    stamp = "2026-01-01T00:00:00Z"
    write_result(tmp_path, SelftestResult(ok=True, driver="d", utc=stamp, failed=[]))

    def arm(*, force: bool = False) -> list[str]:
        return requests(Ask(op="arm", robot="a", token=token, force=force)).why

    def checked(against: RobotLimits) -> None:
        result = PreflightResult(
            ok=True,
            policy="0" * 64,
            local="1" * 64,
            limits=words(against),
            run="run",
            utc=stamp,
        )
        write_preflight(tmp_path, result)

    for other in (RobotLimits(v=0.5, geofence=fence), RobotLimits(v=0.4), RobotLimits()):
        checked(other)
        (why,) = arm()
        assert why.startswith("the limits are not those of the preflight of 2026-01-01T00:00:00Z")
    checked(msgspec.structs.replace(limits, w=1.0))  # turn rates are not compared with poses
    held[:] = ["sha256:" + "2" * 64]
    (why,) = arm()
    assert why == (
        "the local policy in force, 222222222222, is not that of the preflight of "
        "2026-01-01T00:00:00Z, 111111111111"
    )
    assert arm(force=True) == []
    safety.disarm(0)
    held[:] = ["sha256:" + "2" * 64, "sha256:" + "1" * 64]  # before the first step: either
    assert arm() == []
    record.close()
    arms = [row for row in read_black_box(tmp_path) if row["kind"] == "request"]
    assert [(row["forced"], row["overruled"]) for row in arms[-2:]] == [(True, [why]), (False, [])]


def test_stopping_needs_no_token_and_leaving_a_stop_does(agent: Agent) -> None:
    assert agent.ask("arm", token=agent.token, force=True).ok
    assert agent.ask("disarm").ok
    assert agent.ask("estop", None).ok
    assert [agent.safety.mode(i) for i in range(2)] == [Mode.ESTOP, Mode.ESTOP]
    assert not agent.ask("release").ok
    assert agent.ask("release", token=agent.token).ok
    assert agent.safety.mode(0) is Mode.DISARMED


def test_socket_and_hash_are_the_owners_alone_and_the_token_is_not_kept(agent: Agent) -> None:
    for path in (agent.path, agent.folder / FILE):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert agent.token not in (agent.folder / FILE).read_text()


def test_a_second_agent_is_refused_and_a_dead_ones_socket_is_taken_over(agent: Agent) -> None:
    second = LocalSocket(agent.path, LocalRequests(agent.safety, agent.folder))
    with pytest.raises(RunError, match="another agent of this host is running"):
        second.open()
    agent.server.close()
    with pytest.raises(RunError, match="no agent is running here"):
        agent.ask("status")
    agent.path.touch()  # as after a kill
    second.open()
    second.close()


def test_socket_path_that_is_too_long_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose a shorter --state folder"):
        LocalSocket(tmp_path / ("x" * 120), lambda _: pytest.fail("asked"))


def test_a_device_in_use_names_its_owner_and_is_free_after_its_death(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from kofn.hardware.lock_file import PortLock\n"
        "PortLock('dev', pathlib.Path(sys.argv[1])).take(); print('taken', flush=True)\n"
        "sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "taken\n"
    lock = PortLock("dev", tmp_path)
    with pytest.raises(DriverError, match=f"dev is in use by process {owner.pid}"):
        lock.take()
    owner.kill()
    owner.communicate()
    lock.take()
    lock.free()


SKETCH = Path(serial_text.__file__).parent / "arduino" / "kofn_robot" / "kofn_robot.ino"


def test_the_arduino_sketch_itself_obeys_the_driver_and_stops_by_its_own_dead_man(
    tmp_path: Path,
) -> None:
    """Compile the sketch with a stub of the board; its serial line is a pty."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to compile the sketch for this machine")
    program = tmp_path / "board"
    stub = Path(__file__).parent / "arduino_stub"
    command = [compiler, "-O1", "-std=c++17", f"-I{stub}", "-include", "Arduino.h", "-x", "c++"]
    subprocess.run([*command, str(SKETCH), "-o", str(program)], check=True, timeout=60)
    master, slave = os.openpty()
    power = tmp_path / "power"
    board = subprocess.Popen([program, str(power)], stdin=master, stdout=master)

    def powered() -> bool:
        return power.exists() and power.read_bytes()[:1] == b"1"

    def until(condition: bool, wall_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + wall_s
        while powered() is not condition:
            assert time.monotonic() < deadline_s
            time.sleep(0.005)

    async def script() -> None:
        driver = SerialTextDriver(MonotonicClock(), port=os.ttyname(slave), answer_s=0.5)
        await driver.open()
        assert (driver.board, driver.board_deadman_s) == ("arduino-1", 0.5)
        await driver.read()
        applied = await driver.drive(0.1, 0.0)
        assert applied.v == pytest.approx(0.1, abs=0.001)
        until(condition=True)
        await asyncio.sleep(0.2)
        seen = await driver.read()
        assert seen.dx_m > 0
        assert not seen.estop_input
        until(condition=False)  # nobody sends a command any more
        await driver.drive(-0.1, 0.0)
        until(condition=True)
        await driver.stop()
        until(condition=False, wall_s=0.4)
        await driver.close()

    try:
        asyncio.run(script())
    finally:
        board.kill()
        board.wait()
        os.close(master)
        os.close(slave)
