# SPDX-License-Identifier: MIT
"""Keys and certificates for a federation on a network, in one folder per machine.

========================  =====================================================================
folder                    holds
========================  =====================================================================
`authority/`              key and certificate of the authority; stays where it was made
`superlink/`              for the server: its key and certificate, a service unit
`nodes/NAME/`             for client NAME: its key, the authority's certificate, a service unit
========================  =====================================================================

TLS shows clients that they talk to the right server; a client shows who it is by its own key
(NIST P-384, the form that Flower reads), which the server's operator registers. All private files
have mode 0600. Calling it again with the same folder adds clients and changes nothing else.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kofn.controller.core.errors import InputError
from kofn.controller.link.authority import Authority, load_authority, make_authority
from kofn.controller.link.secret_files import read_secret, write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

PUBLIC = 0o644
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Made(NamedTuple):
    """A client, its folder, and whether it is new."""

    name: str
    folder: Path
    new: bool


def make_keys(
    folder: Path,
    *,
    servers: Sequence[str],
    clients: Sequence[str],
    port: int,
    bind: str,
    days: int,
    now: datetime,
) -> list[Made]:
    """Write what is missing in `folder`; return the clients.

    Parameters
    ----------
    folder
        New, or one that this function made.
    servers
        Host names or addresses by which clients reach the server; not used for an existing folder.
    clients
        Stable names of clients, each at most 64 letters, digits, dots, dashes or underlines.
    port, bind
        TCP port of the server, and the address it listens on.
    days
        Validity of the server's certificate.
    now
        Time with zone.

    Raises
    ------
    InputError
        A name that cannot be, a name twice, no server, or a folder with something else in it.
    """
    _check(servers, clients, port, days)
    authority = _authority(folder, now=now)
    link = folder / "superlink"
    if not (link / "server.key").exists():
        if not servers:
            raise InputError("--superlink names no host by which clients reach the server")
        issued = authority.issue(servers[0], now=now, days=days, server_names=servers)
        _copy_authority(folder, link)
        write_atomic(link / "server.pem", issued.certificate, PUBLIC)
        write_atomic(link / "superlink.env", f"HOST={bind}\nPORT={port}\n", PUBLIC)
        write_atomic(link / "address", f"{servers[0]}:{port}\n", PUBLIC)
        _copy_unit("kofn-superlink.service", link)
        write_atomic(link / "server.key", issued.key)
    address = (link / "address").read_text().strip()
    taken = [path.name for path in (folder / "nodes").glob("*")]
    names = sorted({*taken, *clients})
    return [_node(folder, name, address, names, new=name not in taken) for name in names]


def _check(servers: Sequence[str], clients: Sequence[str], port: int, days: int) -> None:
    for name in clients:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"client name {name!r} is not 1 to 64 letters, digits, dots, dashes or underlines"
            )
    if len(set(clients)) < len(clients):
        raise InputError("a client is named twice, but each needs a name of its own")
    if not 0 < port < 65536:
        raise InputError(f"port {port} is not from 1 to 65535")
    if not 0 < days <= 3650:
        raise InputError(f"--days {days} is not from 1 to 3650")
    for server in servers:
        if not server or not server.isprintable() or " " in server or len(server) > 64:
            raise InputError(f"server name {server!r} is no host name or address")


def _authority(folder: Path, *, now: datetime) -> Authority:
    own = folder / "authority"
    if not own.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists and holds no authority that kofn fed keys made")
        made = make_authority("federation", now=now)
        own.mkdir(parents=True, mode=0o700)
        write_atomic(own / "ca.crt", made.certificate, PUBLIC)
        write_atomic(own / "ca.key", made.key)
    return load_authority(read_secret(own / "ca.key"), (own / "ca.crt").read_bytes())


def _node(folder: Path, name: str, address: str, names: Sequence[str], *, new: bool) -> Made:
    own = folder / "nodes" / name
    if new:
        _copy_authority(folder, own)
        key = ec.generate_private_key(ec.SECP384R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        write_atomic(own / "node.pub", public + b"\n", PUBLIC)
        write_atomic(own / "node.key", private)
        _copy_unit("kofn-supernode.service", own)
        partition = _next_partition(folder, names, name)
        config = f'client-name="{name}" partition-id={partition}'
        write_atomic(
            own / "supernode.env", f"SUPERLINK={address}\nNODE_CONFIG='{config}'\n", PUBLIC
        )
    return Made(name, own, new)


def _next_partition(folder: Path, names: Sequence[str], name: str) -> int:
    """Return the smallest number that no other client has; only the template's data use it."""
    used = set()
    for other in names:
        path = folder / "nodes" / other / "supernode.env"
        if other != name and path.exists():
            found = re.search(r"partition-id=(\d+)", path.read_text())
            used.add(int(found[1]) if found else -1)
    return next(i for i in range(len(names) + 1) if i not in used)


def _copy_authority(folder: Path, to: Path) -> None:
    to.mkdir(parents=True, mode=0o700, exist_ok=True)
    write_atomic(to / "ca.crt", (folder / "authority" / "ca.crt").read_bytes(), PUBLIC)


def _copy_unit(name: str, to: Path) -> None:
    unit = resources.files("kofn.launch.units").joinpath(name).read_bytes()
    write_atomic(to / name, unit, PUBLIC)
