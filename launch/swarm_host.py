# SPDX-License-Identifier: MIT
"""Hosts of simulated robots as a process: `kofn swarm`."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.core.presets import load_game
from kofn.controller.link.clock import Clock, MonotonicClock
from kofn.controller.link.hostlog import NAMED_ROBOTS
from kofn.controller.link.messages import Pace
from kofn.controller.link.topics import check_host
from kofn.hardware.agent import HostAgent
from kofn.hardware.arena import Layout
from kofn.hardware.host_pool import HostPool
from kofn.hardware.ring import RingLayout
from kofn.launch.parts import Connection, attend, log_of, make_agent, robot_names
from kofn.launch.scenario_checks import check_time
from kofn.launch.seeds import named_seed
from kofn.sim.faults import Fault, check_faults
from kofn.sim.faulty_transport import FaultyTransport
from kofn.sim.injector import Injector
from kofn.sim.motion import MotionKernel
from kofn.sim.robots import RobotSpec
from kofn.sim.world import World
from kofn.sim.worlds import Fidelity, check_zones, make_world

if TYPE_CHECKING:
    from kofn.controller.link.transport import Transport


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


class MoreHost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One further host of a process, in the file of `kofn swarm --with`.

    World, fidelity and kernel are those of the options where they are None, and all that is not
    here is; login and log are its own. Files as paths.
    """

    host: str
    robots: int
    world: str | None = None
    fidelity: Fidelity | None = None
    kernel: str | None = None
    credentials: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    message_keys: str | None = None
    log: str | None = None

    def config(self, like: SwarmConfig) -> SwarmConfig:
        """The swarm of this host, else like another."""
        chosen = {"world": self.world, "fidelity": self.fidelity, "kernel": self.kernel}
        return msgspec.structs.replace(
            like,
            host=self.host,
            robots=self.robots,
            log=None if self.log is None else Path(self.log),
            **{key: value for key, value in chosen.items() if value is not None},
        )


def read_more(path: Path) -> list[MoreHost]:
    """Read the further hosts of a process; raises `InputError`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[MoreHost])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path} is not a list of hosts: {error}") from error


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


def run_swarms(hosts: Sequence[tuple[Connection, SwarmConfig]]) -> list[dict[str, int]]:
    """Simulate the robots of some hosts in this process until stopped; return what each counted.

    Raises
    ------
    InputError
        Unknown world, or robots that do not fit; hosts of one name or of different speeds; faults
        where there are several hosts: loss and delay of messages are made in the connection of a
        process of its own.
    RunError
        The broker does not answer, or the simulator is missing.
    """
    from kofn.sim.quiet import quiet_stdout

    names = [config.host for _, config in hosts]
    if len(set(names)) < len(names):
        raise InputError(f"hosts of one process need names of their own: {', '.join(names)}")
    if len({config.speed for _, config in hosts}) > 1:
        raise InputError("hosts of one process run at one speed")
    for connection, config in hosts:
        if len(hosts) > 1 and config.faults:
            raise InputError(f"host {config.host!r} has faults: it needs a process of its own")
        check_host(config.host)
        connection.check_host_key(config.host)
        check_time(config.period_s, config.speed)
        check_faults(config.faults, {config.host: config.robots}, config.layout.zones)
    clock = MonotonicClock(hosts[0][1].speed)
    with quiet_stdout(), ExitStack() as logs:
        members = [_swarm_host(connection, config, clock, logs) for connection, config in hosts]
        agents = [agent for agent, _ in members]
        if len(members) == 1:
            attend(agents, agents[0].run)
        else:
            attend(agents, HostPool(members, clock).run)
    return [agent.counters for agent in agents]


def _swarm_host(
    connection: Connection, config: SwarmConfig, clock: Clock, logs: ExitStack
) -> tuple[HostAgent, Any]:
    """Return the agent of a swarm and its transport; its log is closed with `logs`."""
    if in_counts(config):
        return _crowd_host(connection, config, clock, logs)
    from kofn.sim.bank import WorldBank

    log = logs.enter_context(log_of(config.log))
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
    host, seed = config.host, config.seed
    return make_agent(connection, host, bank, clock, seed, log, transport=transport), transport


def in_counts(config: SwarmConfig) -> bool:
    """Whether a host keeps counts of its robots instead of each of them.

    A finite world of so many robots that logs hold counts in any case, and no fault that would
    single some of them out.
    """
    return config.world == "finite" and config.robots > NAMED_ROBOTS and not config.faults


def _crowd_host(
    connection: Connection, config: SwarmConfig, clock: Clock, logs: ExitStack
) -> tuple[HostAgent, Any]:
    """As `_swarm_host`, with robots in counts."""
    from kofn.sim.crowd import Crowd
    from kofn.sim.crowd_host import CrowdAgent, CrowdBank, CrowdLog

    kernel = read_kernel(config.kernel or "arena")
    check_zones(kernel, config.layout)
    crowd = Crowd(config.robots, kernel)
    log = None if config.log is None else logs.enter_context(CrowdLog(config.log, crowd))
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
    transport = connection.transport(clock)
    agent = make_agent(
        connection,
        config.host,
        bank,
        clock,
        config.seed,
        log,
        transport=transport,
        kind=CrowdAgent,
    )
    return agent, transport
