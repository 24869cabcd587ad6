# SPDX-License-Identifier: MIT
"""The processes of one run of `kofn up`: which command each is, and watching them to the end."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.broker import Broker
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.record import RunFolder
from kofn.hardware.board_settings import BoardBroker, BoardSettings, to_der, token_hash
from kofn.hardware.firmware_bench import prepare_bench
from kofn.launch.fakes import FakeHosts
from kofn.launch.output import Progress
from kofn.launch.parts import read_credentials, robot_names
from kofn.launch.scenario import HostSection, Scenario
from kofn.launch.seeds import named_seed
from kofn.launch.supervise import Child, Supervisor
from kofn.launch.swarm_host import MoreHost
from kofn.launch.tls_fleet import TlsFleet
from kofn.sim.faults import faults_of_hosts

Dispatcher = Literal["policy", "random"]

ALLOW_LIST = "hosts.toml"


def check_broker(broker: Broker) -> None:
    """Raise `RunError` when the broker has died."""
    if not broker.alive():
        raise RunError(f"the {broker.kind} broker died")


class Runner:
    """Starts the processes of one fleet on a running broker."""

    def __init__(
        self,
        *,
        scenario: Scenario,
        supervisor: Supervisor,
        broker: Broker,
        workdir: Path,
        policy: Path,
        epoch_file: Path,
        kernel: Path,
        secured: TlsFleet | None,
    ) -> None:
        self._secured = secured
        self._kernel = kernel
        self._faults = faults_of_hosts(
            scenario.faults, scenario.swarms, named_seed(scenario.seed, "struck")
        )
        self._policy = policy
        self._scenario = scenario
        self._epoch_file = epoch_file
        self._supervisor = supervisor
        self._broker = broker
        self._workdir = workdir

    def play(self, folder: RunFolder, dispatcher: Dispatcher) -> dict[str, Any]:
        """Play one run in its folder and return its summary."""
        scenario = self._scenario
        self._fakes = FakeHosts(
            scenario,
            self._supervisor,
            self._workdir / dispatcher,
            self._broker.url,
            self._secured,
        )
        devices = self._fakes.start(dispatcher)
        hosts = [
            self._start_hosts(together, folder, dispatcher)
            for together in processes(scenario.hosts)
        ]
        self._fakes.arm(lambda: check_broker(self._broker))
        controller = self._supervisor.start(
            f"controller-{dispatcher}", self._controller_command(folder, dispatcher)
        )
        title = "steering" if dispatcher == "policy" else "control run, uniformly random"
        with Progress(title, total=scenario.steps) as progress:
            code = self._supervisor.wait(controller, lambda: self._watch(controller, progress))
        if code != 0:
            raise RunError(f"the controller {controller.how_it_ended()}")
        self._supervisor.stop(hosts)
        self._supervisor.stop(devices)
        self._fakes.keep_records(folder.path / "robots")
        summary = folder.read_summary()
        if summary is None:
            raise RunError("the controller ended without a summary")
        return summary

    def _watch(self, controller: Child, progress: Progress) -> None:
        """Show the controller's last `step=.. ..` line; notice a dead broker."""
        check_broker(self._broker)
        words = controller.last_words()
        if words.startswith("step="):
            step, _, detail = words.partition(" ")
            progress.update(int(step.removeprefix("step=")) + 1, detail)

    def _start_hosts(
        self, hosts: list[HostSection], folder: RunFolder, dispatcher: Dispatcher
    ) -> Child:
        """Start the process of a host, or of several simulated ones that share it."""
        scenario = self._scenario
        host, *others = hosts
        if host.kind == "firmware":
            return self._start_board(host, folder, dispatcher)
        command = [
            *_kofn("swarm" if host.kind == "swarm" else "robot"),
            *self._wire(host.name),
            *("--host", host.name),
            *("--seed", str(scenario.seed)),
            *("--speed", repr(scenario.time.speed)),
            *("--period", repr(scenario.time.period_s)),
            *("--arena", msgspec.json.encode(scenario.arena).decode()),
            *("--log", str(folder.hosts / f"{host.name}.jsonl")),
        ]
        if host.kind == "swarm":
            command += ["--robots", str(host.robots), "--world", host.world]
            command += ["--pace", scenario.pace, "--fidelity", host.fidelity]
            command += ["--robot", msgspec.json.encode(scenario.robot).decode()]
            if faults := self._faults[host.name]:
                command += ["--faults", msgspec.json.encode(faults).decode()]
            if kernel := self._kernel_of(host):
                command += ["--kernel", kernel]
            if others:
                file = self._workdir / f"{host.process}-{dispatcher}.json"
                more = [self._more(other, folder) for other in others]
                command += ["--with", str(write_atomic(file, msgspec.json.encode(more)))]
        else:
            command += ["--zone", str(host.zone)]
            command += ["--safety", msgspec.json.encode(scenario.safety).decode()]
            if host.fake:
                command += self._fakes.options(host)
            else:
                settings = msgspec.json.encode(host.settings).decode()
                command += ["--driver", host.driver, "--settings", settings]
        name = host.process if others else host.name
        return self._supervisor.start(f"{name}-{dispatcher}", command)

    def _kernel_of(self, host: HostSection) -> str:
        """Motion kernel of a finite world, "" for others."""
        if host.world != "finite":
            return ""
        kernel = host.kernel or str(self._kernel)
        # The host writes it into its log: no relative path.
        return str(Path(kernel).absolute()) if kernel.endswith(".npz") else kernel

    def _more(self, host: HostSection, folder: RunFolder) -> MoreHost:
        """What a host that shares a process does not have in common with the first of it."""
        log = str(folder.hosts / f"{host.name}.jsonl")
        more = MoreHost(
            host=host.name,
            robots=host.robots,
            world=host.world,
            fidelity=host.fidelity,
            kernel=self._kernel_of(host),
            log=log,
        )
        if self._secured is not None:
            files, keys = self._secured.files(host.name), self._secured.message_keys(host.name)
            return msgspec.structs.replace(
                more,
                tls_cert=str(files.certificate),
                tls_key=str(files.key),
                message_keys=None if keys is None else str(keys),
            )
        if self._broker.kind == "url":
            return more
        return msgspec.structs.replace(more, credentials=str(self._workdir / f"{host.name}.json"))

    def _start_board(self, host: HostSection, folder: RunFolder, dispatcher: Dispatcher) -> Child:
        """Start the firmware of one board in the unix port; somebody holds its arm button."""
        scenario = self._scenario
        address = parse_url(self._broker.url)
        place = self._workdir / "boards" / f"{host.name}-{dispatcher}"
        user, password = None, None
        if self._secured is None and self._broker.kind != "url":
            user, password = read_credentials(self._workdir / f"{host.name}.json")
        speed, period_ms = scenario.time.speed, round(1000 * scenario.time.period_s)
        safety = scenario.safety
        settings = BoardSettings(
            fleet=scenario.name,
            host=host.name,
            robot=robot_names(host.name, 1)[0],
            broker=BoardBroker(
                host=address.host,
                port=address.port,
                user=user or "",
                password=password or "",
                **self._board_certificates(host.name, place),
            ),
            token_sha256=token_hash(secrets.token_hex(16)),
            arena=msgspec.to_builtins(scenario.arena),
            start_zone=host.zone,
            seed=named_seed(scenario.seed, host.name) % 2**31,
            option_ms=period_ms,
            hold_ms=min(3 * period_ms, 600_000),
            # Fleet time runs faster on the bench, the machine does not.
            deadman_ms=min(2000, round(1000 * safety.deadman_s * max(1.0, speed))),
            link_ms=min(10_000, round(1000 * safety.link_s * max(1.0, speed))),
            pose_max_age_ms=round(1000 * safety.pose_max_age_s),
            speed=speed,
            log=str((folder.hosts / f"{host.name}.jsonl").absolute()),
        )
        folder.hosts.mkdir(parents=True, exist_ok=True)
        return self._supervisor.start(f"{host.name}-{dispatcher}", prepare_bench(place, settings))

    def _board_certificates(self, name: str, place: Path) -> dict[str, str]:
        """Put a board's certificates beside its settings, in the form that its TLS reads."""
        if self._secured is None:
            return {}
        files, names = self._secured.files(name), {"server_name": self._secured.server_name}
        for what, file in (("ca", files.ca), ("cert", files.certificate), ("key", files.key)):
            assert file is not None  # noqa: S101  a member has all three
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            names[what] = str(place / f"{what}.der")
            write_atomic(Path(names[what]), to_der(file.read_bytes(), str(file)))
        return names

    def _controller_command(self, folder: RunFolder, dispatcher: Dispatcher) -> list[str]:
        scenario = self._scenario
        own = self._workdir / ALLOW_LIST
        return [
            *_kofn("controller"),
            *self._wire("controller"),
            *("--policy", str(self._policy)),
            *("--k", str(scenario.k)),
            *("--robots", str(scenario.robots)),
            *("--steps", str(scenario.steps)),
            *("--period", repr(scenario.time.period_s)),
            *("--speed", repr(scenario.time.speed)),
            *("--seed", str(scenario.seed)),
            *("--memory", str(scenario.policy.memory)),
            *("--dispatcher", dispatcher),
            *("--folder", str(folder.path)),
            *("--epoch-file", str(self._epoch_file)),
            *("--polling", msgspec.json.encode(scenario.polling).decode()),
            *("--hosts", str(self._secured.allow_list if self._secured else own)),
            *("--beat", "0.5" if any(h.physical for h in scenario.hosts) else "0"),
            *(
                ()
                if scenario.metrics_port is None
                else ("--metrics-port", str(scenario.metrics_port))
            ),
            "--steps-to-log",
        ]

    def _wire(self, user: str) -> list[str]:
        if self._secured is not None:
            login = self._secured.options(user)
        elif self._broker.kind != "url":
            login = ["--credentials", str(self._workdir / f"{user}.json")]
        else:
            login = []  # somebody else's broker does not know our passwords
        return [
            *("--fleet", self._scenario.name),
            *("--broker", self._broker.url),
            *("--mqtt", self._broker.protocol),
            *login,
        ]


def processes(hosts: Sequence[HostSection]) -> list[list[HostSection]]:
    """Hosts by the process that serves them, in the order of the first of each."""
    together: dict[str, list[HostSection]] = {}
    for host in hosts:
        key = f"process {host.process}" if host.process else host.name  # names hold no blanks
        together.setdefault(key, []).append(host)
    return list(together.values())


def _kofn(verb: str) -> list[str]:
    return [sys.executable, "-m", "kofn.launch", verb]
