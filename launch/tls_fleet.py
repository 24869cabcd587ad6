# SPDX-License-Identifier: MIT
"""A fleet on this machine with the certificates of `kofn ca`: its broker, and each one's options.

The scenario names the authority's folder (`[broker] tls = "ca"`), or asks for one that is made for
the run and gone with it (`"auto"`). mosquitto is started with the configuration and rights in it,
on its port, and ends with this process.
"""

import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import BrokerAddress
from kofn.controller.link.allow_list import read_allow_list
from kofn.controller.link.broker import LOG_NAME, Broker
from kofn.controller.link.children import spawn_child
from kofn.controller.link.credentials import VehicleRole
from kofn.controller.link.messages import RobotRange
from kofn.controller.link.mosquitto_config import CONFIG_NAME
from kofn.controller.link.probe import Connack, probe
from kofn.controller.link.signing import KEYS_NAME, check_keys, read_keys
from kofn.controller.link.tls import TlsFiles, make_context
from kofn.launch.fake_vehicles import control_name, vehicle_names, vehicle_roots
from kofn.launch.parts import robot_names
from kofn.launch.scenario import HostSection, Scenario

START_S = 15.0


class TlsFleet:
    """The authority's folder, as the processes of a scenario use it.

    Raises
    ------
    InputError
        No authority there, another fleet's, or a host or robot that it has not enrolled.
    """

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        from kofn.controller.link.enrolment import read_members

        self._folder = folder.resolve()
        self._signed = scenario.broker.signed
        members = read_members(folder)
        if members.fleet != scenario.name:
            raise InputError(
                f"the authority in {folder} is that of fleet {members.fleet!r}, the scenario's "
                f"name is {scenario.name!r}"
            )
        self.allow_list = self._folder / "controller" / "hosts.toml"
        allowed = read_allow_list(self.allow_list)
        for host in scenario.hosts:
            objection = allowed.objection(host.name, robot_names(host.name, host.robots))
            if objection:
                raise InputError(
                    f"host {host.name!r}: {objection}; enroll it: kofn ca enroll {host.name} "
                    f"--count {host.robots} --dir {folder}"
                )
        if self._signed:
            known = read_keys(self._folder / "controller" / KEYS_NAME)
            check_keys(known, [host.name for host in scenario.hosts])
        for host in scenario.hosts:
            for name, role, roots in vehicle_members(host):
                member = members.hosts.get(name)
                if member is None or (member.role, member.vehicles) != (role, roots):
                    how = "--vehicle" if role == "vehicle" else "--controls"
                    raise InputError(
                        f"host {host.name!r}: {name!r} is not enrolled for its vehicles: "
                        f"kofn ca enroll {name} {how} {','.join(roots)} --dir {folder}"
                    )
        named = [name for name in members.broker_names if not _is_address(name)]
        self.server_name = (named or members.broker_names)[0]
        self._address = BrokerAddress(members.broker_names[0], self._port(), tls=True)

    def _port(self) -> int:
        config = self._folder / "broker" / CONFIG_NAME
        try:
            words = [line.split() for line in config.read_text(encoding="utf-8").splitlines()]
            return next(int(line[1]) for line in words if line[:1] == ["listener"])
        except (OSError, StopIteration, ValueError, IndexError):
            raise InputError(f"{config} is no configuration of a broker with a listener") from None

    def options(self, name: str) -> list[str]:
        """Return the options that let `name` in."""
        files, keys = self.files(name), self.message_keys(name)
        return [
            *("--tls-ca", str(files.ca)),
            *("--tls-cert", str(files.certificate)),
            *("--tls-key", str(files.key)),
            *(() if keys is None else ("--message-keys", str(keys))),
        ]

    def message_keys(self, name: str) -> Path | None:
        """Return the file of the keys that sign what `name` says; None where nothing is signed."""
        return self._own(name) / KEYS_NAME if self._signed else None

    def _own(self, name: str) -> Path:
        return self._folder / name if name == "controller" else self._folder / "hosts" / name

    def files(self, name: str) -> TlsFiles:
        """Return the certificates of `name`."""
        own = self._own(name)
        return TlsFiles(own / "ca.crt", own / f"{name}.crt", own / f"{name}.key")

    def start_broker(self, workdir: Path) -> Broker:
        """Start mosquitto with the generated files; return it once it accepts the controller.

        Raises
        ------
        RunError
            No mosquitto, or it does not accept the controller's certificate in time.
        """
        check_mosquitto()
        context = make_context(self.files("controller"))
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = workdir / LOG_NAME
        with log.open("wb") as output:
            process = spawn_child(
                ["mosquitto", "-c", CONFIG_NAME],
                cwd=self._folder / "broker",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        broker = Broker("mosquitto", self._address.url, "5", process)
        try:
            self._wait_until_up(broker, context, log)
        except BaseException:
            broker.close()
            raise
        return broker

    def _wait_until_up(self, broker: Broker, context: ssl.SSLContext, log: Path) -> None:
        deadline_s = time.monotonic() + START_S
        why = ""
        while time.monotonic() < deadline_s and broker.alive():
            try:
                answer = probe(self._address, client_id="controller", timeout_s=1.0, tls=context)
            except OSError as error:
                why = error.strerror or str(error)
            else:
                # Somebody else may hold the port: then ours ends at once.
                if answer is Connack.ACCEPTED and broker.alive():
                    return
                why = answer.name.lower()
            time.sleep(0.05)
        lines = log.read_text(errors="replace").strip().splitlines()
        raise RunError(
            f"mosquitto at {self._address.url} did not accept the controller ({why}): "
            f"{lines[-1] if lines else 'its log is empty'}"
        )


def check_mosquitto() -> None:
    """Raise `RunError` where there is no mosquitto."""
    if shutil.which("mosquitto") is None:
        raise RunError("mosquitto is not on PATH; a broker with certificates needs it")


def make_authority(folder: Path, scenario: Scenario) -> Path:
    """Make an authority for one run in a new folder; enroll everybody whom the scenario names.

    Its broker listens on a free port of 127.0.0.1. Raises `RunError` without mosquitto.
    """
    from kofn.controller.link.enrolment import create, open_office

    check_mosquitto()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    now = datetime.now(UTC)
    names = ["127.0.0.1", "localhost"]
    create(folder, fleet=scenario.name, broker_names=names, now=now, port=port, bind="127.0.0.1")
    with open_office(folder) as office:
        for host in scenario.hosts:
            robots = RobotRange(prefix=f"{host.name}.r", count=host.robots)
            office.enroll(host.name, robots, now=now)
            for name, role, roots in vehicle_members(host):
                office.enroll_vehicles(name, role, roots, now=now)
    return folder


def vehicle_members(host: HostSection) -> list[tuple[str, VehicleRole, tuple[str, ...]]]:
    """Who needs a certificate for the fake vehicles of a host: name, role, roots of topics."""
    if host.fake != "vda5050":
        return []
    roots = vehicle_roots(host)
    members: list[tuple[str, VehicleRole, tuple[str, ...]]] = [
        (name, "vehicle", (root,)) for name, root in zip(vehicle_names(host), roots, strict=True)
    ]
    return [*members, (control_name(host), "fleet-control", tuple(roots))]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
