# SPDX-License-Identifier: MIT
"""`kofn hw`: a robot with motors, on its own machine."""

import os
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.audit import some
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Session
from kofn.hardware import doctor as looking
from kofn.hardware.bench_run import Line
from kofn.hardware.board_settings import BoardSettings, token_hash, write_board_folder
from kofn.hardware.drivers.registry import make_driver
from kofn.hardware.fleet_file import read_fleet
from kofn.hardware.local_socket import FILE as SOCKET
from kofn.hardware.local_socket import Ask, Op, ask_agent
from kofn.hardware.operator_token import make_token
from kofn.launch import options
from kofn.launch.access_options import ANONYMOUS, Access, InsecureLab, with_access
from kofn.launch.doctor_lines import as_line, broker_lines, camera_lines
from kofn.launch.halting import Halting
from kofn.launch.hw_common import (
    DriverName,
    Host,
    Settings,
    State,
    report_lines,
    settings_table,
)
from kofn.launch.output import emit
from kofn.launch.parts import Connection, read_credentials
from kofn.launch.robot_host import state_folder
from kofn.launch.verbs_doctor import certificate
from kofn.launch.verbs_doctor import clock as find_clock
from kofn.launch.verbs_hw_bench import calibrate, selftest
from kofn.launch.verbs_hw_preflight import preflight
from kofn.launch.verbs_localise import lens, localise

