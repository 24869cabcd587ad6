# SPDX-License-Identifier: MIT
"""Who may log in to a broker, and what each role may write and read.

One table of rights serves every broker: mosquitto gets it as an ACL file, the embedded broker as a
list per user. Passwords are stored hashed: `$7$<iterations>$<salt>$<hash>` with base64 and
PBKDF2-HMAC-SHA512, the format of mosquitto 2.

| role | writes | reads |
|---|---|---|
| controller | ctl step halt {poll cmd pol}/+ | ctl halt {rep done conn roster ack evt}/+ |
| host h | rep/h done/h conn/h roster/h ack/h evt/h | step ctl halt pol/+ poll/h cmd/h pose/h |
| operator | halt | ctl conn/+ evt/+ halt |
| observer | - | ctl step halt conn/+ roster/+ evt/+ |
| localiser | pose/+ | ctl conn/+ |
| auditor | - | everything below the fleet's root |
| probe | - | - (logs in to find out whether a broker is up) |

VDA 5050 vehicles may share the broker. Their topics lie outside the root of the fleet, one root
each (`uagv/v2/<manufacturer>/<serial>`); their roles are about such roots (`vehicle_rights`):

| role | writes | reads |
|---|---|---|
| vehicle | {state connection factsheet visualization} of its root | {order instantActions} of it |
| fleet-control | {order instantActions} of the roots it controls | what those vehicles write |
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Literal, NamedTuple

from kofn.controller.core.errors import InputError
from kofn.controller.link.topics import Topics, check_host, check_name

Role = Literal["controller", "host", "operator", "observer", "localiser", "auditor", "probe"]
VehicleRole = Literal["vehicle", "fleet-control"]

_ITERATIONS = 101  # mosquitto's own figure; our passwords are random, not guessable

_WRITES: dict[Role, str] = {
    "controller": "ctl step halt poll/+ cmd/+ pol/+",
    "host": "rep/{host} done/{host} conn/{host} roster/{host} ack/{host} evt/{host}",
    "operator": "halt",
    "observer": "",
    "localiser": "pose/+",
    "auditor": "",
    "probe": "",
}
_READS: dict[Role, str] = {
    "controller": "rep/+ done/+ conn/+ roster/+ ack/+ evt/+ halt ctl",
    "host": "step ctl halt pol/+ poll/{host} cmd/{host} pose/{host}",
    "operator": "ctl conn/+ evt/+ halt",
    "observer": "ctl step halt conn/+ roster/+ evt/+",
    "localiser": "ctl conn/+",
    "auditor": "#",
    "probe": "",
}


class BrokerUser(NamedTuple):
    """A login. The name of a host is its identity on the wire."""

    name: str
    password: str
    role: Role


class Rights(NamedTuple):
    """Topic filters that a user may publish to and receive from."""

    writes: list[str]
    reads: list[str]


def make_password() -> str:
    """Return a new random password (128 bits)."""
    return secrets.token_urlsafe(16)


def check_users(users: Sequence[BrokerUser]) -> None:
    """Raise `InputError` for a name that cannot be used, twice the same name, or no user at all."""
    if not users:
        raise InputError("a broker needs at least one user")
    seen: set[str] = set()
    for user in users:
        if user.role == "host":
            check_host(user.name)
        else:
            check_name("user", user.name)
        if user.role not in _READS:
            raise InputError(f"role {user.role!r} of {user.name!r} is none of {', '.join(_READS)}")
        if user.name in seen:
            raise InputError(f"user {user.name!r} is listed twice")
        if not user.password:
            raise InputError(f"user {user.name!r} has an empty password")
        seen.add(user.name)


def rights_of(role: Role, fleet: str, host: str) -> Rights:
    """Rights of a role on a fleet; `host` is the name that the rights of a host are about."""
    root = Topics(fleet).root

    def filters(table: dict[Role, str]) -> list[str]:
        return [root + level.format(host=host) for level in table[role].split()]

    return Rights(filters(_WRITES), filters(_READS))


def vehicle_rights(role: VehicleRole, roots: Sequence[str]) -> Rights:
    """Rights of a VDA 5050 vehicle on its root, or of whoever controls the vehicles of `roots`."""

    def below(*kinds: str) -> list[str]:
        return [f"{root}/{kind}" for root in roots for kind in kinds]

    said = below("state", "connection", "factsheet", "visualization")
    told = below("order", "instantActions")
    return Rights(said, told) if role == "vehicle" else Rights(told, said)


def hash_password(password: str) -> str:
    """Return `$7$..`, the stored form of a password.

    Raises
    ------
    InputError
        It holds a NUL: HMAC pads its key with those, so the stored form cannot tell them apart.
    """
    if "\0" in password:
        raise InputError("a password must not hold a NUL character")
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"$7${_ITERATIONS}${_base64(salt)}${_base64(digest)}"


def verify_password(password: str, stored: str) -> bool:
    """Whether a password belongs to a stored form made by `hash_password`."""
    _, _, iterations, salt, digest = stored.split("$")
    wanted = base64.b64decode(digest)
    got = hashlib.pbkdf2_hmac(
        "sha512", password.encode(), base64.b64decode(salt), int(iterations), len(wanted)
    )
    return "\0" not in password and hmac.compare_digest(got, wanted)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
