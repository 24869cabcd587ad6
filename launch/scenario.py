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

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kofn.hardware.arena import Layout
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety_task import SafetySettings
from kofn.launch.scenario_checks import check_scenario
from kofn.launch.seeds import MAX_SEED
from kofn.sim.faults import Fault
from kofn.sim.robots import RobotSpec
from kofn.sim.worlds import Fidelity

MAX_COPIES = 1000
FAKES = {
    "fake-serial": "serial",
    "fake-create2": "create2",
    "fake-rosbridge": "rosbridge",
    "fake-vda5050": "vda5050",
}
"""Kinds of hosts whose devices are made by `kofn up` itself, with their drivers."""


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
        check_scenario(self)
        return self
