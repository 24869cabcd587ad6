# SPDX-License-Identifier: MIT
"""A fleet on this machine with the certificates of `kofn ca`: its broker, and each one's options.

The scenario names the authority's folder (`[broker] tls = "ca"`). mosquitto is started with the
configuration and rights in it, on its port, and ends with this process.
"""

import shutil
import ssl
import subprocess
import time
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import BrokerAddress
from kofn.controller.link.allow_list import read_allow_list
from kofn.controller.link.broker import LOG_NAME, Broker
from kofn.controller.link.children import spawn_child
from kofn.controller.link.mosquitto_config import CONFIG_NAME
from kofn.controller.link.probe import Connack, probe
from kofn.controller.link.tls import TlsFiles, make_context
from kofn.launch.parts import robot_names
from kofn.launch.scenario import Scenario

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
        files = self._files(name)
        return [
            *("--tls-ca", str(files.ca)),
            *("--tls-cert", str(files.certificate)),
            *("--tls-key", str(files.key)),
        ]

    def _files(self, name: str) -> TlsFiles:
        own = self._folder / name if name == "controller" else self._folder / "hosts" / name
        return TlsFiles(own / "ca.crt", own / f"{name}.crt", own / f"{name}.key")

    def start_broker(self, workdir: Path) -> Broker:
        """Start mosquitto with the generated files; return it once it accepts the controller.

        Raises
        ------
        RunError
            No mosquitto, or it does not accept the controller's certificate in time.
        """
        if shutil.which("mosquitto") is None:
            raise RunError("mosquitto is not on PATH; a broker with certificates needs it")
        context = make_context(self._files("controller"))
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
