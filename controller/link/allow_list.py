# SPDX-License-Identifier: MIT
"""The allow-list: which host may speak for which robots.

A login says who a host is; this file says what it may claim. A roster selects from it and never
adds to it. TOML, one table per host, robots by name or as a range:

```toml
fleet = "plant"

[hosts.sim-0]           # robots sim-0.r0 to sim-0.r99
prefix = "sim-0.r"
count = 100

[hosts.cart]
robots = ["cart.r0"]
```
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import RobotRange, robot_ids
from kofn.controller.link.topics import check_host, check_name

MAX_ROBOTS = 1_000_000
"""Over all hosts."""

Robots = tuple[str, ...] | RobotRange


@dataclass(frozen=True, slots=True)
class AllowList:
    """Hosts of a fleet and the robots that each may speak for.

    Attributes
    ----------
    fleet
        Name of the fleet.
    hosts
        Host -> its robots.
    """

    fleet: str
    hosts: Mapping[str, Robots]
    _owners: Mapping[str, str]

    @classmethod
    def of(cls, fleet: str, hosts: Mapping[str, Robots]) -> "AllowList":
        """Make and check a list.

        Raises
        ------
        InputError
            A name that cannot be, a robot that two hosts have, or more than a million robots.
        """
        check_name("fleet", fleet)
        total = sum(r.count if isinstance(r, RobotRange) else len(r) for r in hosts.values())
        if total > MAX_ROBOTS:
            raise InputError(f"{total} robots in the allow-list exceed the limit of {MAX_ROBOTS}")
        owners: dict[str, str] = {}
        for host, robots in hosts.items():
            check_host(host)
            for robot in robot_ids(robots):
                check_name("robot", robot)
                if robot in owners:
                    raise InputError(f"robot {robot} belongs to both {owners[robot]} and {host}")
                owners[robot] = host
        return cls(fleet, dict(hosts), owners)

    def owner(self, robot: str) -> str | None:
        """Return the host that speaks for a robot; None when no host may."""
        return self._owners.get(robot)

    def objection(self, host: str, robots: Iterable[str]) -> str:
        """Why a host may not offer these robots, as the end of a sentence; empty when it may."""
        if host not in self.hosts:
            return "it is not on the allow-list"
        foreign = [robot for robot in robots if self._owners.get(robot) != host]
        if not foreign:
            return ""
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        return f"robot {foreign[0]}{others} is not its own on the allow-list"

    def to_toml(self) -> str:
        """Return the text of the file."""
        table = {host: _to_table(robots) for host, robots in sorted(self.hosts.items())}
        return tomli_w.dumps({"fleet": self.fleet, "hosts": table})


def read_allow_list(path: Path) -> AllowList:
    """Read the file.

    Raises
    ------
    InputError
        It cannot be read or is not of this form; the sentence names the place.
    """
    try:
        return parse_allow_list(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read allow-list {path}: {error.strerror}") from error
    except ValueError as error:  # InputError and UnicodeDecodeError
        raise InputError(f"allow-list {path}: {error}") from error


def parse_allow_list(text: str) -> AllowList:
    """Parse the text of the file; raises `InputError`."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(str(error)) from error
    return AllowList.of(file.fleet, {host: t.robots_of(host) for host, t in file.hosts.items()})


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Robots of one host: by name, or as a range."""

    robots: list[str] | None = None
    prefix: str | None = None
    count: int | None = None

    def robots_of(self, host: str) -> Robots:
        if self.robots is not None and self.prefix is None and self.count is None:
            return tuple(self.robots)
        if self.robots is None and self.prefix is not None and self.count is not None:
            try:
                return msgspec.convert({"prefix": self.prefix, "count": self.count}, RobotRange)
            except msgspec.ValidationError as error:
                raise InputError(f"host {host!r}: {error}") from error
        raise InputError(f"host {host!r} needs either robots, or prefix and count")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    fleet: str
    hosts: dict[str, _Table] = {}


def _to_table(robots: Robots) -> dict[str, Any]:
    if isinstance(robots, RobotRange):
        return {"prefix": robots.prefix, "count": robots.count}
    return {"robots": list(robots)}
