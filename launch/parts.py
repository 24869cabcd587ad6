# SPDX-License-Identifier: MIT
"""The parts of a fleet as single processes: how they connect, and how they run until stopped.

`kofn up` starts them; `kofn swarm` (see `swarm_host`), `robot` (`robot_host`) and `controller`
start one by hand.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.clock import Clock, MonotonicClock
from kofn.controller.link.hostlog import HostLog
from kofn.controller.link.mqtt import MqttTransport, Protocol
from kofn.controller.link.secret_files import read_secret, write_atomic
from kofn.controller.link.signing import SignedMqttTransport, check_keys, read_keys
from kofn.controller.link.tls import TlsFiles
from kofn.controller.link.transport import Transport
from kofn.controller.loop import ControlLoop
from kofn.controller.metrics import Metrics
from kofn.controller.metrics_server import MetricsServer
from kofn.controller.record import RunFolder
from kofn.controller.results import Checkpoint, Decision, Summary
from kofn.hardware.agent import HostAgent
from kofn.hardware.driver import Bank
from kofn.hardware.guard import HostGuard
from kofn.launch.seeds import named_seed
from kofn.launch.settling import settle
from kofn.launch.signals import StopFlag


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How a process reaches the broker and as whom.

    `protocol` is "auto", "5" or "3.1.1"; after 1.5 times `keepalive_s` of silence the broker tells
    the others that this process is gone. With `keys` (host -> key) what hosts and controller say to
    each other is signed.
    """

    fleet: str
    url: str
    username: str | None = None
    password: str | None = None
    protocol: Protocol = "auto"
    tls: TlsFiles | None = None
    insecure_lab: bool = False
    keepalive_s: int = 15
    keys: dict[str, bytes] | None = None

    def check(self) -> None:
        """Raise `InputError` when this cannot be a connection, before anything is started."""
        self.transport(MonotonicClock())

    def transport(self, clock: Clock) -> MqttTransport:
        """Return a transport that is not open yet."""
        options: dict[str, Any] = {
            "username": self.username,
            "password": self.password,
            "protocol": self.protocol,
            "tls": self.tls,
            "insecure_lab": self.insecure_lab,
            "keepalive_s": self.keepalive_s,
        }
        if self.keys is None:
            return MqttTransport(self.url, clock, **options)
        return SignedMqttTransport(self.url, clock, keys=self.keys, **options)

    def check_host_key(self, host: str) -> None:
        """Raise `InputError` where messages are signed and this host has no key."""
        if self.keys is not None:
            check_keys(self.keys, [host])


def read_credentials(path: Path | None) -> tuple[str | None, str | None]:
    """Return (user name, password) from a JSON file that only its owner can read.

    Without a file, from the environment (KOFN_USERNAME, KOFN_PASSWORD); (None, None) without both.
    """
    if path is None:
        username, password = os.environ.get("KOFN_USERNAME"), os.environ.get("KOFN_PASSWORD")
        if (username is None) != (password is None):
            raise InputError("KOFN_USERNAME and KOFN_PASSWORD belong together in the environment")
        return username, password
    try:
        table = msgspec.json.decode(read_secret(path), type=dict[str, str])
        return table["username"], table["password"]
    except (msgspec.MsgspecError, KeyError):
        raise InputError(f"{path} must be JSON with the keys username and password") from None


def connect(
    fleet: str,
    url: str,
    credentials: Path | None,
    protocol: Protocol,
    tls: TlsFiles | None,
    insecure_lab: bool,
    message_keys: Path | None = None,
) -> Connection:
    """Return a connection with the credentials that are found; raises `InputError`."""
    username, password = read_credentials(credentials)
    connection = Connection(
        fleet=fleet,
        url=url,
        username=username,
        password=password,
        protocol=protocol,
        tls=tls,
        insecure_lab=insecure_lab,
        keys=None if message_keys is None else read_keys(message_keys),
    )
    connection.check()
    return connection


def write_credentials(path: Path, username: str, password: str) -> Path:
    """Write a credentials file that only its owner can read; return its path."""
    return write_atomic(path, msgspec.json.encode({"username": username, "password": password}))


def robot_names(host: str, robots: int) -> list[str]:
    """Names on the wire of the robots that a host process of ours speaks for."""
    return [f"{host}.r{i}" for i in range(robots)]


def run_controller(
    connection: Connection,
    config: ControllerConfig,
    *,
    policy: Policy,
    folder: RunFolder,
    epoch: int,
    speed: float = 1.0,
    progress: Callable[[Decision], None] | None = None,
    resume_from: Checkpoint | None = None,
    allow_list: AllowList | None = None,
    metrics_port: int | None = None,
) -> Summary:
    """Steer a fleet for one run, or for what is left of one; return its summary.

    Raises
    ------
    InputError
        The folder holds a run already.
    RunError
        The fleet did not appear, vanished, or the run was stopped by a signal.
    """
    clock = MonotonicClock(speed)
    stop = StopFlag()
    metrics = Metrics()
    loop = ControlLoop(
        config,
        policy,
        connection.transport(clock),
        clock,
        folder,
        epoch,
        progress=progress,
        at_start=settle,
        metrics=metrics,
        should_stop=stop,
        resume_from=resume_from,
        allow_list=allow_list,
    )
    with ExitStack() as stack:
        if metrics_port is not None:
            stack.enter_context(MetricsServer(metrics_port, metrics.text))
        summary = loop.run()
    if stop():
        raise RunError(
            f"stopped by {stop.signal} after {summary.first_step + summary.steps} of "
            f"{config.steps} steps; "
            f"what was recorded is in {folder.path}"
        )
    return summary


@contextmanager
def log_of(path: Path | None) -> Iterator[HostLog | None]:
    """Open a host's log for a block; None without a path."""
    if path is None:
        yield None
        return
    with HostLog(path) as log:
        yield log


def make_agent(
    connection: Connection,
    host: str,
    bank: Bank,
    clock: Clock,
    seed: int,
    log: HostLog | None,
    *,
    transport: Transport | None = None,
    guard: HostGuard | None = None,
    kind: type[HostAgent] = HostAgent,
) -> HostAgent:
    """Return the agent of a host, not open yet; `seed` is that of the run."""
    return kind(
        fleet=connection.fleet,
        host=host,
        bank=bank,
        transport=connection.transport(clock) if transport is None else transport,
        clock=clock,
        seed=named_seed(seed, "actions"),
        log=log,
        software=f"kofn {version('kofn')}",
        guard=guard,
    )


def serve(
    connection: Connection,
    host: str,
    bank: Bank,
    clock: Clock,
    seed: int,
    log: HostLog | None,
    guard: HostGuard | None = None,
    made: Callable[[HostAgent], object] = lambda _: None,
) -> dict[str, int]:
    """Run the agent of a robot as `attend` does; `made` is told of it first."""
    agent = make_agent(connection, host, bank, clock, seed, log, guard=guard)
    made(agent)
    attend([agent], agent.run)
    return agent.counters


def attend(agents: Sequence[HostAgent], run: Callable[[StopFlag], None]) -> None:
    """Open host agents and run them until SIGTERM (returns) or Ctrl-C (raises)."""
    with ExitStack() as stack:
        for agent in agents:
            agent.open()
            stack.callback(agent.close)
        settle()
        stop = StopFlag()
        run(stop)
    if stop.signal == "Ctrl-C":
        names = ", ".join(agent.host for agent in agents)
        what = "host" if len(agents) == 1 else "hosts"
        raise RunError(f"{what} {names} stopped by Ctrl-C, robots hold")
