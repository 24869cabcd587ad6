# SPDX-License-Identifier: MIT
"""Scenario files: everything that `kofn up` starts, as TOML read into frozen structs.

```toml
name = "ring20"
seed = 1
k = 5
steps = 40

[game]
name = "arena"                 # a preset, a .toml, or module:factory
parameters = { move_success = 0.7 }

[[hosts]]
kind = "swarm"                 # or "robot", "firmware", "fake-serial" ..
name = "sim-0"
robots = 10
```

Every key has a default but `hosts`; an unknown key is refused with the keys that are known.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.topics import check_host, check_name
from kofn.hardware.arena import Layout, layout_of
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.firmware_bench import find_micropython
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety_task import SafetySettings
from kofn.hardware.vda_bank import read_settings
from kofn.launch.seeds import MAX_SEED
from kofn.sim.faults import Fault, check_faults
from kofn.sim.robots import RobotSpec
from kofn.sim.world import check_period
from kofn.sim.worlds import WORLDS, Fidelity

MIN_PERIOD_S, MAX_PERIOD_S = 0.1, 1e6
MAX_SPEED = 1000.0
AUTO = "auto"
MAX_COPIES = 1000
FAKES = {
    "fake-serial": "serial",
    "fake-create2": "create2",
    "fake-rosbridge": "rosbridge",
    "fake-vda5050": "vda5050",
}
"""Kinds of hosts whose devices are made by `kofn up` itself, with their drivers."""
FAKES_OWN = frozenset(
    {
        "port",
        "url",
        "vehicles",
        "nodes",
        "username",
        "password_env",
        "tls_ca",
        "tls_cert",
        "tls_key",
    }
)
"""Settings that say where a device is: of a fake they are not for the scenario to choose."""
MAX_WHEELED = 300
"""Robots in one bullet world: beyond it, seconds of computing go into one of theirs."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of a scenario."""


class GameSection(Section, frozen=True, kw_only=True):
    """Which game is played: a preset with parameters, a `.toml`, or `module:factory`."""

    name: str = "arena"
    parameters: dict[str, float] = {}


class PolicySection(Section, frozen=True, kw_only=True):
    """A policy file, or (file empty) how to train one for the game."""

    file: str = ""
    grid: Annotated[int, Meta(ge=1)] | None = None
    objective: Literal["team", "selfish"] = "team"
    memory: Annotated[float, Meta(ge=1, lt=1e9)] | Literal["auto", "none"] = "auto"


class BrokerSection(Section, frozen=True, kw_only=True):
    """`auto`, `mosquitto`, `amqtt` or a URL; `port` 0 picks a free one.

    `tls`: folder of an authority (`kofn ca init`) whose broker is started and whose certificates
    all processes use; its configuration says the port. `auto` makes one for this run alone.
    `signed`: polls, answers and commands are signed by the authority's message keys.
    """

    choice: str = "auto"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    tls: str = ""
    signed: bool = False


class TimeSection(Section, frozen=True, kw_only=True):
    """Length of an option and how fast fleet time passes (simulated hosts only)."""

    period_s: float = 6.0
    pace: Literal["lockstep", "realtime"] = "lockstep"
    speed: float = 1.0


class PollingSection(Section, frozen=True, kw_only=True):
    """What to do about missing answers, as in `ControllerConfig`."""

    poll_ttl_s: float | None = None
    m_min: int | None = None
    waves: Literal[1, 2] = 2
    fill: Literal["topup-first", "known-first"] = "topup-first"
    known_max_age: int = 20
    known_ageing: Literal["model", "as-seen"] = "model"
    pad: bool = True
    estimator: Literal["plain", "weighted"] = "plain"


