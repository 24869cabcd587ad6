# SPDX-License-Identifier: MIT
"""The folder of a fleet's authority: who is a member, and the files that each machine gets.

```
DIR/authority.key, ca.crt   never leave this machine (the certificate may)
DIR/members.json            members and every certificate ever issued: the only source of truth
DIR/broker/                 mosquitto.conf acl crl.pem ca.crt broker.crt broker.key
DIR/controller/             controller.crt controller.key ca.crt hosts.toml (the allow-list)
                            message.keys (of all hosts)
DIR/operator/, observer/    a certificate, its key, ca.crt
DIR/hosts/<host>/           the same for a host, a VDA 5050 vehicle, or who controls vehicles;
                            message.keys of a host, the only other place of its message key
```

`members.json` is replaced as a whole, before a certificate exists; `acl`, `crl.pem`, `hosts.toml`
and the controller's `message.keys` follow from what is there and are written anew by every command.
So a command that was broken off is repaired by running it again, and no certificate exists that
cannot be revoked.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import is_host_name
from kofn.controller.link.allow_list import AllowList, Robots
from kofn.controller.link.authority import (
    Authority,
    Issued,
    load_authority,
    make_authority,
    read_certificate,
)
from kofn.controller.link.credentials import Role, VehicleRole, vehicle_rights
from kofn.controller.link.messages import RobotRange
from kofn.controller.link.mosquitto_config import CONFIG_NAME, acl_text, tls_config_text
from kofn.controller.link.secret_files import PUBLIC, read_secret, sync_folder, write_atomic
from kofn.controller.link.signing import KEYS_NAME, keys_text, new_key, read_keys
from kofn.controller.link.topics import check_host, check_name

BROKER = "broker"
SERVICES: tuple[Role, ...] = ("controller", "operator", "observer")
CLIENT_SERVICES: tuple[Role, ...] = (*SERVICES, "localiser")  # the last only where it is asked for
DEFAULT_DAYS = 365
DEFAULT_PORT = 8883
VEHICLE_ROOT = re.compile(r"(uagv/v2|vda5050/v3)(/[A-Za-z0-9_.:-]+){2}")
"""Where the topics of a VDA 5050 vehicle begin, in both dialects."""


class IssuedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that was issued: serial number in hex, end, and when it was revoked."""

    serial: str
    ends: datetime
    revoked: datetime | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody with certificates; `robots` of a host, `active` until revoked.

    `role` is None for a host; vehicles and who controls them have theirs on the roots `vehicles`.
    """

    certificates: tuple[IssuedRecord, ...] = ()
    robots: RobotRange | tuple[str, ...] = ()
    active: bool = True
    role: VehicleRole | None = None
    vehicles: tuple[str, ...] = ()


class Members(msgspec.Struct, frozen=True, kw_only=True):
    """The file members.json; `revision` counts its versions."""

    fleet: str
    broker_names: tuple[str, ...]
    days: int = DEFAULT_DAYS
    revision: int = 0
    services: dict[str, Member] = {}
    hosts: dict[str, Member] = {}


class Change(NamedTuple):
    """What a command did: "issued", "unchanged", "updated" or "revoked", and for whom."""

    name: str
    what: str
    folder: Path
    ends: datetime | None


def create(
    folder: Path,
    *,
    fleet: str,
    broker_names: Sequence[str],
    now: datetime,
    port: int = DEFAULT_PORT,
    bind: str = "",
    days: int = DEFAULT_DAYS,
    max_connections: int = 1000,
) -> list[Change]:
    """Make the authority of a fleet, and the files of the broker and of the services.

    The folder appears complete or not at all; one that holds anything is never touched.

    Raises
    ------
    InputError
        A folder that is not empty, or a name, port or validity that cannot be.
    RunError
        The folder cannot be written.
    """
    check_name("fleet", fleet)
    if not broker_names:
        raise InputError("the broker needs at least one host name or address (--broker-name)")
    for name in broker_names:
        if not is_host_name(name):
            raise InputError(f"broker name {name!r} is no host name or IP address")
    if bind and not is_host_name(bind):
        raise InputError(f"--bind {bind!r} is no host name or IP address")
    if not 1 <= port <= 65535:
        raise InputError(f"port {port} is outside 1 to 65535")
    if not 1 <= days <= 3650:
        raise InputError(f"validity of {days} days is outside 1 to 3650")
    if max_connections < 4:
        raise InputError(f"{max_connections} connections are fewer than the services need, 4")
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; an authority is never overwritten")
    part = folder.with_name(f".{folder.name}.part")
    with _files_of(folder):
        shutil.rmtree(part, ignore_errors=True)  # what a broken-off command left
        part.mkdir(mode=0o700, parents=True)
        made = make_authority(fleet, now=now)
        write_atomic(part / "authority.key", made.key)
        write_atomic(part / "ca.crt", made.certificate, PUBLIC)
        members = Members(fleet=fleet, broker_names=tuple(broker_names), days=days)
        office = Office(part, members, load_authority(made.key, made.certificate))
        for name in (BROKER, "hosts"):
            (part / name).mkdir(mode=0o700)
        config = tls_config_text(port, bind=bind, max_connections=max_connections)
        write_atomic(part / BROKER / CONFIG_NAME, config)
        changes = [office.renew(name, now=now) for name in (BROKER, *SERVICES)]
        sync_folder(part)
        part.rename(folder)  # takes the place of an empty folder too
        sync_folder(folder.parent)
    return [change._replace(folder=folder / change.name) for change in changes]


@contextmanager
def open_office(folder: Path) -> Iterator["Office"]:
    """Open an authority's folder for one command; others wait meanwhile.

    Raises
    ------
    InputError
        No authority there, or files in it that cannot be understood or used.
    """
    folder = folder.resolve()
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"no authority in {folder}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        members = read_members(folder)
        key, certificate = read_secret(folder / "authority.key"), folder / "ca.crt"
        with _files_of(folder):
            yield Office(folder, members, load_authority(key, certificate.read_bytes()))
    finally:
        os.close(lock)


def read_members(folder: Path) -> Members:
    """Read members.json; raises `InputError`."""
    path = folder / "members.json"
    if not path.exists():
        raise InputError(f"no authority in {folder}; make one: kofn ca init")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Members)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: {error}") from error


class Office:
    """An opened authority; see `open_office`."""

    def __init__(self, folder: Path, members: Members, authority: Authority) -> None:
        self.folder = folder
        self.members = members
        self._authority = authority

    @property
    def allow_list(self) -> AllowList:
        """Enrolled hosts and their robots."""
        members = self.members.hosts.items()
        hosts = {name: host.robots for name, host in members if host.active and host.role is None}
        return AllowList.of(self.members.fleet, hosts)

    def enroll(self, host: str, robots: Robots | None, *, now: datetime) -> Change:
        """Give a host a key and a certificate, and its robots to it.

        A host that has both, in force, keeps them; `robots` None leaves its robots as they are (a
        new host has one, `<host>.r0`).

        Raises
        ------
        InputError
            A reserved or impossible name, or a robot that belongs to another host.
        """
        check_host(host)
        if host in (BROKER, "ca") or not host.strip("."):
            raise InputError(f"host name {host!r} is reserved: files of others have it")
        before = self.members.hosts.get(host)
        if before is not None and before.active and before.role is not None:
            raise InputError(f"the name {host!r} is that of a vehicle or of who controls vehicles")
        if before is None or not before.active:
            before = Member(certificates=before.certificates if before else ())
        if robots is None:
            robots = before.robots or (f"{host}.r0",)
        member = msgspec.structs.replace(before, robots=robots)
        changed = self.members.hosts.get(host) != member
        self._stage(host, member)
        _ = self.allow_list  # refuses a robot that somebody else has, before anything is written
        if self._is_complete(host, member) and member.certificates[-1].ends > now:
            self._give_message_key(host)
            self._publish(now)
            what = "updated" if changed else "unchanged"
            return Change(host, what, self._folder(host), member.certificates[-1].ends)
        return self._issue(host, member, now=now, key=None)

    def enroll_vehicles(
        self, name: str, role: VehicleRole, roots: Sequence[str], *, now: datetime
    ) -> Change:
        """Give a VDA 5050 vehicle, or who controls vehicles, a certificate and rights.

        Parameters
        ----------
        name
            Of the certificate; no host's.
        role
            "vehicle" speaks for one root, "fleet-control" gives orders to those of `roots`.
        roots
            As `uagv/v2/<manufacturer>/<serial>` or `vda5050/v3/<manufacturer>/<serial>`.

        Raises
        ------
        InputError
            A name or a root that cannot be, a host's name, or a root that another vehicle has.
        """
        check_host(name)
        for root in roots:
            if not VEHICLE_ROOT.fullmatch(root):
                raise InputError(
                    f"vehicle {root!r} must be uagv/v2/MANUFACTURER/SERIAL or "
                    "vda5050/v3/MANUFACTURER/SERIAL"
                )
        if not roots or (role == "vehicle" and len(roots) > 1):
            raise InputError(f"{name!r}: a vehicle has one root, who controls some at least one")
        before = self.members.hosts.get(name, Member(role=role))
        if name in (BROKER, "ca") or before.role != role:
            raise InputError(f"the name {name!r} is somebody else's: give the vehicle its own")
        for other, member in self.members.hosts.items():
            taken = member.active and member.role == role == "vehicle" and other != name
            if taken and set(member.vehicles) & set(roots):
                raise InputError(f"vehicle {roots[0]!r} belongs to {other!r}")
        member = msgspec.structs.replace(before, vehicles=tuple(roots), active=True)
        self._stage(name, member)
        if self._is_complete(name, member) and member.certificates[-1].ends > now:
            self._publish(now)
            return Change(name, "updated", self._folder(name), member.certificates[-1].ends)
        return self._issue(name, member, now=now, key=None)

    def renew(self, name: str, *, now: datetime, revoke: bool = False) -> Change:
        """Issue the next certificate of a member or a service, for the same key.

        With `revoke` all earlier ones are revoked, and the key is new.

        Raises
        ------
        InputError
            Nobody of this name.
        """
        member = self._find(name)
        key = None
        if revoke:
            member = _revoked(member, now)
            (self._folder(name) / KEYS_NAME).unlink(missing_ok=True)
        elif self._is_complete(name, member):
            key = read_secret(self._file(name, "key"))
        return self._issue(name, member, now=now, key=key)

    def revoke(self, host: str, *, now: datetime) -> Change:
        """Revoke all certificates of a host and take it off the allow-list.

        Raises
        ------
        InputError
            No host of this name was enrolled.
        """
        if host not in self.members.hosts:
            raise InputError(f"no host {host!r} is enrolled")
        member = _revoked(self.members.hosts[host], now)
        self._stage(host, msgspec.structs.replace(member, active=False, robots=()))
        self._publish(now)
        shutil.rmtree(self._folder(host), ignore_errors=True)
        return Change(host, "revoked", self._folder(host), None)

    def _find(self, name: str) -> Member:
        if name in (BROKER, *CLIENT_SERVICES):
            return self.members.services.get(name, Member())
        member = self.members.hosts.get(name)
        if member is None or not member.active:
            raise InputError(f"no host {name!r} is enrolled")
        return member

    def _issue(self, name: str, member: Member, *, now: datetime, key: bytes | None) -> Change:
        """Record a new certificate, then write it and everything that follows from it."""
        server_names = self.members.broker_names if name == BROKER else ()
        common_name = server_names[0][:64] if server_names else name
        issued = self._authority.issue(
            common_name, now=now, days=self.members.days, server_names=server_names, key=key
        )
        record = IssuedRecord(serial=f"{issued.serial:x}", ends=issued.ends)
        certificates = (*member.certificates, record)
        self._stage(name, msgspec.structs.replace(member, certificates=certificates))
        if name in self.members.hosts and member.role is None:
            self._give_message_key(name)
        self._publish(now)
        self._write_bundle(name, issued)
        return Change(name, "issued", self._folder(name), issued.ends)

    def _stage(self, name: str, member: Member) -> None:
        """Change a member in memory."""
        members = self.members
        field = "services" if name in (BROKER, *CLIENT_SERVICES) else "hosts"
        table: Mapping[str, Member] = getattr(members, field)
        changes = {field: {**table, name: member}, "revision": members.revision + 1}
        self.members = msgspec.structs.replace(members, **changes)

    def _publish(self, now: datetime) -> None:
        """Write members.json, then what follows from it."""
        written = msgspec.json.format(msgspec.json.encode(self.members))
        write_atomic(self.folder / "members.json", written)
        hosts = self.members.hosts
        known = self.members.services
        roles: list[tuple[str, Role]] = [(s, s) for s in CLIENT_SERVICES if s in known]
        there = [(name, host) for name, host in sorted(hosts.items()) if host.active]
        roles += [(name, "host") for name, host in there if host.role is None]
        vehicles = {
            name: vehicle_rights(host.role, host.vehicles)
            for name, host in there
            if host.role is not None
        }
        write_atomic(self.folder / BROKER / "acl", acl_text(self.members.fleet, roles, vehicles))
        revoked = [
            (int(record.serial, 16), record.revoked)
            for member in (*known.values(), *hosts.values())
            for record in member.certificates
            if record.revoked is not None and record.ends > now
        ]
        crl = self._authority.revocation_list(revoked, number=self.members.revision, now=now)
        write_atomic(self.folder / BROKER / "crl.pem", crl, PUBLIC)
        (self.folder / "controller").mkdir(mode=0o700, exist_ok=True)
        note = "# Written by `kofn ca`; change it with `kofn ca enroll`.\n"
        allowed = self.folder / "controller" / "hosts.toml"
        write_atomic(allowed, note + self.allow_list.to_toml(), PUBLIC)
        keys = [self._folder(name) / KEYS_NAME for name in self.allow_list.hosts]
        known_keys = {h: k for path in keys if path.is_file() for h, k in read_keys(path).items()}
        write_atomic(self.folder / "controller" / KEYS_NAME, keys_text(known_keys))

    def _give_message_key(self, host: str) -> None:
        """Give a host the key that signs what it and the controller say, unless it has one."""
        folder = self._folder(host)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / KEYS_NAME).is_file():
            write_atomic(folder / KEYS_NAME, keys_text({host: new_key()}))

    def _write_bundle(self, name: str, issued: Issued) -> None:
        self._folder(name).mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._folder(name) / "ca.crt", (self.folder / "ca.crt").read_bytes(), PUBLIC)
        write_atomic(self._file(name, "key"), issued.key)
        write_atomic(self._file(name, "crt"), issued.certificate, PUBLIC)

    def _is_complete(self, name: str, member: Member) -> bool:
        """Whether the newest certificate of a member, not revoked, and its key are there."""
        if not member.certificates or member.certificates[-1].revoked is not None:
            return False
        key, certificate = self._file(name, "key"), self._file(name, "crt")
        if not key.is_file() or not certificate.is_file():
            return False
        serial = read_certificate(certificate.read_bytes(), self._authority)
        return f"{serial:x}" == member.certificates[-1].serial

    def _folder(self, name: str) -> Path:
        above = self.folder if name in (BROKER, *CLIENT_SERVICES) else self.folder / "hosts"
        return above / name

    def _file(self, name: str, suffix: str) -> Path:
        return self._folder(name) / f"{name}.{suffix}"


def _revoked(member: Member, now: datetime) -> Member:
    """The member with all its certificates revoked."""
    return msgspec.structs.replace(
        member,
        certificates=tuple(
            record if record.revoked else msgspec.structs.replace(record, revoked=now)
            for record in member.certificates
        ),
    )


@contextmanager
def _files_of(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {error.filename or folder}: {error.strerror}") from error
