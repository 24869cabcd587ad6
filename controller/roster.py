# SPDX-License-Identifier: MIT
"""The roster: who is there, and which robots may be polled now (the frame).

Pure: it is fed the `conn/<host>` and `roster/<host>` messages, retained or not, in any order, and
answers with a `Frame`. A host's robots are in the frame when

1. its last presence is ONLINE. OFFLINE and CONNECTION_BROKEN count only when their (boot,
   connection) equals that of the last ONLINE, because a will may overtake the next birth;
2. its roster is of the same boot, speaks a common protocol version and has our spaces (S, G, A);
3. no robot of it belongs to a host that announced the same id before;
4. where there is an allow-list, all its robots are its own there;
5. it holds the current policy;
6. it has not been dropped, for silence or by quarantine;
7. it was not ordered to hold, or to leave and not started again since.

Whoever fails 2, 3 or 4 is refused, once per boot and reason, and readmitted when that is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kofn.controller.core.errors import InputError
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.audit import some
from kofn.controller.link.messages import Conn, Pace, Roster, robot_ids
from kofn.controller.link.policies import Spaces

PROTOCOLS = frozenset({1})
REASONS = 5
"""How many reasons why hosts are not in the frame one sentence lists."""


class Refusal(NamedTuple):
    """A host that may not take part, and why (one sentence)."""

    host: str
    why: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Robots that may be polled now.

    Attributes
    ----------
    ids
        Names of the robots, sorted, so that the frame does not depend on the order of arrival.
    host_of
        Robot -> the host that speaks for it.
    paces
        Host -> its pace, for the hosts that have a robot in the frame.
    """

    ids: tuple[str, ...] = ()
    host_of: Mapping[str, str] = field(default_factory=dict)
    paces: Mapping[str, Pace] = field(default_factory=dict)

    @property
    def pace(self) -> Pace:
        """One realtime host makes the whole run realtime."""
        return "realtime" if "realtime" in self.paces.values() else "lockstep"

    @property
    def lockstep_hosts(self) -> frozenset[str]:
        """Hosts that announce `done` for each step."""
        return frozenset(host for host, pace in self.paces.items() if pace == "lockstep")


@dataclass(slots=True)
class _Host:
    """What is known of one host."""

    order: int
    boot: str = ""
    connection: int = 0
    online: bool = False
    dropped: str = ""
    """Why it is out of the frame in spite of all; empty when it is not."""
    held: str = ""
    """HOLD or LEAVE, as ordered; empty when it takes part."""
    held_boot: str = ""
    """The boot of it that was told so."""
    refused_boot: str = ""
    """The boot of it that was told that it is refused; empty when it is not."""
    roster: Roster | None = None
    robots: tuple[str, ...] = ()
    objection: str = ""
    """What the allow-list has against its robots."""
    mismatch: str = ""
    """Why its roster does not fit this fleet, whoever else is there."""

    @property
    def announced(self) -> Roster | None:
        """The roster of the present boot of an online host."""
        if self.online and self.roster is not None and self.roster.b == self.boot:
            return self.roster
        return None