class HostSection(Section, frozen=True, kw_only=True):
    """One host process: a simulated swarm of `robots`, one robot with a driver, or one board.

    A board ("firmware") is the MicroPython firmware on this machine, its motors in a stub. Hosts
    of the kinds "fake-.." drive devices without hardware that are started for them; `arm` says
    that these are armed, too.
    """

    kind: Literal[
        "swarm",
        "robot",
        "firmware",
        "fake-serial",
        "fake-create2",
        "fake-rosbridge",
        "fake-vda5050",
    ] = "swarm"
    name: str
    robots: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    copies: Annotated[int, Meta(ge=1, le=MAX_COPIES)] = 1
    """So many hosts like this one, NAME-0, NAME-1 .., each in the next zone."""
    process: str = ""
    """Simulated hosts that name the same process share it; by default each has one of its own."""
    world: str = "bullet"
    fidelity: Fidelity = "default"
    kernel: str = ""
    """Motion of a finite world: a file, or a game; empty is the scenario's own game."""
    driver: str = "dry_run"
    zone: Annotated[int, Meta(ge=0)] = 0
    """Zone in which a robot or a board stands at the start; vehicles in it and those after it."""
    settings: dict[str, Any] = {}
    """Of the driver."""
    arm: bool = False

    @property
    def fake(self) -> str:
        """Name of the driver whose device is a fake; "" for other kinds."""
        return FAKES.get(self.kind, "")

    @property
    def physical(self) -> bool:
        """Whether time passes for it by itself."""
        return self.kind != "swarm"


