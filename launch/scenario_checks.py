# SPDX-License-Identifier: MIT
"""What a scenario's keys must be together, so that nothing is started that could not work.

Each refusal is one sentence that names the host or key, and the limit.
"""

from typing import TYPE_CHECKING

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.topics import check_host, check_name
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.firmware_bench import find_micropython
from kofn.hardware.ring import RingLayout
from kofn.hardware.vda_bank import read_settings
from kofn.sim.faults import check_faults
from kofn.sim.world import check_period
from kofn.sim.worlds import WORLDS

if TYPE_CHECKING:
    from kofn.launch.scenario import HostSection, Scenario

MIN_PERIOD_S, MAX_PERIOD_S = 0.1, 1e6
MAX_SPEED = 1000.0
AUTO = "auto"
"""Value of `broker.tls` that makes an authority for the run alone."""
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


def check_scenario(scenario: "Scenario") -> None:
    """Check what needs more than one key.

    Raises
    ------
    InputError
        Naming the host or key, and the limit.
    """
    check_name("run", scenario.name)
    if not scenario.name.strip("."):
        raise InputError(f"run name {scenario.name!r} must hold more than dots: it names a file")
    if not scenario.hosts:
        raise InputError("scenario names no [[hosts]]: at least one is needed")
    if scenario.broker.tls and (
        scenario.broker.choice not in ("auto", "mosquitto") or scenario.broker.port
    ):
        raise InputError(
            f"broker.tls {scenario.broker.tls!r} starts the mosquitto of that authority on its "
            "port: it takes neither another choice nor a port"
        )
    if scenario.broker.signed:
        _check_signed(scenario)
    names = [check_host(host.name) for host in scenario.hosts]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise InputError(f"host name {min(doubled)!r} is used twice in [[hosts]]")
    for host in scenario.hosts:
        _check_host(scenario, host)
    check_faults(scenario.faults, scenario.swarms, scenario.arena.zones)
    check_poll_size(scenario.k, scenario.robots)
    if scenario.steps < 1:
        raise InputError(f"steps {scenario.steps} must be at least 1")
    check_time(scenario.time.period_s, scenario.time.speed)
    scenario.safety.checked()
    if scenario.swarms:
        check_period(scenario.time.period_s)
    if scenario.pace == "lockstep" and scenario.time.speed != 1.0:
        raise InputError(
            f"speed {scenario.time.speed:g} needs pace 'realtime': lockstep is as fast as it can"
        )
    ControllerConfig(  # refuses what the controller would refuse
        fleet=scenario.name,
        k=scenario.k,
        steps=scenario.steps,
        robots=scenario.robots,
        **msgspec.to_builtins(scenario.polling),
    )


def _check_signed(scenario: "Scenario") -> None:
    """Refuse signed messages where nobody has keys, or a host cannot sign."""
    if not scenario.broker.tls:
        raise InputError(
            "broker.signed needs the message keys of an authority: set broker.tls to its "
            f"folder, or to {AUTO!r}"
        )
    for host in scenario.hosts:
        if host.kind == "firmware":
            raise InputError(
                f"host {host.name!r} is a board, whose firmware does not sign its messages: "
                "broker.signed must be false"
            )


def _check_host(scenario: "Scenario", host: "HostSection") -> None:
    """Refuse a host that the arena, its kind or its driver does not allow."""
    _check_device(scenario, host)
    if host.physical and host.robots != 1 and host.kind != "fake-vda5050":
        raise InputError(f"host {host.name!r} of kind {host.kind!r} has 1 robot, not {host.robots}")
    if host.kind == "robot":
        make_driver(host.driver, MonotonicClock(), host.settings)  # refuses what is unknown
    if host.kind == "firmware":
        find_micropython()  # refuses where there is none
    if host.physical and not isinstance(scenario.arena, RingLayout):
        raise InputError(f"host {host.name!r} of kind {host.kind!r} needs a ring, not a grid")
    if host.kind == "swarm":
        _check_swarm(scenario, host)
    if host.process:
        _check_process(scenario, host)
    if host.zone >= scenario.arena.zones:
        raise InputError(
            f"host {host.name!r} starts in zone {host.zone}, the arena has zones "
            f"0 to {scenario.arena.zones - 1}"
        )


def _check_device(scenario: "Scenario", host: "HostSection") -> None:
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
    if scenario.time.speed != 1.0:
        raise InputError(
            f"host {host.name!r} of kind {host.kind!r} runs at speed 1, not "
            f"{scenario.time.speed:g}: its driver and device know no other time"
        )
    if host.fake != "vda5050":
        where = {} if host.fake == "rosbridge" else {"port": "fake"}
        make_driver(host.fake, MonotonicClock(), host.settings | where)
        return
    if not scenario.broker.tls:
        raise InputError(
            f"host {host.name!r}: fake vehicles share the fleet's broker by certificates; "
            f"set broker.tls = {AUTO!r}"
        )
    probe = {"url": "mqtt://127.0.0.1", "vehicles": [{"manufacturer": "a", "serial": "b"}]}
    nodes = [{"id": f"z{i}", "x": 0, "y": 0} for i in range(3)]
    read_settings({**host.settings, **probe, "nodes": nodes})


def _check_process(scenario: "Scenario", host: "HostSection") -> None:
    if host.physical:
        raise InputError(
            f"host {host.name!r} of kind {host.kind!r} has a process of its own: process "
            "names one that simulated hosts share"
        )
    if any(fault.host in ("", host.name) for fault in scenario.faults):
        raise InputError(
            f"host {host.name!r} has faults and shares process {host.process!r}: give it one "
            "of its own"
        )


def _check_swarm(scenario: "Scenario", host: "HostSection") -> None:
    """Refuse robots that the host's world cannot hold."""
    from kofn.sim.bullet import MAX_ROBOTS

    if host.world not in WORLDS:
        raise InputError(
            f"host {host.name!r}: unknown world {host.world!r}; known are {', '.join(WORLDS)}"
        )
    if host.world != "finite" and host.robots > scenario.arena.capacity:
        raise InputError(
            f"host {host.name!r}: {host.robots} robots do not fit, this {scenario.arena.shape} "
            f"holds 1 to {scenario.arena.capacity} robots"
        )
    if host.world == "bullet" and host.robots > MAX_ROBOTS:
        raise InputError(
            f"host {host.name!r}: {host.robots} robots in world 'bullet', it holds at most "
            f"{MAX_ROBOTS}; take world 'kinematic', or more hosts"
        )
    if host.world != "bullet" and (host.fidelity != "default" or scenario.robot.urdf):
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
