# SPDX-License-Identifier: MIT
"""`kofn demo`, `up`, `swarm`, `robot`: fleets and their hosts."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import Layout, layout_of
from kofn.hardware.ring import RingLayout
from kofn.launch import options
from kofn.launch.access_options import ANONYMOUS, Access, with_access
from kofn.launch.output import configure_logging, emit
from kofn.launch.robot_files import read_robot_files
from kofn.launch.robot_host import RobotConfig, run_robot, safety_of, table_of
from kofn.launch.scenario import (
    BrokerSection,
    GameSection,
    HostSection,
    Scenario,
)
from kofn.launch.scenario_checks import check_poll_size
from kofn.launch.scenario_file import load_scenario
from kofn.launch.seeds import MAX_SEED
from kofn.launch.swarm_host import SwarmConfig, read_more, run_swarms
from kofn.sim.faults import Fault
from kofn.sim.robots import RobotSpec
from kofn.sim.worlds import Fidelity

RUNS = Path("runs")
T = TypeVar("T")


def demo(
    robots: Annotated[int, typer.Option(help="Fleet size n.")] = 20,
    k: Annotated[int, typer.Option("--k", help="Robots polled per step.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of 6 simulated seconds.")] = 40,
    hosts: Annotated[int, typer.Option(help="Processes that the swarm is split over.")] = 2,
    broker: Annotated[
        str, typer.Option(help="auto, mosquitto, amqtt, or a URL on this machine.")
    ] = "auto",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Broker port; 0: a free one.")] = 0,
    move_success: Annotated[
        float, typer.Option(help="Chance of a move to arrive, in the model that is learned from.")
    ] = 0.7,
    control: Annotated[bool, typer.Option(help="Also play a uniformly random control.")] = True,
    video: Annotated[bool, typer.Option(help="Film the run.")] = True,
    seed: options.Seed = 1,
    out: options.Runs = RUNS,
    json: options.Json = False,
) -> None:
    """Learn a policy and steer a PyBullet swarm with it, over a real broker."""
    from kofn.launch.fleet import run_scenario

    check_poll_size(k, robots)
    if not 1 <= hosts <= robots:
        raise InputError(f"hosts {hosts} must lie in 1..{robots}, the number of robots")
    split = [robots // hosts + (i < robots % hosts) for i in range(hosts)]
    scenario = Scenario(
        name="demo",
        seed=seed,
        k=k,
        steps=steps,
        control=control,
        game=GameSection(parameters={"move_success": move_success}),
        broker=BrokerSection(choice=broker, port=port),
        hosts=[HostSection(name=f"sim-{i}", robots=count) for i, count in enumerate(split)],
    ).checked()
    result = run_scenario(scenario, runs=out, video=video)
    emit(result, _story(result), as_json=json)


def up(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of one of ours.")],
    broker: Annotated[str | None, typer.Option(help="Instead of the scenario's broker.")] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of the scenario's steps.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Instead of the scenario's seed.")
    ] = None,
    fidelity: Annotated[
        Fidelity | None, typer.Option(help="Of all bullet worlds, instead of the scenario's.")
    ] = None,
    video: Annotated[bool, typer.Option(help="Film the run.")] = True,
    out: options.Runs = RUNS,
    json: options.Json = False,
) -> None:
    """Start everything that a scenario names, and report."""
    from kofn.launch.fleet import run_scenario

    chosen = load_scenario(scenario)
    if broker is not None:
        chosen = msgspec.structs.replace(
            chosen, broker=BrokerSection(choice=broker, port=chosen.broker.port)
        )
    if steps is not None:
        chosen = msgspec.structs.replace(chosen, steps=steps)
    if seed is not None:
        chosen = msgspec.structs.replace(chosen, seed=seed)
    if fidelity is not None:
        hosts = [
            msgspec.structs.replace(host, fidelity=fidelity)
            if host.kind == "swarm" and host.world == "bullet"
            else host
            for host in chosen.hosts
        ]
        chosen = msgspec.structs.replace(chosen, hosts=hosts)
    result = run_scenario(chosen.checked(), runs=out, video=video)
    emit(result, _story(result), as_json=json)


@with_access
def swarm(
    host: options.HostName,
    robots: Annotated[int, typer.Option(help="Robots in this world.")],
    broker: options.BrokerUrl,
    fleet: options.Fleet = "fleet",
    access: Access = ANONYMOUS,
    world: Annotated[str, typer.Option(help="Simulator: bullet, kinematic or finite.")] = "bullet",
    fidelity: options.FidelityOption = "default",
    robot_spec: Annotated[
        str, typer.Option("--robot", help="Robots as JSON; {} is the reference robot.")
    ] = "{}",
    kernel: Annotated[
        str, typer.Option(help="Motion of a finite world: an .npz file, or a game.")
    ] = "arena",
    faults: Annotated[
        str, typer.Option(help="Faults as a JSON list, with the keys of [[faults]].")
    ] = "[]",
    gui: Annotated[bool, typer.Option("--gui", help="Show the bullet world in a window.")] = False,
    more: Annotated[
        Path | None,
        typer.Option("--with", help="More hosts for this process: a JSON list of them."),
    ] = None,
    pace: options.PaceOption = "lockstep",
    period: options.Period = 6.0,
    speed: options.Speed = 1.0,
    arena: options.Arena = "{}",
    log: options.Log = None,
    verbose: options.Verbose = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Run one host of simulated robots until it is stopped, or several in one process."""
    configure_logging(verbose=verbose)
    config = SwarmConfig(
        host=host,
        robots=robots,
        world=world,
        pace=pace,
        speed=speed,
        period_s=period,
        seed=seed,
        layout=_layout(arena),
        fidelity=fidelity,
        robot=_json(robot_spec, RobotSpec, "--robot"),
        kernel=kernel,
        gui=gui,
        faults=_json(faults, tuple[Fault, ...], "--faults"),
        log=log,
    )
    hosts = [(access.connect(fleet, broker), config)]
    hosts += [
        (access.of(one).connect(fleet, broker), one.config(config))
        for one in ([] if more is None else read_more(more))
    ]
    counters = run_swarms(hosts)
    table: dict[str, Any] = {"host": host, "robots": robots, "counters": counters[0]}
    if more is not None:
        table["more"] = [
            {"host": config.host, "robots": config.robots, "counters": counted}
            for (_, config), counted in zip(hosts[1:], counters[1:], strict=True)
        ]
    emit(table, [], as_json=json)


