# SPDX-License-Identifier: MIT
"""One robot behind a driver as a process: `kofn robot`.

Order at the start: limits and memory -> local socket -> driver, motors stopped -> DISARMED ->
broker -> presence. At the end: motors, farewell, connection, socket.
"""

import os
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.hostlog import Header
from kofn.controller.link.topics import check_host
from kofn.hardware.black_box import BlackBox
from kofn.hardware.driver_bank import DriverBank, pose_in_zone
from kofn.hardware.drivers.dry_run import DryRunDriver
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.limits_file import RobotLimits, read_limits
from kofn.hardware.local_requests import LocalRequests
from kofn.hardware.local_socket import FILE as SOCKET
from kofn.hardware.local_socket import LocalSocket
from kofn.hardware.ring import RingLayout
from kofn.hardware.safety_memory import SafetyMemory
from kofn.hardware.safety_task import Safety, SafetySettings
from kofn.launch.parts import Connection, log_of, robot_names, serve
from kofn.launch.scenario_checks import check_time
from kofn.launch.seeds import named_seed

if TYPE_CHECKING:
    from kofn.hardware.agent import HostAgent

LIMITS = "limits.toml"
EDGE = "vda5050"
"""The one driver of many robots: vehicles behind a broker of their own."""


class RobotConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One host process with one robot behind a driver.

    Attributes
    ----------
    state
        Folder of what the robot remembers: safety memory, token, self-test, black box, socket.
        None is a folder by fleet and host; a robot made of arithmetic then keeps nothing.
    limits
        The robot's limits file; None is `limits.toml` in `state`, where there is one.
    fleet_limits
        Limits of the fleet file; the stricter of both holds.
    dry_run
        Record commands in the place of motors.
    """

    host: str
    driver: str = "dry_run"
    settings: dict[str, Any] = msgspec.field(default_factory=dict)
    state: Path | None = None
    limits: Path | None = None
    fleet_limits: RobotLimits | None = None
    safety: SafetySettings = SafetySettings()
    dry_run: bool = False
    speed: float = 1.0
    period_s: float = 6.0
    seed: int = 0
    zone: int = 0
    layout: RingLayout = RingLayout()
    log: Path | None = None


def run_robot(connection: Connection, config: RobotConfig) -> dict[str, int]:
    """Speak for one robot behind a driver until stopped; return what was counted.

    Raises
    ------
    InputError
        Unknown driver (with the known ones), or a zone that the arena does not have.
    RunError
        The broker does not answer, or the driver cannot be opened.
    """
    check_host(config.host)
    connection.check_host_key(config.host)
    check_time(config.period_s, config.speed)
    if not 0 <= config.zone < config.layout.zones:
        raise InputError(f"zone {config.zone} must lie in 0..{config.layout.zones - 1}")
    clock = MonotonicClock(config.speed)
    if config.driver == EDGE:
        return _run_edge(connection, config, clock)
    driver = make_driver(config.driver, clock, config.settings)
    if config.dry_run:
        limits = driver.capabilities()
        driver = DryRunDriver(clock, v_max_mps=limits.v_max, w_max_radps=limits.w_max)
    simulated = driver.capabilities().simulated
    if not simulated and config.speed != 1.0:
        raise InputError(f"speed {config.speed:g}: time of a robot with motors runs at speed 1")
    folder = config.state
    if folder is None and not simulated:
        folder = state_folder(connection.fleet, config.host)
    name = robot_names(config.host, 1)[0]
    record = None if folder is None else BlackBox(folder, secrets.token_hex(4))
    safety = Safety(
        (name,),
        clock,
        config.safety,
        self_arming=simulated,
        memory=None if folder is None else SafetyMemory(folder),
        record=record,
    )
    robot_limits, trouble = _limits(config.limits, folder)
    if config.fleet_limits is not None:
        robot_limits = (robot_limits or RobotLimits()).lowered(config.fleet_limits)
    with log_of(config.log) as log:
        bank = DriverBank(
            driver,
            robot=name,
            layout=config.layout,
            clock=clock,
            start=pose_in_zone(config.layout, config.zone),
            option_s=config.period_s,
            seed=named_seed(config.seed, "driver", config.host),
            safety=safety,
            robot_limits=robot_limits,
            trouble=trouble,
            record=record,
            log=log,
            host=config.host,
        )
        keepalive_s = max(1, round(config.safety.link_s / 2))
        wire = msgspec.structs.replace(connection, keepalive_s=keepalive_s)
        if folder is None:
            return serve(wire, config.host, bank, clock, config.seed, log, safety)
        agents: list[HostAgent] = []
        requests = LocalRequests(
            safety,
            folder,
            simulated=simulated,
            record=record,
            limits=robot_limits or RobotLimits(),
            policies=lambda: agents[0].policies if agents else (),
            creep_home=lambda _: bank.creep_home(),
        )
        local = LocalSocket(folder / SOCKET, requests)
        try:
            local.open()
            return serve(
                wire, config.host, bank, clock, config.seed, log, safety, made=agents.append
            )
        finally:
            local.close()
            if record is not None:
                record.close()


def _run_edge(connection: Connection, config: RobotConfig, clock: MonotonicClock) -> dict[str, int]:
    """Speak for many VDA 5050 vehicles: they plan their ways themselves."""
    from kofn.hardware.vda_bank import make_bank, read_settings
    from kofn.hardware.vda_bank import robot_names as vehicle_names

    settings = read_settings(config.settings)
    if config.dry_run or config.speed != 1.0:
        raise InputError("an edge of vehicles has neither --dry-run nor another speed than 1")
    if len(settings.nodes) != config.layout.zones:
        raise InputError(
            f"{len(settings.nodes)} nodes, but the arena has {config.layout.zones} zones"
        )
    folder = config.state or state_folder(connection.fleet, config.host)
    record = BlackBox(folder, secrets.token_hex(4))
    safety = Safety(
        vehicle_names(settings), clock, config.safety, memory=SafetyMemory(folder), record=record
    )
    agents: list[HostAgent] = []
    requests = LocalRequests(
        safety,
        folder,
        record=record,
        policies=lambda: agents[0].policies if agents else (),
    )
    local = LocalSocket(folder / SOCKET, requests)
    keepalive_s = max(1, round(config.safety.link_s / 2))
    wire = msgspec.structs.replace(connection, keepalive_s=keepalive_s)
    with log_of(config.log) as log:
        bank = make_bank(settings, clock, safety, config.period_s, log)
        if log is not None:
            log.write(
                Header(
                    host=config.host,
                    robots=list(bank.robots),
                    arena=config.layout.as_arena(),
                    option_s=config.period_s,
                    seed=config.seed,
                    backend=EDGE,
                    versions={"kofn": version("kofn")},
                )
            )
        try:
            local.open()
            return serve(
                wire, config.host, bank, clock, config.seed, log, safety, made=agents.append
            )
        finally:
            local.close()
            record.close()


def state_folder(fleet: str, host: str) -> Path:
    """Folder of what a robot of this user on this machine remembers."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "kofn" / fleet / host


def table_of(option: str, text: str) -> dict[str, Any]:
    """Read the JSON object of an option."""
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputError(f"{option} must be a JSON object: {error}") from error


def safety_of(option: str, text: str, others: dict[str, float] | None = None) -> SafetySettings:
    """Read time limits from the JSON of an option; `others` hold where it sets none."""
    try:
        table = {**(others or {}), **table_of(option, text)}
        return msgspec.convert(table, SafetySettings).checked()
    except msgspec.MsgspecError as error:
        raise InputError(f"{option}: {error}") from error


def _limits(path: Path | None, folder: Path | None) -> tuple[RobotLimits | None, str | None]:
    """Return the limits, and why the robot must stay in FAULT if they cannot be read."""
    if path is None:
        path = folder / LIMITS if folder is not None else None
        if path is None or not path.exists():
            return None, None
    try:
        return read_limits(path), None
    except InputError as error:
        return RobotLimits(v=0.0, w=0.0), str(error)
