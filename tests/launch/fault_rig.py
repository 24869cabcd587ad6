# SPDX-License-Identifier: MIT
"""A fleet of real processes whose parts, wires and disk a test breaks.

Mosquitto, two hosts, a controller, and a proxy before each of the three clients.

Robots live in finite worlds (no physics) and steps go by real time, so that a broken part costs
steps, and not the run. `Rig.finish` ends everything and looks for what no fault excuses.
"""

import json
import signal
import socket
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from fault_proxy import FaultProxy
from kofn_process import Kofn, wait_for

from kofn.controller.core.errors import InputError
from kofn.controller.history import check_run
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.children import spawn_child
from kofn.controller.link.enrolment import create, open_office
from kofn.controller.link.hostlog import StepTaken, read_host_log
from kofn.controller.link.messages import RobotRange
from kofn.controller.link.tls import TlsFiles
from kofn.controller.record import read_decisions
from kofn.controller.results import Decision
from kofn.launch.parts import write_credentials

if TYPE_CHECKING:
    import subprocess

FLEET = "fault"
K, ROBOTS = 3, 4


class Rig:
    """Two hosts of four robots and a controller that polls three, each behind its own proxy.

    The broker also knows `guests`, as hosts.
    """

    def __init__(
        self, kofn: Kofn, policy: Path, *, period_s: float = 0.3, guests: tuple[str, ...] = ()
    ) -> None:
        self.kofn = kofn
        self.home = kofn.home
        self.period_s = period_s
        self.environment: dict[str, str] = {}
        self.disk = kofn.home
        """Where the controller's run folders are made."""
        self.folders: list[Path] = []
        self.logs: dict[str, Path] = {}
        self._policy = policy
        self._stack = ExitStack()
        names = ("controller", "a", "b")
        self._users = [
            BrokerUser(name, f"secret-{name}", "controller" if name == "controller" else "host")
            for name in (*names, *guests)
        ]
        for user in self._users:
            write_credentials(self.home / f"{user.name}.json", user.name, user.password)
        self.broker = self._start_broker(None)
        self._port = int(self.broker.url.rpartition(":")[2])
        self.proxies = {
            name: self._stack.enter_context(FaultProxy(self._port, seed))
            for seed, name in enumerate(names)
        }
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def _start_broker(self, port: int | None) -> Broker:
        return start_broker(
            "mosquitto", fleet=FLEET, users=self._users, workdir=self.home / "broker", port=port
        )

    def start(self, steps: int = 100_000) -> None:
        """Start hosts and controller; wait until the fleet is steered."""
        for host in ("a", "b"):
            self.start_host(host)
        self.start_new_controller(steps)
        self.steers()

    def start_new_controller(self, steps: int = 100_000) -> None:
        """Start a controller of the next epoch, whoever else is there."""
        self.start_controller(
            *("--policy", str(self._policy), "--k", str(K), "--robots", str(2 * ROBOTS)),
            *("--steps", str(steps), "--period", repr(self.period_s), "--seed", "3"),
            *("--fleet", FLEET, "--wait", "60"),
            *self._allow_list(),
        )

    def _allow_list(self) -> list[str]:
        return []

    def _access(self, name: str) -> list[str]:
        """Options of a process: where the broker is, and as whom."""
        return [
            *("--broker", self.proxies[name].url),
            *("--credentials", str(self.home / f"{name}.json")),
        ]

    def start_host(self, host: str) -> None:
        number = sum(name.startswith(f"{host}-") for name in self.logs)
        log = self.logs[f"{host}-{number}"] = self.home / "hosts" / f"{host}-{number}.jsonl"
        self._start(
            host,
            *("swarm", "--host", host, "--robots", str(ROBOTS), "--world", "finite"),
            *("--pace", "realtime", "--period", repr(self.period_s), "--fleet", FLEET),
            *("--log", str(log), "--json"),
        )

    def start_controller(self, *options: str) -> None:
        folder = self.disk / f"run-{len(self.folders)}"
        folder.mkdir(exist_ok=True)
        self.folders.append(folder)
        self._start(
            "controller",
            *("controller", "--folder", str(folder), "--steps-to-log", *options),
            *("--epoch-file", str(self.home / "epochs")),
        )

    def resume(self) -> None:
        """Start a controller that goes on with the last run; wait until it steers."""
        self.start_controller("--resume", str(self.folders[-1]))
        self.steers()

    def _start(self, name: str, *arguments: str) -> None:
        self.kofn.extra = self.environment
        log = self.home / f"{name}-{len(self.kofn.started)}.err"
        self.processes[name] = self.kofn.start(
            *arguments,
            *("--mqtt", "5", *self._access(name)),
            stderr=log,
        )

    def kill(self, name: str) -> None:
        """`kill -9`."""
        if name == "broker":
            assert self.broker.process is not None
            self.broker.process.kill()
            self.broker.process.wait()
        else:
            self.processes[name].kill()
            self.processes[name].wait()

    def restart_broker(self) -> None:
        """Start the broker that was killed, on the same port, without memory."""
        self.broker = self._start_broker(self._port)

    def stop(self, name: str, number: signal.Signals) -> None:
        """SIGSTOP or SIGCONT."""
        process = self.broker.process if name == "broker" else self.processes[name]
        assert process is not None
        psutil.Process(process.pid).send_signal(number)

    def decisions(self) -> list[Decision]:
        try:
            return read_decisions(self.folders[-1])
        except InputError:
            return []

    def steers(self, *, answers: int = K, steps: int = 3, timeout_s: float = 60.0) -> float:
        """Wait for new steps that so many fresh answers decided."""
        before = len(self.decisions())

        def found() -> bool:
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.errors(name)}"
            fresh = [d for d in self.decisions()[before:] if sum(d.m[:2]) >= answers]
            return len(fresh) >= steps

        return float(wait_for(found, f"{steps} steps with {answers} answers", timeout_s))

    def blind(self, steps: int = 1) -> None:
        """Wait for new steps without enough answers."""
        before = len(self.decisions())
        wait_for(lambda: sum(d.fallback for d in self.decisions()[before:]) >= steps, "blind steps")

    def holding(self, host: str, since: int) -> bool:
        """Whether a host has taken no step after its first `since`."""
        return len(self.taken(host)) <= since

    def taken(self, host: str) -> list[StepTaken]:
        """Steps that the newest process of a host took."""
        newest = max(name for name in self.logs if name.startswith(f"{host}-"))
        return _steps(self.logs[newest])

    def errors(self, name: str) -> str:
        """All that the processes of this name have written to stderr."""
        return "".join(path.read_text() for path in sorted(self.home.glob(f"{name}-*.err")))

    def finish(self) -> dict[str, dict[str, int]]:
        """End all processes and check what every run owes; return what the hosts counted."""
        counters: dict[str, dict[str, int]] = {}
        for name in ("controller", "a", "b"):
            process = self.processes[name]
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=30)
            if name != "controller" and process.returncode == 0:
                counters[name] = json.loads(stdout)["counters"]
        self.check()
        return counters

    def check(self) -> None:
        """Records are readable and by the rules; what was reported is in them; nobody went back."""
        on_record: set[int] = set()
        for folder in self.folders:
            assert check_run(folder) == []
            on_record |= {decision.t for decision in read_decisions(folder)}
        reported = {
            int(line.split()[0].removeprefix("step="))
            for line in self.errors("controller").splitlines()
            if line.startswith("step=")
        }
        assert reported <= on_record
        assert "Traceback" not in "".join(self.errors(name) for name in self.proxies)
        for log in self.logs.values():
            keys = [(row.ep, row.t) for row in _steps(log)]
            assert keys == sorted(set(keys)), f"{log} acted on something old"

    def close(self) -> None:
        self._stack.close()
        self.broker.close()