class RosterBook:
    """All hosts heard of, and the frame that follows from them.

    Parameters
    ----------
    spaces
        Hashes of the spaces that the policy is made for.
    policy
        Hex SHA-256 of the local policy that robots must hold.
    allow_list
        Which host may speak for which robots; None lets all speak for whom they name first.
    """

    def __init__(self, spaces: Spaces, policy: str, allow_list: AllowList | None = None) -> None:
        self._spaces = spaces
        self._policy = policy
        self._allow_list = allow_list
        self._hosts: dict[str, _Host] = {}
        self._refused: set[tuple[str, str, str]] = set()
        self._new_refusals: list[Refusal] = []
        self._readmitted: list[str] = []
        self._frame: Frame | None = None  # computed when asked for: messages come in bursts
        self._claims = 0
        self._held_ever = False

    def on_conn(self, host: str, conn: Conn) -> None:
        """Take a presence message."""
        entry = self._entry(host)
        if conn.st == "ONLINE":
            if entry.boot == conn.b and conn.c < entry.connection:
                return  # an older connection of this boot, overtaken
            if (entry.boot, entry.connection) != (conn.b, conn.c):
                entry.dropped = ""
            if entry.boot != conn.b and entry.held == "LEAVE":
                entry.held = ""  # somebody has started it again
            entry.boot, entry.connection, entry.online = conn.b, conn.c, True
        elif (conn.b, conn.c) == (entry.boot, entry.connection):
            entry.online = False
        self._frame = None

    def on_roster(self, host: str, roster: Roster) -> None:
        """Take what a host offers."""
        entry = self._entry(host)
        robots = tuple(robot_ids(roster.robots))
        if robots != entry.robots:
            self._claims += 1
            entry.order = self._claims  # new robots are claimed now, not when the host was first
            if self._allow_list is not None:
                entry.objection = self._allow_list.objection(host, robots)
        entry.roster, entry.robots = roster, robots
        entry.mismatch = self._mismatch(entry, roster)
        self._frame = None

    def drop(self, host: str, why: str = "silent") -> None:
        """Take a host out of the frame until it is heard of again."""
        self._entry(host).dropped = why
        self._frame = None

    def heard(self, host: str) -> bool:
        """Note a sign of life; True when it brings a dropped host back."""
        entry = self._hosts.get(host)
        if entry is None or not entry.dropped:
            return False
        entry.dropped = ""
        self._frame = None
        return True

    def check_order(self, host: str, op: str) -> None:
        """Raise `InputError` when a host cannot be ordered to `op` ("hold", "resume", "leave")."""
        entry = self._hosts.get(host)
        if entry is None:
            known = some(sorted(self._hosts)) or "none"
            raise InputError(f"host {host} has not been heard of; known are {known}")
        if op == "resume" and entry.refused_boot == entry.boot != "":
            why = self._refusal(host, entry, self._owners())
            raise InputError(f"host {host} cannot resume, it is refused: {why}")
        if op == "resume" and entry.held == "LEAVE":
            raise InputError(f"host {host} cannot resume, it has left: start it again")

    def hold(self, host: str, held: str) -> None:
        """Note that a host was ordered to hold ("HOLD", "LEAVE") or may take part ("")."""
        entry = self._entry(host)
        entry.held, entry.held_boot = held, entry.boot
        self._held_ever = True
        self._frame = None

    @property
    def held(self) -> frozenset[str]:
        """Hosts online that were ordered to hold."""
        return frozenset(h for h, entry in self._hosts.items() if entry.held and entry.online)

    @property
    def online(self) -> frozenset[str]:
        """Hosts that are online, whether they take part or not."""
        return frozenset(host for host, entry in self._hosts.items() if entry.online)

    @property
    def heard_of(self) -> int:
        """How many hosts have ever been heard of."""
        return len(self._hosts)

    def lacking(self, policy: str) -> frozenset[str]:
        """Hosts of the frame that do not hold policy `policy` (hex)."""
        return frozenset(
            host
            for host in self.frame.paces
            if (roster := self._hosts[host].announced) is None
            or f"sha256:{policy}" not in roster.have
        )

    def change_policy(self, policy: str) -> None:
        """From now on robots must hold `policy` (hex)."""
        self._policy = policy
        self._frame = None

    def take_held_anew(self) -> list[str]:
        """Return held hosts that have started anew since they were told to hold, once."""
        anew: list[str] = []
        if not self._held_ever:
            return anew
        for host, entry in self._hosts.items():
            if entry.held and entry.online and entry.held_boot != entry.boot:
                entry.held_boot = entry.boot
                anew.append(host)
        return anew

    def take_readmitted(self) -> list[str]:
        """Return hosts that were told that they are refused, and are not any more."""
        readmitted, self._readmitted = self._readmitted, []
        return readmitted

    @property
    def frame(self) -> Frame:
        """Robots that may be polled now."""
        if self._frame is None:
            self._frame = self._compute()
        return self._frame

    def take_refusals(self) -> list[Refusal]:
        """Return the refusals that are new since the last call, once per boot and reason."""
        if self._frame is None:
            self._frame = self._compute()
        refusals, self._new_refusals = self._new_refusals, []
        return refusals

    def describe(self) -> str:
        """One short sentence: who is ready, and who is not, by reason; few hosts are named."""
        owners = self._owners()
        groups: dict[str, list[str]] = {}
        ready = 0
        for name, entry in sorted(self._hosts.items()):
            reason = self._obstacle(name, entry, owners)
            ready += 0 if reason else len(entry.robots)
            groups.setdefault(reason, []).append(name)
        able = groups.pop("", [])
        parts = [f"{some(able)}: {ready} ready"] if able else []
        largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
        parts += [f"{some(names)}: {reason}" for reason, names in largest_first[:REASONS]]
        if others := sum(len(names) for _, names in largest_first[REASONS:]):
            parts.append(f"{others} more hosts for other reasons")
        return "; ".join(parts) or "no host was heard"

    def _entry(self, host: str) -> _Host:
        return self._hosts.setdefault(host, _Host(order=0))

    def _owners(self) -> dict[str, str]:
        """Robot -> the first online host that announced it and fits this fleet."""
        owners: dict[str, str] = {}
        for name, entry in sorted(self._hosts.items(), key=lambda item: item[1].order):
            if entry.announced is not None and not entry.mismatch:
                for robot in entry.robots:
                    owners.setdefault(robot, name)
        return owners

    def _mismatch(self, entry: _Host, roster: Roster) -> str:
        """Why a roster does not fit this fleet, whoever else is there; empty when it does."""
        if not PROTOCOLS.intersection(roster.proto):
            return f"protocol versions {roster.proto}, this controller speaks {sorted(PROTOCOLS)}"
        for kind, theirs, ours in zip(
            ("zone", "target", "action"), (roster.S, roster.G, roster.A), self._spaces, strict=True
        ):
            if theirs != ours:
                return f"{kind} space {theirs} is not that of the policy, {ours}"
        if len(set(entry.robots)) < len(entry.robots):
            return "its roster names a robot twice"
        return entry.objection

    def _refusal(self, name: str, entry: _Host, owners: Mapping[str, str]) -> str:
        """Why the roster of a host cannot be accepted; empty when it can."""
        if entry.announced is None:
            return ""
        if entry.mismatch:
            return entry.mismatch
        for robot in entry.robots:
            if owners.get(robot, name) != name:
                return f"robot {robot} already belongs to host {owners[robot]}"
        return ""

    def _obstacle(self, name: str, entry: _Host, owners: Mapping[str, str]) -> str:
        """Why a host has no robots in the frame; empty when it has."""
        if not entry.online:
            return "offline"
        roster = entry.announced
        if roster is None:
            return "no roster"
        refusal = self._refusal(name, entry, owners)
        if refusal:
            return f"refused, {refusal}"
        if self._policy not in {held.removeprefix("sha256:") for held in roster.have}:
            return "policy not held yet"
        if entry.held:
            return "told to leave" if entry.held == "LEAVE" else "told to hold"
        return entry.dropped

    def _compute(self) -> Frame:
        """Compute the frame; note refusals not reported before."""
        owners = self._owners()
        host_of: dict[str, str] = {}
        paces: dict[str, Pace] = {}
        for name, entry in sorted(self._hosts.items()):
            roster = entry.announced
            if roster is None:
                continue
            why = self._refusal(name, entry, owners)
            if why and (name, entry.boot, why) not in self._refused:
                self._refused.add((name, entry.boot, why))
                self._new_refusals.append(Refusal(name, why))
                entry.refused_boot = entry.boot
            elif not why and entry.refused_boot == entry.boot:
                entry.refused_boot = ""
                self._refused = {refused for refused in self._refused if refused[0] != name}
                if not entry.held:
                    self._readmitted.append(name)
            if not self._obstacle(name, entry, owners) and entry.robots:
                host_of.update(dict.fromkeys(entry.robots, name))
                paces[name] = roster.pace
        return Frame(tuple(sorted(host_of)), host_of, paces)
