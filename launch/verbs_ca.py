# SPDX-License-Identifier: MIT
"""`kofn ca init`, `enroll`, `renew`, `list`: certificates and rights for a fleet on a network."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import RobotRange
from kofn.launch import options
from kofn.launch.output import emit

if TYPE_CHECKING:
    from kofn.controller.link.enrolment import Change, Member

app = typer.Typer(
    name="ca",
    help="Certificates and rights for a fleet on a network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

WARN_DAYS = 30

Folder = Annotated[
    Path,
    typer.Option("--dir", envvar="KOFN_CA", help="Folder of the authority, from kofn ca init."),
]
DEFAULT_FOLDER = Path("ca")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the authority.")],
    fleet: Annotated[str, typer.Option(help="Name of the fleet, a level of every topic.")],
    broker_name: Annotated[
        list[str], typer.Option(help="Host name or address by which hosts reach the broker.")
    ],
    port: Annotated[int, typer.Option(help="TCP port of the broker.")] = 8883,
    bind: Annotated[
        str, typer.Option(help="Address that the broker listens on; default: all of its machine.")
    ] = "",
    days: Annotated[int, typer.Option(help="Validity of certificates.")] = 365,
    max_connections: Annotated[
        int, typer.Option(help="Connections that the broker accepts.")
    ] = 1000,
    json: options.Json = False,
) -> None:
    """Make the authority of a fleet, its broker's configuration, and the services' certificates."""
    from kofn.controller.link.enrolment import create

    changes = create(
        folder,
        fleet=fleet,
        broker_names=_words(broker_name),
        now=_now(),
        port=port,
        bind=bind,
        days=days,
        max_connections=max_connections,
    )
    url = f"mqtts://{_words(broker_name)[0]}:{port}"
    lines = [f"authority of fleet {fleet} in {folder}; {folder}/authority.key must stay there"]
    lines += [f"{change.name}: {change.folder}, until {_day(change.ends)}" for change in changes]
    lines += [
        f"start the broker: cd {folder}/broker && mosquitto -c mosquitto.conf",
        f"then enroll each host: kofn ca enroll HOST --dir {folder}",
        f"hosts and controller use: --broker {url} --tls-ca .. --tls-cert .. --tls-key ..",
    ]
    result = {"fleet": fleet, "dir": str(folder), "broker": url, "issued": _table(changes)}
    emit(result, lines, as_json=json)


@app.command()
def enroll(
    host: Annotated[str, typer.Argument(help="Name of the host on the wire.")],
    folder: Folder = DEFAULT_FOLDER,
    robots: Annotated[
        list[str] | None, typer.Option(help="Robots that it speaks for, by name.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="Or: so many robots, HOST.r0 to HOST.r<count-1>.")
    ] = None,
    vehicle: Annotated[
        str | None,
        typer.Option(help="Instead: a VDA 5050 vehicle, by the root of its topics."),
    ] = None,
    controls: Annotated[
        list[str] | None, typer.Option(help="Instead: who gives orders to these vehicles.")
    ] = None,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Instead: take all of that from the host again.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Give a host a key, a certificate for a year, and its robots; again: change its robots."""
    from kofn.controller.link.enrolment import open_office

    if robots is not None and count is not None:
        raise InputError("give either --robots or --count")
    if revoke and (robots is not None or count is not None):
        raise InputError("--revoke takes neither --robots nor --count")
    kinds = [robots is not None or count is not None, vehicle is not None, controls is not None]
    if sum(kinds) > 1 or (revoke and any(kinds)):
        raise InputError("give robots, --vehicle, --controls or --revoke: they exclude each other")
    chosen: tuple[str, ...] | RobotRange | None = None
    if robots is not None:
        chosen = tuple(_words(robots))
        if not chosen:
            raise InputError("--robots names no robot")
    if count is not None:
        try:
            chosen = msgspec.convert({"prefix": f"{host}.r", "count": count}, RobotRange)
        except msgspec.ValidationError as error:
            raise InputError(f"--count {count} for host {host!r}: {error}") from error
    with open_office(folder) as office:
        if revoke:
            change = office.revoke(host, now=_now())
        elif vehicle is not None:
            change = office.enroll_vehicles(host, "vehicle", [vehicle], now=_now())
        elif controls is not None:
            roots = _words(controls)
            change = office.enroll_vehicles(host, "fleet-control", roots, now=_now())
        else:
            change = office.enroll(host, chosen, now=_now())
    lines = [f"{host}: {change.what}"]
    if change.ends is not None:
        lines.append(f"for its machine: {change.folder}, until {_day(change.ends)}")
    lines.append(f"for the broker: acl and crl.pem in {folder}/broker; then send it SIGHUP")
    lines.append(f"for the controller: {folder}/controller/hosts.toml")
    emit(_table([change])[0], lines, as_json=json)


@app.command()
def renew(
    names: Annotated[
        list[str],
        typer.Argument(help="A host, broker, controller, operator, observer or localiser."),
    ],
    folder: Folder = DEFAULT_FOLDER,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Revoke the earlier ones and make a new key.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Issue the next certificate, for the same key; the first one of a localiser."""
    from kofn.controller.link.enrolment import open_office

    with open_office(folder) as office:
        changes = [office.renew(name, now=_now(), revoke=revoke) for name in _words(names)]
    lines = [f"{change.name}: {change.folder}, until {_day(change.ends)}" for change in changes]
    emit({"issued": _table(changes)}, lines, as_json=json)


@app.command("list")
def list_(folder: Folder = DEFAULT_FOLDER, json: options.Json = False) -> None:
    """List who has certificates, and until when."""
    from kofn.controller.link.enrolment import read_members

    members = read_members(folder)
    now = _now()
    rows = [_row(name, member, now) for name, member in sorted(members.services.items())]
    rows += [_row(name, member, now) for name, member in sorted(members.hosts.items())]
    lines = [
        f"{row['name']}: {row['state']}"
        + (f", until {row['ends'][:10]}" if row["ends"] else "")
        + (f", {row['robots']} robots" if row["robots"] else "")
        for row in rows
    ]
    emit({"fleet": members.fleet, "members": rows}, lines, as_json=json)


def _row(name: str, member: "Member", now: datetime) -> dict[str, Any]:
    last = member.certificates[-1] if member.certificates else None
    valid = last is not None and last.revoked is None
    ends = last.ends if last is not None and valid else None
    state = "revoked"
    if ends is not None:
        left = (ends - now).days
        state = "expired" if ends <= now else f"{left} days left" if left < WARN_DAYS else "valid"
    count = member.robots.count if isinstance(member.robots, RobotRange) else len(member.robots)
    return {
        "name": name,
        "state": state,
        "ends": None if ends is None else ends.isoformat(),
        "robots": count,
        "certificates": len(member.certificates),
    }


def _table(changes: "list[Change]") -> list[dict[str, Any]]:
    return [
        {
            "name": change.name,
            "what": change.what,
            "dir": str(change.folder),
            "ends": None if change.ends is None else change.ends.isoformat(),
        }
        for change in changes
    ]


def _words(values: list[str]) -> list[str]:
    """Values of an option that may be repeated, or name several with commas."""
    return [word for value in values for word in value.split(",") if word]


def _day(moment: datetime | None) -> str:
    return "" if moment is None else moment.date().isoformat()


def _now() -> datetime:
    return datetime.now(UTC)
