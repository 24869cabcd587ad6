# SPDX-License-Identifier: MIT
"""Configuration, password and ACL file for a mosquitto of our own on 127.0.0.1."""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from kofn.controller.core.errors import InputError
from kofn.controller.link.credentials import BrokerUser, hash_password, rights_of

CONFIG_NAME = "mosquitto.conf"


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
    _write_private(folder / "passwords", "".join(_password_lines(users)))
    _write_private(folder / "acl", acl_text(fleet, users))
    config = folder / CONFIG_NAME
    _write_private(config, config_text(port))
    return config


def config_text(port: int) -> str:
    """Return the text of mosquitto.conf."""
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous false",
        "password_file passwords",
        "acl_file acl",
        # Otherwise any user could evict another by taking its client id.
        "use_username_as_clientid true",
        "persistence false",
        # Nagle's algorithm with delayed acknowledgements costs 40 ms a round.
        "set_tcp_nodelay true",
        "max_packet_size 65536",
        "max_queued_messages 100",
        "max_keepalive 60",
        "sys_interval 0",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
    ]
    if os.geteuid() == 0:
        # Started as root, mosquitto becomes another user, who cannot read our files.
        lines.append(f"user {pwd.getpwuid(0).pw_name}")
    return "\n".join(lines) + "\n"


def acl_text(fleet: str, users: Sequence[BrokerUser]) -> str:
    """Return the text of the ACL file: the rights of each user, by name.

    A `pattern` rule with %u would be shorter, but it holds for every user: an operator could then
    read steps and publish replies under its own name.
    """
    lines: list[str] = []
    for user in users:
        rights = rights_of(user.role, fleet, user.name)
        lines.append(f"user {user.name}")
        lines += [f"topic write {topic}" for topic in rights.writes]
        lines += [f"topic read {topic}" for topic in rights.reads]
    return "\n".join(lines) + "\n"


def _password_lines(users: Sequence[BrokerUser]) -> list[str]:
    return [f"{user.name}:{hash_password(user.password)}\n" for user in users]


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
