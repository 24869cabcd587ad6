# SPDX-License-Identifier: MIT
"""Names on the wire: the topic tree of one fleet (root `kofn1/<fleet>/`).

The major version of the protocol is in the root, so that a version 2 can run beside it.
"""

import re
from typing import NamedTuple

from kofn.controller.core.errors import InputError

PROTOCOL_VERSION = 1
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
RESERVED_HOSTS = frozenset({"controller", "operator", "observer", "localiser"})


def check_name(what: str, name: str) -> str:
    """Return `name`, or raise `InputError` when it cannot be a level of a topic.

    Parameters
    ----------
    what
        What is being named, for the message ("host", "fleet", "robot").
    name
        Letters, digits and `_.:-`, 1 to 64 of them.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise InputError(
            f"{what} name {name!r} must be 1 to 64 characters of A-Z a-z 0-9 _ . : - "
            "and nothing else"
        )
    return name


def check_host(name: str) -> str:
    """Return `name`, or raise `InputError` when a host may not be called so."""
    check_name("host", name)
    if name in RESERVED_HOSTS:
        raise InputError(f"host name {name!r} is reserved ({', '.join(sorted(RESERVED_HOSTS))})")
    return name


class Address(NamedTuple):
    """A topic taken apart: its kind ("step", "rep", ..) and its last level ("" without one)."""

    kind: str
    name: str


class Topics:
    """The topics of one fleet."""

    def __init__(self, fleet: str) -> None:
        self.fleet = check_name("fleet", fleet)
        self.root = f"kofn{PROTOCOL_VERSION}/{fleet}/"
        self.ctl = self.root + "ctl"
        self.step = self.root + "step"
        self.halt = self.root + "halt"

    def of(self, kind: str, name: str) -> str:
        """Topic `<root><kind>/<name>`, for instance `of("rep", "sim-0")`."""
        return f"{self.root}{kind}/{name}"

    def parse(self, topic: str) -> Address | None:
        """Take a topic apart; None when it is not one of this fleet's."""
        if not topic.startswith(self.root):
            return None
        kind, _, name = topic[len(self.root) :].partition("/")
        return None if "/" in name else Address(kind, name)

    def controller_filters(self) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) that the controller subscribes to."""
        plus = (("rep", 0), ("done", 0), ("conn", 1), ("roster", 1), ("ack", 1), ("evt", 0))
        return (*((self.of(kind, "+"), qos) for kind, qos in plus), (self.halt, 1), (self.ctl, 1))

    def host_filters(self, host: str) -> tuple[tuple[str, int], ...]:
        """(filter, QoS) that the host named `host` subscribes to."""
        return (
            (self.step, 0),
            (self.ctl, 1),
            (self.halt, 1),
            (self.of("pol", "+"), 1),
            (self.of("poll", host), 0),
            (self.of("cmd", host), 1),
            (self.of("pose", host), 0),
        )