class Scenario(Section, frozen=True, kw_only=True):
    """Everything that one run needs."""

    hosts: list[HostSection]
    name: str = "run"
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] = 0
    k: int = 5
    steps: int = 40
    control: bool = False
    video: bool = True
    metrics_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    """Serve /metrics for Prometheus on this port of 127.0.0.1; 0 takes a free one."""
    game: GameSection = GameSection()
    policy: PolicySection = PolicySection()
    broker: BrokerSection = BrokerSection()
    time: TimeSection = TimeSection()
    polling: PollingSection = PollingSection()
    safety: SafetySettings = SafetySettings()
    """Time limits of hosts with drivers, and of boards."""
    arena: Layout = RingLayout()
    robot: RobotSpec = RobotSpec()
    faults: list[Fault] = []

    @property
    def robots(self) -> int:
        """Fleet size n."""
        return sum(host.robots for host in self.hosts)

    @property
    def swarms(self) -> dict[str, int]:
        """Hosts of simulated robots, with how many each has."""
        return {host.name: host.robots for host in self.hosts if host.kind == "swarm"}

    @property
    def pace(self) -> Literal["lockstep", "realtime"]:
        """Pacing of the run: one robot with a driver, or one board, makes it real time."""
        return "realtime" if any(host.physical for host in self.hosts) else self.time.pace

    def checked(self) -> "Scenario":
        """Return self after the checks that need more than one key."""
        check_name("run", self.name)
        if not self.name.strip("."):
            raise InputError(f"run name {self.name!r} must hold more than dots: it names a file")
        if not self.hosts:
            raise InputError("scenario names no [[hosts]]: at least one is needed")
        if self.broker.tls and (
            self.broker.choice not in ("auto", "mosquitto") or self.broker.port
        ):
            raise InputError(
                f"broker.tls {self.broker.tls!r} starts the mosquitto of that authority on its "
                "port: it takes neither another choice nor a port"
            )
        if self.broker.signed:
            self._check_signed()
        names = [check_host(host.name) for host in self.hosts]
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise InputError(f"host name {min(doubled)!r} is used twice in [[hosts]]")
        for host in self.hosts:
            self._check_device(host)
            if host.physical and host.robots != 1 and host.kind != "fake-vda5050":
                raise InputError(
                    f"host {host.name!r} of kind {host.kind!r} has 1 robot, not {host.robots}"
                )
            if host.kind == "robot":
                make_driver(host.driver, MonotonicClock(), host.settings)  # refuses what is unknown
            if host.kind == "firmware":
                find_micropython()  # refuses where there is none
            if host.physical and not isinstance(self.arena, RingLayout):
                raise InputError(
                    f"host {host.name!r} of kind {host.kind!r} needs a ring, not a grid"
                )
            if host.kind == "swarm":
                self._check_swarm(host)
            if host.process:
                self._check_process(host)
            if host.zone >= self.arena.zones:
                raise InputError(
                    f"host {host.name!r} starts in zone {host.zone}, the arena has zones "
                    f"0 to {self.arena.zones - 1}"
                )
        check_faults(self.faults, self.swarms, self.arena.zones)
        check_poll_size(self.k, self.robots)
        if self.steps < 1:
            raise InputError(f"steps {self.steps} must be at least 1")
        check_time(self.time.period_s, self.time.speed)
        self.safety.checked()
        if self.swarms:
            check_period(self.time.period_s)
        if self.pace == "lockstep" and self.time.speed != 1.0:
            raise InputError(
                f"speed {self.time.speed:g} needs pace 'realtime': lockstep is as fast as it can"
            )
        ControllerConfig(  # refuses what the controller would refuse
            fleet=self.name,
            k=self.k,
            steps=self.steps,
            robots=self.robots,
            **msgspec.to_builtins(self.polling),
        )
        return self

    def _check_signed(self) -> None:
        """Refuse signed messages where nobody has keys, or a host cannot sign."""
        if not self.broker.tls:
            raise InputError(
                "broker.signed needs the message keys of an authority: set broker.tls to its "
                f"folder, or to {AUTO!r}"
            )
        for host in self.hosts:
            if host.kind == "firmware":
                raise InputError(
                    f"host {host.name!r} is a board, whose firmware does not sign its messages: "
                    "broker.signed must be false"
                )

    def _check_device(self, host: HostSection) -> None:
        """Refuse settings of a device that is none, and arming of one that is no fake."""
        if host.arm and not host.fake:
            raise InputError(
                f"host {host.name!r}: arm is for devices that are fakes; a robot of kind "
                f"{host.kind!r} is armed at the robot (kofn hw arm), or needs no arming"
            )
        if host.settings and host.kind != "robot" and not host.fake:
            raise InputError(f"host {host.name!r} of kind {host.kind!r} has no driver to set")
        if not host.fake:
            return
        if own := sorted(FAKES_OWN & set(host.settings)):
            raise InputError(
                f"host {host.name!r}: setting {own[0]!r} says where a device is; that of a fake "
                "is made for it"
            )
        if self.time.speed != 1.0:
            raise InputError(
                f"host {host.name!r} of kind {host.kind!r} runs at speed 1, not "
                f"{self.time.speed:g}: its driver and device know no other time"
            )
        if host.fake != "vda5050":
            where = {} if host.fake == "rosbridge" else {"port": "fake"}
            make_driver(host.fake, MonotonicClock(), host.settings | where)
            return
        if not self.broker.tls:
            raise InputError(
                f"host {host.name!r}: fake vehicles share the fleet's broker by certificates; "
                f"set broker.tls = {AUTO!r}"
            )
        probe = {"url": "mqtt://127.0.0.1", "vehicles": [{"manufacturer": "a", "serial": "b"}]}
        nodes = [{"id": f"z{i}", "x": 0, "y": 0} for i in range(3)]
        read_settings({**host.settings, **probe, "nodes": nodes})

    def _check_process(self, host: HostSection) -> None:
        if host.physical:
            raise InputError(
                f"host {host.name!r} of kind {host.kind!r} has a process of its own: process "
                "names one that simulated hosts share"
            )
        if any(fault.host in ("", host.name) for fault in self.faults):
            raise InputError(
                f"host {host.name!r} has faults and shares process {host.process!r}: give it one "
                "of its own"
            )

    def _check_swarm(self, host: HostSection) -> None:
        """Refuse robots that the host's world cannot hold."""
        if host.world not in WORLDS:
            raise InputError(
                f"host {host.name!r}: unknown world {host.world!r}; known are {', '.join(WORLDS)}"
            )
        if host.world != "finite" and host.robots > self.arena.capacity:
            raise InputError(
                f"host {host.name!r}: {host.robots} robots do not fit, this {self.arena.shape} "
                f"holds 1 to {self.arena.capacity} robots"
            )
        if host.world == "bullet" and host.robots > MAX_WHEELED:
            raise InputError(
                f"host {host.name!r}: {host.robots} robots in world 'bullet', it holds at most "
                f"{MAX_WHEELED}; take world 'kinematic', or more hosts"
            )
        if host.world != "bullet" and (host.fidelity != "default" or self.robot.urdf):
            raise InputError(
                f"host {host.name!r}: fidelity and urdf are settings of world 'bullet', "
                f"not of {host.world!r}"
            )
        if host.kernel and host.world != "finite":
            raise InputError(f"host {host.name!r}: a kernel is for world 'finite'")


