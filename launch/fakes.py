# SPDX-License-Identifier: MIT
"""Hosts of a scenario whose devices are fakes: the device, its driver's settings, and arming.

A robot with motors is armed by its operator at the robot, and a scenario must never do that. It
may for a device that it has made itself: the kind of the host says that it is one, the scenario
says `arm = true`, and where the driver finds its device is not for the scenario to choose. Arming
goes the operator's way, by token and local socket, and is in the robot's record as forced, with
what was overruled: nobody has run a self-test or a preflight.
"""

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kofn.controller.core.errors import RunError
from kofn.hardware.black_box import PATTERN
from kofn.hardware.fakes.serving import (
    AnyDevice,
    Create2Device,
    FakeVehicleSettings,
    RosbridgeDevice,
    SerialDevice,
    VehiclesDevice,
)
from kofn.hardware.local_socket import FILE as SOCKET
from kofn.hardware.local_socket import Ask, ask_agent
from kofn.hardware.operator_token import make_token
from kofn.launch.fake_vehicles import (
    MANUFACTURER,
    control_name,
    dialect_of,
    nodes_of,
    vehicle_names,
)
from kofn.launch.parts import robot_names
from kofn.launch.scenario import HostSection, Scenario
from kofn.launch.supervise import Child, Supervisor
from kofn.launch.tls_fleet import TlsFleet

START_S = 60.0
"""Longest wait for a device or an agent to be there; a loaded machine takes its time."""
LOOK_S = 0.05
PATIENT: dict[str, dict[str, Any]] = {"serial": {"answer_s": 0.5}, "create2": {"answer_s": 0.5}}
"""Settings of drivers whose devices share a machine with everything else."""


class FakeHosts:
    """The fakes of one play: devices before their agents, armed before there is a controller.

    Parameters
    ----------
    scenario
        Checked.
    supervisor
        Starts the devices.
    folder
        Private, for this play alone: links to ports, state folders of the agents.
    broker_url, secured
        Where vehicles meet their agent, and with which certificates.
    """

    def __init__(
        self,
        scenario: Scenario,
        supervisor: Supervisor,
        folder: Path,
        broker_url: str,
        secured: TlsFleet | None,
    ) -> None:
        self._hosts = [host for host in scenario.hosts if host.fake]
        self._layout, self._supervisor, self._folder = scenario.arena, supervisor, folder
        self._url, self._secured = broker_url, secured
        self._tokens: dict[str, str] = {}
        self._settings: dict[str, dict[str, Any]] = {}

    def start(self, suffix: str) -> list[Child]:
        """Start every device and wait until it is there; return the processes.

        Raises
        ------
        RunError
            A device ended, or was not there in time.
        """
        children = []
        for host in self._hosts:
            self._place(host).mkdir(parents=True, mode=0o700)
            device = msgspec.json.encode(self._device(host)).decode()
            command = [sys.executable, "-m", "kofn.hardware.fakes", device]
            children.append(self._supervisor.start(f"{host.name}-device-{suffix}", command))
        deadline_s = time.monotonic() + START_S
        for host in self._hosts:
            ready = self._place(host) / "ready.json"
            while not ready.exists():
                self._supervisor.check()
                if time.monotonic() > deadline_s:
                    raise RunError(f"the fake device of host {host.name!r} is not there in time")
                time.sleep(LOOK_S)
            found = msgspec.json.decode(ready.read_bytes(), type=dict[str, Any])
            own = PATIENT.get(host.fake, {}) | host.settings
            self._settings[host.name] = own | found | self._fixed(host)
            self._tokens[host.name] = make_token(self._state(host))
        return children

    def options(self, host: HostSection) -> list[str]:
        """Return what `kofn robot` is told of the driver of a host."""
        return [
            *("--driver", host.fake),
            *("--settings", msgspec.json.encode(self._settings[host.name]).decode()),
            *("--state", str(self._state(host))),
        ]

    def arm(self, watch: Callable[[], None]) -> None:
        """Arm the robots of hosts whose scenario says so, once their agents are there.

        Raises
        ------
        RunError
            A robot cannot be armed in time, and why.
        """
        waiting = {
            robot: host
            for host in self._hosts
            if host.arm
            for robot in robot_names(host.name, host.robots)
        }
        why = dict.fromkeys(waiting, "its agent does not listen")
        deadline_s = time.monotonic() + START_S
        while waiting:
            watch()
            self._supervisor.check()
            for robot, host in list(waiting.items()):
                ask = Ask(op="arm", robot=robot, token=self._tokens[host.name], force=True)
                try:
                    answer = ask_agent(self._state(host) / SOCKET, ask)
                except RunError:
                    continue  # not yet
                why[robot] = "; ".join(answer.why)
                if answer.ok:
                    del waiting[robot]
            if waiting and time.monotonic() > deadline_s:
                robot = min(waiting)
                raise RunError(f"fake robot {robot} cannot be armed: {why[robot]}")
            time.sleep(LOOK_S)

    def keep_records(self, folder: Path) -> None:
        """Copy the robots' black boxes into `folder`, one folder for each host."""
        for host in self._hosts:
            for record in self._state(host).glob(PATTERN):
                (folder / host.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(record, folder / host.name)

    def _place(self, host: HostSection) -> Path:
        return self._folder / host.name

    def _state(self, host: HostSection) -> Path:
        return self._place(host) / "state"

    def _device(self, host: HostSection) -> AnyDevice:
        place = self._place(host)
        ready, port = str(place / "ready.json"), str(place / "port")
        if host.fake == "serial":
            return SerialDevice(ready=ready, port=port)
        if host.fake == "create2":
            return Create2Device(ready=ready, port=port)
        if host.fake == "rosbridge":
            return RosbridgeDevice(ready=ready)
        vehicles = []
        nodes = nodes_of(self._layout)
        for i, name in enumerate(vehicle_names(host)):
            node = nodes[(host.zone + i) % len(nodes)]
            vehicles.append(
                msgspec.structs.replace(
                    FakeVehicleSettings(
                        manufacturer=MANUFACTURER,
                        serial=name,
                        dialect=dialect_of(i),
                        node=node.id,
                        x=node.x,
                        y=node.y,
                    ),
                    **self._certificates(name),
                )
            )
        return VehiclesDevice(ready=ready, url=self._url, vehicles=vehicles)

    def _fixed(self, host: HostSection) -> dict[str, Any]:
        """Settings of a driver that follow from the fleet."""
        if host.fake != "vda5050":
            return {}
        robots = robot_names(host.name, host.robots)
        return {
            "vehicles": [
                {
                    "manufacturer": MANUFACTURER,
                    "serial": name,
                    "dialect": dialect_of(i),
                    "robot": robots[i],
                }
                for i, name in enumerate(vehicle_names(host))
            ],
            "nodes": msgspec.to_builtins(nodes_of(self._layout)),
            **self._certificates(control_name(host)),
        }

    def _certificates(self, name: str) -> dict[str, str]:
        if self._secured is None:
            return {}
        files = self._secured.files(name)
        return {
            "tls_ca": str(files.ca),
            "tls_cert": str(files.certificate),
            "tls_key": str(files.key),
        }
