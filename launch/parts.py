# SPDX-License-Identifier: MIT
"""The parts of a fleet as single processes: one simulated host, one robot, the controller.

`kofn up` starts each of them as a process of its own; `kofn swarm`, `robot` and `controller` start
one by hand.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import load_game
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.clock import Clock, MonotonicClock
from kofn.controller.link.hostlog import NAMED_ROBOTS, HostLog
from kofn.controller.link.messages import Pace
from kofn.controller.link.mqtt import MqttTransport, Protocol
from kofn.controller.link.secret_files import read_secret, write_atomic
from kofn.controller.link.signing import SignedMqttTransport, check_keys, read_keys
from kofn.controller.link.tls import TlsFiles
from kofn.controller.link.topics import check_host
from kofn.controller.link.transport import Transport
from kofn.controller.loop import ControlLoop
from kofn.controller.metrics import Metrics
from kofn.controller.metrics_server import MetricsServer
from kofn.controller.record import RunFolder
from kofn.controller.results import Checkpoint, Decision, Summary
from kofn.hardware.agent import HostAgent
from kofn.hardware.arena import Layout
from kofn.hardware.driver import Bank
from kofn.hardware.guard import HostGuard
from kofn.hardware.ring import RingLayout
from kofn.launch.scenario import check_time
from kofn.launch.seeds import named_seed
from kofn.launch.settling import settle
from kofn.launch.signals import StopFlag
from kofn.sim.faults import Fault, check_faults
from kofn.sim.faulty_transport import FaultyTransport
from kofn.sim.injector import Injector
from kofn.sim.motion import MotionKernel
from kofn.sim.robots import RobotSpec
from kofn.sim.world import World
from kofn.sim.worlds import Fidelity, check_zones, make_world


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


class SwarmConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One host process with simulated robots."""

    host: str
    robots: int
    world: str = "bullet"
    pace: Pace = "lockstep"
    speed: float = 1.0
    period_s: float = 6.0
    seed: int = 0
    layout: Layout = RingLayout()
    fidelity: Fidelity = "default"
    robot: RobotSpec = RobotSpec()
    kernel: str = ""
    gui: bool = False
    faults: tuple[Fault, ...] = ()
    log: Path | None = None


def read_kernel(name: str) -> MotionKernel:
    """Return a motion kernel from an `.npz` file, or that of a game by its name."""
    if name.endswith(".npz"):
        return MotionKernel.load(Path(name))
    return MotionKernel.of_game(load_game(name))


def make_swarm(config: SwarmConfig) -> World:
    """Return the world of a host, not reset yet.

    Raises
    ------
    InputError
        Unknown world, robots that do not fit, or a kernel that cannot be read.
    RunError
        The simulator is missing, or there is no display for its window.
    """
    kernel = read_kernel(config.kernel or "arena") if config.world == "finite" else None
    return make_world(
        config.world,
        config.robots,
        config.layout,
        period_s=config.period_s,
        robot=config.robot,
        fidelity=config.fidelity,
        gui=config.gui,
        kernel=kernel,
    )


def make_injector(config: SwarmConfig) -> Injector | None:
    """Return the faults of a host's robots; None when there are none."""
    if not config.faults:
        return None
    seed = named_seed(config.seed, "faults")
    return Injector(config.faults, config.robots, seed=seed, host=config.host)


def run_swarm(connection: Connection, config: SwarmConfig) -> dict[str, int]:
    """Simulate robots and take part until stopped; return what was counted.

    Raises
    ------
    InputError
        Unknown world, or robots that do not fit.
    RunError
        The broker does not answer, or the simulator is missing.
    """
    from kofn.sim.bank import WorldBank
    from kofn.sim.quiet import quiet_stdout

    check_host(config.host)
    connection.check_host_key(config.host)
    check_time(config.period_s, config.speed)
    check_faults(config.faults, {config.host: config.robots}, config.layout.zones)
    clock = MonotonicClock(config.speed)
    if in_counts(config):
        return _run_crowd(connection, config, clock)
    with quiet_stdout(), log_of(config.log) as log:
        injector = make_injector(config)
        bank = WorldBank(
            make_swarm(config),
            robot_names(config.host, config.robots),
            seed=named_seed(config.seed, "world", config.host),
            pace=config.pace,
            clock=clock,
            log=log,
            host=config.host,
            config=msgspec.to_builtins(msgspec.structs.replace(config, log=None)),
            injector=injector,
        )
        transport: Transport = connection.transport(clock)
        if injector is not None:
            transport = FaultyTransport(
                transport,
                injector,
                robots=bank.robots,
                clock=clock,
                fleet=connection.fleet,
                note=(lambda _: None) if log is None else log.write,
            )
        return serve(connection, config.host, bank, clock, config.seed, log, transport=transport)


def in_counts(config: SwarmConfig) -> bool:
    """Whether a host keeps counts of its robots instead of each of them.

    A finite world of so many robots that logs hold counts in any case, and no fault that would
    single some of them out.
    """
    return config.world == "finite" and config.robots > NAMED_ROBOTS and not config.faults


def _run_crowd(connection: Connection, config: SwarmConfig, clock: Clock) -> dict[str, int]:
    """Take part with robots in counts until stopped; return what was counted."""
    from kofn.sim.crowd import Crowd
    from kofn.sim.crowd_host import CrowdAgent, CrowdBank, CrowdLog

    kernel = read_kernel(config.kernel or "arena")
    check_zones(kernel, config.layout)
    crowd = Crowd(config.robots, kernel)
    with nullcontext() if config.log is None else CrowdLog(config.log, crowd) as log:
        bank = CrowdBank(
            crowd,
            robot_names(config.host, config.robots),
            seed=named_seed(config.seed, "world", config.host),
            pace=config.pace,
            clock=clock,
            option_s=config.period_s,
            log=log,
            host=config.host,
            config=msgspec.to_builtins(msgspec.structs.replace(config, log=None)),
        )
        return serve(connection, config.host, bank, clock, config.seed, log, kind=CrowdAgent)


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


def serve(
    connection: Connection,
    host: str,
    bank: Bank,
    clock: Clock,
    seed: int,
    log: HostLog | None,
    guard: HostGuard | None = None,
    transport: Transport | None = None,
    made: Callable[[HostAgent], object] = lambda _: None,
    kind: type[HostAgent] = HostAgent,
) -> dict[str, int]:
    """Run a host agent until SIGTERM (returns) or Ctrl-C (raises); `made` is told of it first."""
    agent = kind(
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
    made(agent)
    agent.open()
    settle()
    stop = StopFlag()
    try:
        agent.run(stop)
    finally:
        agent.close()
    if stop.signal == "Ctrl-C":
        raise RunError(f"host {agent.host} stopped by Ctrl-C, its robots hold")
    return agent.counters
