# SPDX-License-Identifier: MIT
"""Configuration, password and ACL files for mosquitto.

Two kinds: a broker of our own on 127.0.0.1 with passwords (`write_mosquitto_files`), and a broker
on a network, where each client shows a certificate whose name is its identity (`tls_config_text`).
"""

import os
import pwd
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kofn.controller.core.errors import InputError
from kofn.controller.link.credentials import (
    BrokerUser,
    Rights,
    Role,
    hash_password,
    rights_of,
)
from kofn.controller.link.secret_files import write_atomic

CONFIG_NAME = "mosquitto.conf"

_COMMON = """\
allow_anonymous false
acl_file acl
# Otherwise any user could evict another by taking its client id.
use_username_as_clientid true
persistence false
# Nagle's algorithm with delayed acknowledgements costs 40 ms a round.
set_tcp_nodelay true
max_packet_size 65536
max_inflight_messages 100
max_keepalive 60
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type notice
"""

QUEUE_PER_CLIENT = 4
LEAST_QUEUE = 1000


def queue_line(clients: int) -> str:
    """Return the setting of the broker's queue for each connection, in a fleet of `clients`.

    A controller that subscribes gets the presence and the roster of every host at once. What does
    not fit is dropped without a word to either end, and those hosts would never take part: so two
    messages for each host, and as many for what they say in that moment.
    """
    return f"max_queued_messages {max(LEAST_QUEUE, QUEUE_PER_CLIENT * clients)}\n"


def write_mosquitto_files(
    folder: Path, *, fleet: str, users: Sequence[BrokerUser], port: int
) -> Path:
    """Write all files into `folder` (readable by us only) and return the configuration's path.

    Paths in it are relative: start mosquitto with `folder` as its working directory.

    Raises
    ------
    InputError
        A user name with a colon, which a password file cannot hold.
    """
    for user in users:
        if ":" in user.name:
            raise InputError(
                f"mosquitto takes no colon in a user name: rename {user.name!r}, or use the "
                "broker amqtt"
            )
    write_atomic(folder / "passwords", "".join(_password_lines(users)))
    write_atomic(folder / "acl", acl_text(fleet, [(user.name, user.role) for user in users]))
    return write_atomic(folder / CONFIG_NAME, config_text(port, len(users)))


def config_text(port: int, clients: int) -> str:
    """Return the text of mosquitto.conf for a broker with passwords on 127.0.0.1."""
    return (
        f"listener {port} 127.0.0.1\npassword_file passwords\n"
        + _COMMON
        + queue_line(clients)
        + _user_line()
    )


def tls_config_text(port: int, *, bind: str = "", max_connections: int = 1000) -> str:
    """Return the text of mosquitto.conf for a broker with certificates.

    Parameters
    ----------
    port
        TCP port.
    bind
        Address to listen on; empty for all of the machine.
    max_connections
        Connections beyond that are refused.
    """
    return (
        "# Start in this folder: mosquitto -c mosquitto.conf\n"
        "# After each change of acl or crl.pem: kill -HUP the process (connections stay).\n"
        f"listener {port} {bind}".rstrip()
        + f"""
tls_version tlsv1.2
cafile ca.crt
certfile broker.crt
keyfile broker.key
crlfile crl.pem
# Who has no valid certificate does not get in; the name in it is the user name.
require_certificate true
use_identity_as_username true
max_connections {max_connections}
"""
        + _COMMON
        + queue_line(max_connections)
        + _user_line()
    )


def acl_text(
    fleet: str, roles: Iterable[tuple[str, Role]], others: Mapping[str, Rights] | None = None
) -> str:
    """Return the text of the ACL file: the rights of each user, by name.

    `others` are users without a role in the fleet, such as vehicles with topics of their own.

    A `pattern` rule with %u would be shorter, but it holds for every user: an operator could then
    read steps and publish replies under its own name, and so could a certificate that is not
    enrolled any more.
    """
    lines: list[str] = []
    known = [(name, rights_of(role, fleet, name)) for name, role in roles]
    for name, rights in (*known, *(others or {}).items()):
        lines.append(f"user {name}")
        lines += [f"topic write {topic}" for topic in rights.writes]
        lines += [f"topic read {topic}" for topic in rights.reads]
    return "\n".join(lines) + "\n"


def _user_line() -> str:
    """Started as root, mosquitto becomes another user, who cannot read our files."""
    return f"user {pwd.getpwuid(0).pw_name}\n" if os.geteuid() == 0 else ""


def _password_lines(users: Sequence[BrokerUser]) -> list[str]:
    return [f"{user.name}:{hash_password(user.password)}\n" for user in users]
