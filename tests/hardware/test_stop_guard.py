# SPDX-License-Identifier: MIT
"""A device without a time-out of its own stops although its agent was killed or frozen."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kofn.controller.link.clock import MonotonicClock
from kofn.hardware.drivers import create2
from kofn.hardware.drivers.stop_guard import StopGuard
from kofn.hardware.fakes.serial_devices import FakeCreate2

AGENT = """
import asyncio, sys, time
from kofn.controller.link.clock import MonotonicClock
from kofn.hardware.drivers.create2 import Create2Driver

async def main():
    driver = Create2Driver(MonotonicClock(), port=sys.argv[1], answer_s=1.0, guard_s=0.5)
    await driver.open()
    print("open", flush=True)
    while True:
        await driver.drive(0.1, 0.0)
        await asyncio.sleep(0.05)

asyncio.run(main())
"""


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_guard_stops_the_device_of_a_killed_or_frozen_agent(
    way: signal.Signals, tmp_path: Path
) -> None:
    device = FakeCreate2(tmp_path / "port")
    device.plug()
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(device.path)], stdout=subprocess.PIPE, text=True
    )

    def until(still: bool, wall_s: float) -> None:
        deadline_s = time.monotonic() + wall_s
        while device.wheels.still is not still:
            assert time.monotonic() < deadline_s
            time.sleep(0.002)

    try:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "open\n"
        until(still=False, wall_s=10.0)
        time.sleep(0.2)
        os.kill(agent.pid, way)
        until(still=True, wall_s=1.5)
    finally:
        agent.kill()
        agent.communicate()
        time.sleep(0.1)
        device.unplug()


class Sleepy(FakeCreate2):
    """The first question after its waking is lost."""

    asked = 0

    def _do(self, code: int, command: bytes) -> list[bytes]:
        if code == create2.QUERY:
            self.asked += 1
            if self.asked == 1:
                return []
        return super()._do(code, command)


def test_a_robot_that_misses_its_first_question_is_asked_again(tmp_path: Path) -> None:
    device = Sleepy(tmp_path / "port")
    device.plug()
    driver = create2.Create2Driver(MonotonicClock(), port=str(device.path), answer_s=0.3)

    async def open_and_close() -> None:
        await driver.open()
        await driver.close()

    try:
        asyncio.run(open_and_close())
        assert device.asked == 2
    finally:
        device.unplug()


def test_a_guard_that_does_not_run_does_not_keep_its_driver(tmp_path: Path) -> None:
    """A busy machine may not have started it yet; the loop that waits has motors to stop."""
    with (tmp_path / "line").open("wb") as line:
        guard = StopGuard(line.fileno(), b"stop", 0.5)
        os.kill(guard.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        guard.close()
        assert time.monotonic() - began_s < 1.5
        with pytest.raises(ProcessLookupError):
            os.kill(guard.pid, 0)