def check_poll_size(k: int, n: int) -> None:
    """Raise `InputError` unless 1 <= k <= n."""
    if k < 1:
        raise InputError(f"poll size {k} must be at least 1")
    if k > n:
        raise InputError(f"poll size {k} exceeds fleet size {n}")


def check_time(period_s: float, speed: float) -> None:
    """Raise `InputError` unless a step lasts long enough to move in, and time passes."""
    if not MIN_PERIOD_S <= period_s < MAX_PERIOD_S:
        raise InputError(
            f"period {period_s:g} s must be at least {MIN_PERIOD_S:g} and below {MAX_PERIOD_S:g} s"
        )
    if not 0 < speed <= MAX_SPEED:
        raise InputError(f"speed {speed:g} must lie above 0 and be at most {MAX_SPEED:g}")


def scenario_names() -> list[str]:
    """Names of the scenarios that come with kofn."""
    return sorted(path.stem for path in scenario_folder().glob("*.toml"))


def load_scenario(path: str) -> Scenario:
    """Read a scenario from a `.toml` file, or one of kofn's own by name.

    Raises
    ------
    InputError
        No such file, not TOML, an unknown key (with the known ones), or a value out of range.
    """
    file = Path(path)
    if file.stem in scenario_names() and not file.exists() and "/" not in path:
        file = scenario_folder() / f"{file.stem}.toml"
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"no scenario {path!r}: neither a file nor one of {', '.join(scenario_names())}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read scenario {path!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    _refuse_unknown_keys(tables, Scenario, path, "")
    arena = tables.get("arena")
    if isinstance(arena, dict):
        arena.setdefault("shape", "ring")
        try:
            layout_of(arena)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    try:
        scenario = msgspec.convert(tables, Scenario)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from error
    zones = scenario.arena.zones
    hosts = [copy for host in scenario.hosts for copy in _copies(host, zones)]
    return msgspec.structs.replace(scenario, hosts=hosts).checked()


def scenario_folder() -> Path:
    """Folder of the scenarios that come with kofn."""
    from kofn.launch import scenarios

    return Path(next(iter(scenarios.__path__)))


def _copies(host: HostSection, zones: int) -> list[HostSection]:
    """Return NAME-0, NAME-1 .., each in the next zone; a host without copies as it is."""
    if host.copies == 1:
        return [host]
    return [
        msgspec.structs.replace(
            host, copies=1, name=f"{host.name}-{i}", zone=(host.zone + i) % zones
        )
        for i in range(host.copies)
    ]


def _refuse_unknown_keys(
    table: dict[str, Any], struct: type[msgspec.Struct], path: str, where: str
) -> None:
    """Name an unknown key together with the known ones, table by table."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in fields:
            place = f" in [{where}]" if where else ""
            known = ", ".join(sorted(fields))
            raise InputError(f"{path}: unknown key {key!r}{place}; known are {known}")
        inner = fields[key].type
        if (
            isinstance(inner, type)
            and issubclass(inner, msgspec.Struct)
            and isinstance(value, dict)
        ):
            _refuse_unknown_keys(value, inner, path, key)
        elif key in {"hosts", "faults"} and isinstance(value, list):
            for row in value:
                if isinstance(row, dict):
                    kind = HostSection if key == "hosts" else Fault
                    _refuse_unknown_keys(row, kind, path, f"[{key}]")