@with_access
def robot(
    host: options.HostName,
    broker: options.BrokerUrl,
    fleet: options.Fleet = "fleet",
    access: Access = ANONYMOUS,
    driver: Annotated[
        str | None, typer.Option(help="Name of the driver; default: that of the files, or dry_run.")
    ] = None,
    settings: Annotated[str, typer.Option(help="Settings of the driver as JSON.")] = "{}",
    state: Annotated[
        Path | None, typer.Option(help="Folder of what the robot remembers; default: by its name.")
    ] = None,
    limits: Annotated[
        Path | None, typer.Option(help="The robot's limits; default: limits.toml in --state.")
    ] = None,
    fleet_file: Annotated[
        Path | None, typer.Option(help="Fleet file with this robot: driver, settings, limits, ..")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration file, or the folder of `kofn hw calibrate`.")
    ] = None,
    safety: Annotated[str, typer.Option(help="Time limits as JSON, as deadman_s, link_s.")] = "{}",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Record commands in the place of motors.")
    ] = False,
    zone: Annotated[int, typer.Option(min=0, help="Zone in which the robot stands.")] = 0,
    period: options.Period = 6.0,
    speed: options.Speed = 1.0,
    arena: options.Arena = "{}",
    log: options.Log = None,
    verbose: options.Verbose = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Run the host of one robot behind a driver until it is stopped."""
    configure_logging(verbose=verbose)
    ring = _layout(arena)
    if not isinstance(ring, RingLayout):
        raise InputError("one robot behind a driver needs a ring arena, not a grid")
    files = read_robot_files(host, driver, fleet_file, calibration)
    config = RobotConfig(
        host=host,
        driver=files.driver or "dry_run",
        settings={**files.settings, **table_of("--settings", settings)},
        state=state or files.state,
        limits=limits,
        fleet_limits=files.limits,
        safety=safety_of("--safety", safety, files.times),
        dry_run=dry_run,
        speed=speed,
        period_s=period,
        seed=seed,
        zone=zone,
        layout=ring,
        log=log,
    )
    connection = access.connect(fleet, broker)
    counters = run_robot(connection, config)
    emit({"host": host, "robots": 1, "counters": counters}, [], as_json=json)


def _layout(arena: str) -> Layout:
    return layout_of(_json(arena, dict[str, Any], "--arena"))


def _json(text: str, kind: type[T], option: str) -> T:
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"{option}: {error}") from error


def _story(result: dict[str, Any]) -> list[str]:
    """What a person wants to know of a run."""

    def against_random(key: str) -> str:
        value, random = (
            "unknown" if figure is None else f"{figure:.2f}"
            for figure in (result[key], result.get(f"{key}_random"))
        )
        return value + (f" (uniformly random: {random})" if f"{key}_random" in result else "")

    kinds = [
        f"{kind}: {row['changed_zone']} of {row['robots']} robots changed zone, "
        f"{row['answered']} of {row['asked']} polls answered, "
        f"{100 * row['available']:.0f} % of the time available"
        for kind, row in result.get("kinds", {}).items()
    ]
    return [
        f"{result['robots']} robots, {result['k']} polled per step, {result['steps']} steps, "
        f"broker {result['broker']}, {result['wall_s']:.0f} s",
        "share of robots in the target zone, last ten steps: "
        + against_random("mean_share_in_target_last10"),
        "mean reward per step: " + against_random("mean_reward"),
        f"{result['replies_used']} robot states were asked for and used in all; poll round p50 "
        f"{result['poll_p50_ms']:.1f} ms, p99 {result['poll_p99_ms']:.1f} ms",
        *kinds,
        f"report, film and record: {result['run_dir']}",
    ]