class TlsRig(Rig):
    """A rig on what `kofn ca` generates: certificates, broker configuration, rights, allow-list.

    Guests are enrolled with one robot each; `expired` is a host whose certificate has ended.
    """

    def _start_broker(self, port: int | None) -> Broker:
        self.authority = self.home / "ca"
        if port is None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            self._enroll(port)
        self.broker_log = self.home / "broker.log"
        with self.broker_log.open("ab") as log:
            process = spawn_child(
                ["mosquitto", "-c", "mosquitto.conf"], cwd=self.authority / "broker", stderr=log
            )
        wait_for(lambda: " running" in self.broker_log.read_text(), "the broker")
        return Broker("mosquitto", f"mqtts://127.0.0.1:{port}", "5", process)

    def _enroll(self, port: int) -> None:
        now = datetime.now(UTC)
        names = ["127.0.0.1"]
        create(
            self.authority, fleet=FLEET, broker_names=names, now=now, port=port, bind="127.0.0.1"
        )
        with open_office(self.authority) as office:
            for user in self._users:
                if user.role == "host":
                    count = ROBOTS if user.name in {"a", "b"} else 1
                    robots = RobotRange(prefix=f"{user.name}.r", count=count)
                    office.enroll(user.name, robots, now=now)
            office.enroll("expired", None, now=now - timedelta(days=400))
        with (self.authority / "broker" / "mosquitto.conf").open("a") as config:
            config.write("log_type information\n")  # says when it is up

    def files(self, name: str) -> TlsFiles:
        """Certificates of an identity."""
        services = ("controller", "operator", "observer")
        folder = self.authority / name if name in services else self.authority / "hosts" / name
        return TlsFiles(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")

    def _allow_list(self) -> list[str]:
        return ["--hosts", str(self.authority / "controller" / "hosts.toml")]

    def _access(self, name: str) -> list[str]:
        files = self.files(name)
        return [
            *("--broker", self.broker.url),  # the proxy reads packets, which it cannot here
            *("--tls-ca", str(files.ca)),
            *("--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
        ]


def _steps(log: Path) -> list[StepTaken]:
    """Steps in the log of a host, which may not have begun it yet."""
    if not log.exists():
        return []
    return [row for row in read_host_log(log) if isinstance(row, StepTaken)]