app = typer.Typer(
    name="hw",
    help="Robots with motors: check, calibrate, test, arm, stop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

TOKEN_VARIABLE = "KOFN_OPERATOR_TOKEN"  # noqa: S105  the name of a variable


@app.command()
@with_access
def doctor(
    host: Annotated[str | None, typer.Argument(help="Host name of a robot here.")] = None,
    driver: DriverName = None,
    settings: Settings = "{}",
    fleet: options.Fleet = "fleet",
    state: State = None,
    broker: Annotated[str | None, typer.Option(help="Broker as mqtt://host:port.")] = None,
    camera: Annotated[
        Path | None, typer.Option(help="Camera file: see the tags in one picture, too.")
    ] = None,
    robots: Annotated[
        Path | None, typer.Option(help="Fleet file, for the tags that robots wear.")
    ] = None,
    source: Annotated[
        str, typer.Option(help="Number of the camera, a film, or a folder of pictures.")
    ] = "0",
    access: Access = ANONYMOUS,
    json: options.Json = False,
) -> None:
    """Look at everything that a robot needs; code 2 when something is missing."""
    made = (
        None if driver is None else make_driver(driver, MonotonicClock(), settings_table(settings))
    )
    lines = looking.machine_lines(driver)
    if host is not None or state is not None:
        folder = state or state_folder(fleet, host or "")
        lines += looking.state_lines(folder)
        agent = looking.agent_lines(folder)
        lines += agent
        if agent:
            made = None  # its agent has the device
    if made is not None:
        lines += looking.driver_lines(made)
    lines += [as_line(find_clock(datetime.now(UTC)))]
    shown = [path for path in (access.tls_ca, access.tls_cert) if path is not None]
    lines += [as_line(certificate(path, datetime.now(UTC))) for path in shown]
    if access.tls_key is not None:
        lines.append(looking.key_line(access.tls_key))
    if broker is not None:
        lines += broker_lines(access.connect(fleet, broker), host)
    elif host is None:
        hint = "name it: --broker mqtt://host"
        lines.append(Line("broker", ok=True, seen="none named", hint=hint, warn=True))
    if camera is not None:
        lines += camera_lines(camera, robots, source)
    report_lines(lines, json, code=2)


@app.command()
def token(
    host: Host,
    fleet: options.Fleet = "fleet",
    state: State = None,
    json: options.Json = False,
) -> None:
    """Make a new operator token; the robot keeps its hash, this prints it once."""
    folder = state or state_folder(fleet, host)
    made = make_token(folder)
    emit(
        {"token": made, "state": str(folder)},
        [made, f"kept as a hash in {folder}; whoever arms robots needs it as {TOKEN_VARIABLE}"],
        as_json=json,
    )


@app.command()
def arm(
    robot: Annotated[str, typer.Argument(help="Name of the robot, as HOST.r0.")],
    minutes: Annotated[float | None, typer.Option(help="For so long; default: 4 hours.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Leave FAULT instead.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Leave ESTOP instead.")] = False,
    disarm: Annotated[bool, typer.Option("--disarm", help="Stop and disarm instead.")] = False,
    home: Annotated[bool, typer.Option("--home", help="Creep into its fence instead.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say its state only.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Without a passed self-test and preflight; written down."),
    ] = False,
    fleet: options.Fleet = "fleet",
    state: State = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the operator token.")] = None,
    json: options.Json = False,
) -> None:
    """Arm a robot on this machine; no message of a broker can."""
    chosen: list[tuple[Op, bool]] = [
        ("clear", clear),
        ("release", release),
        ("disarm", disarm),
        ("home", home),
        ("status", status),
    ]
    named = [op for op, given in chosen if given]
    if len(named) > 1:
        raise InputError(f"--{named[0]} and --{named[1]} exclude each other")
    op: Op = named[0] if named else "arm"
    if minutes is not None and not 0 < minutes <= 24 * 60:
        raise InputError(f"minutes {minutes:g} must lie above 0 and be at most 1440")
    host = robot.rsplit(".", 1)[0]
    folder = state or state_folder(fleet, host)
    ask = Ask(
        op=op,
        robot=robot,
        token="" if op in ("disarm", "status") else _token(token_file),
        for_s=None if minutes is None else 60 * minutes,
        force=force,
    )
    answer = ask_agent(folder / SOCKET, ask)
    mine = next((row for row in answer.robots if row["robot"] == robot), None)
    if not answer.ok:
        raise RunError(f"{robot}: {op} refused: {'; '.join(answer.why)}")
    mode = mine["mode"] if mine is not None else "unknown"
    why = f" ({mine['why']})" if mine is not None and mine["why"] else ""
    emit({"robot": robot, "op": op, "state": mine}, [f"{robot}: {mode}{why}"], as_json=json)


@app.command()
@with_access
def estop(
    broker: Annotated[str | None, typer.Option(help="Broker; stops the whole fleet.")] = None,
    host: Annotated[str | None, typer.Option(help="Host on this machine, without broker.")] = None,
    why: Annotated[str, typer.Option(help="Reason, for the record.")] = "",
    fleet: options.Fleet = "fleet",
    state: State = None,
    access: Access = ANONYMOUS,
    json: options.Json = False,
) -> None:
    """Stop robots now; needs no token. They stay stopped until released at each of them."""
    if (broker is None) == (host is None):
        raise InputError("name either --broker (the whole fleet) or --host (one here)")
    if host is not None:
        folder = state or state_folder(fleet, host)
        answer = ask_agent(folder / SOCKET, Ask(op="estop", why=why[:200]))
        rows = [f"{row['robot']}: {row['mode']}" for row in answer.robots]
        emit({"stopped": answer.ok, "robots": answer.robots}, rows, as_json=json)
        return
    assert broker is not None  # noqa: S101
    connection = access.connect(fleet, broker)
    halting = _halt_fleet(connection, why)
    answered, silent = sorted(halting.answered), sorted(halting.silent)
    lines = [f"halt of epoch {halting.epoch} is out and kept by the broker"]
    lines += [f"stopped: {', '.join(answered) or 'no host answered'}"]
    lines += [f"NO ANSWER: {host}" for host in silent]
    result = {"epoch": halting.epoch, "sure": halting.sure, "stopped": answered, "silent": silent}
    emit(result, lines, as_json=json)
    if silent:
        raise RunError(f"NO ANSWER from {some(silent)}: go there and cut the power")
    if not (halting.sure or answered):
        raise RunError(
            "nobody said which epoch is in force (no controller, no host): robots that come back "
            "may not obey this halt; give it again when they do"
        )


@app.command()
def fleet(
    path: Annotated[Path, typer.Argument(help="The fleet file.")],
    show: Annotated[str | None, typer.Option(help="One robot, value by value.")] = None,
    json: options.Json = False,
) -> None:
    """Check a fleet file; --show prints each value of a robot with its level."""
    robots = read_fleet(path)
    if show is not None:
        if show not in robots:
            raise InputError(f"{path} has no robot {show!r}; it has {', '.join(sorted(robots))}")
        values = robots[show].values
        rows = {key: {"value": v.value, "level": v.level} for key, v in sorted(values.items())}
        lines = [f"{key} = {v.value}   [{v.level}]" for key, v in sorted(values.items())]
        emit({"robot": show, "values": rows}, lines, as_json=json)
        return
    listed = [
        {"robot": name, "enabled": entry.get("enabled", True), "driver": entry.get("driver")}
        for name, entry in sorted(robots.items())
    ]
    lines = [
        f"{row['robot']}: {row['driver'] or 'no driver'}"
        + ("" if row["enabled"] else " (disabled)")
        for row in listed
    ]
    emit({"robots": listed}, lines, as_json=json)


@app.command()
def provision(
    robot: Annotated[str, typer.Argument(help="The robot's name; also its host's on the wire.")],
    broker: Annotated[str, typer.Option(help="Broker as mqtt://HOST:PORT or mqtts://HOST:PORT.")],
    out: Annotated[Path, typer.Option(help="A new folder: what is copied onto the board.")],
    fleet: options.Fleet = "fleet",
    board: Annotated[
        str, typer.Option("--board", help="Keys of kofn.json as JSON: pins, calibration, limits..")
    ] = "{}",
    credentials: options.Credentials = None,
    ca: Annotated[Path | None, typer.Option(help="The authority's certificate, PEM.")] = None,
    cert: Annotated[Path | None, typer.Option(help="The host's certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The host's key, PEM.")] = None,
    token: Annotated[
        Path | None, typer.Option(help=f"File with the operator's token; else {TOKEN_VARIABLE}.")
    ] = None,
    insecure_lab: InsecureLab = False,
    json: options.Json = False,
) -> None:
    """Write the folder that makes a MicroPython board this robot: firmware, settings, keys."""
    address = parse_url(broker)
    if not address.loopback and not address.tls and not insecure_lab:
        raise InputError(f"broker {broker} is not on this machine: use mqtts://, or --insecure-lab")
    if address.tls and ca is None:
        raise InputError("a broker at mqtts:// needs --ca, the authority's certificate")
    user, password = read_credentials(credentials)
    given = settings_table(board) | {
        "fleet": fleet,
        "host": robot,
        "robot": robot,
        "token_sha256": token_hash(_token(token)),
        "broker": {
            "host": address.host,
            "port": address.port,
            "user": user or "",
            "password": password or "",
            "server_name": address.host if address.tls else "",
        },
    }
    try:
        settings = msgspec.convert(given, BoardSettings)
    except msgspec.ValidationError as error:
        raise InputError(f"--board: {error}") from error
    files = write_board_folder(out, settings, ca=ca, cert=cert, key=key)
    lines = [f"{out}: {len(files)} files; copy them with: mpremote cp -r {out}/. :"]
    emit({"path": str(out), "files": len(files)}, lines, as_json=json)


@app.command()
def tags(
    numbers: Annotated[list[int], typer.Argument(help="Tag ids; the floor's are 580 to 583.")],
    out: Annotated[Path, typer.Option(help="The PDF.")] = Path("tags.pdf"),
    side: Annotated[float, typer.Option(help="Side of the black square, m.")] = 0.12,
    json: options.Json = False,
) -> None:
    """Print tags for robots and floor at their true size, as a PDF of A4 pages."""
    from kofn.launch.tag_sheets import write_sheets

    pages = write_sheets(out, numbers, side_m=side)
    emit({"path": str(out), "pages": pages}, [f"{out}: {pages} pages"], as_json=json)


for verb in (selftest, calibrate, preflight, localise, lens):
    app.command()(verb)


def _token(path: Path | None) -> str:
    if path is not None:
        try:
            return path.read_text().strip()
        except OSError as error:
            raise InputError(f"cannot read token file {path}: {error.strerror}") from error
    known = os.environ.get(TOKEN_VARIABLE, "")
    if known or not sys.stdin.isatty():
        return known
    return str(typer.prompt("operator token", hide_input=True, err=True))


def _halt_fleet(connection: Connection, why: str) -> Halting:
    """Publish a halt, repeat it, and hear who answers."""
    topics, clock = Topics(connection.fleet), MonotonicClock()
    transport = connection.transport(clock)
    filters = [(topics.ctl, 1), (topics.of("conn", "+"), 1), (topics.halt, 1)]
    filters.append((topics.of("evt", "+"), 0))
    session = Session("operator", filters, lambda _: None, lambda _: (), fleet=connection.fleet)
    with closing(transport):
        transport.open(session)
        halting = Halting(topics, why, clock.now())
        while not halting.over(clock.now()):
            message = transport.receive(0.05)
            if message is not None:
                halting.take(message, clock.now())
            halt = halting.due(clock.now())
            if halt is not None:
                transport.publish(halt.topic, halt.payload, qos=halt.qos, retain=halt.retain)
    return halting
