# SPDX-License-Identifier: MIT
"""`kofn fake`: a device without hardware that a driver finds, drives and loses."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from kofn_process import Kofn

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.fakes.serial_devices import FakeCreate2


@pytest.mark.parametrize("driver", ["serial", "rosbridge"])
def test_a_driver_moves_a_fake_device_by_the_settings_that_it_prints(
    kofn: Kofn, driver: str, tmp_path: Path
) -> None:
    pytest.importorskip("serial", reason="needs kofn[hardware]")
    pytest.importorskip("websockets", reason="needs kofn[hardware]")
    where = (str(tmp_path / "port"),) if driver == "serial" else ()
    device = kofn.start("fake", driver, *where, "--json")
    assert device.stdout is not None
    found = json.loads(device.stdout.readline())
    assert found["driver"] == driver

    async def drive() -> float:
        patient = {"answer_s": 5.0} if driver == "serial" else {"odom_max_age_s": 10.0}
        robot = make_driver(driver, MonotonicClock(), found["settings"] | patient)
        await robot.open()
        try:
            ahead_m = 0.0
            for _ in range(200):
                await robot.drive(0.2, 0.0)
                await asyncio.sleep(0.02)
                ahead_m += (await robot.read()).dx_m
                if ahead_m > 0.05:
                    break
            return ahead_m
        finally:
            await robot.close()

    assert asyncio.run(drive()) > 0.05
    device.send_signal(signal.SIGTERM)
    assert device.wait(20) == 0
    assert not (tmp_path / "port").exists()


def test_a_fake_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("mine")
    with pytest.raises(InputError, match="exists already: a fake device never takes its place"):
        FakeCreate2(tmp_path / "port").plug()
    assert (tmp_path / "port").read_text() == "mine"
