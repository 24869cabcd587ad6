# SPDX-License-Identifier: MIT
"""`Announcer`: what a host says of itself, its presence and its roster, at every connection.

Birth = `Conn` ONLINE and `Roster`, both retained; last will = `Conn` CONNECTION_BROKEN with the
same boot and connection number (b, c), so that a will that overtakes a later birth is recognised.
"""

from collections.abc import Sequence

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import Conn, Presence, RobotRange, Roster, encode
from kofn.controller.link.policies import spaces_of
from kofn.controller.link.topics import Topics, check_name
from kofn.controller.link.transport import Outbound, Session
from kofn.hardware.driver import Bank
from kofn.hardware.local_policy import KEPT, PREFIX


class Announcer:
    """Presence and roster of one host.

    Parameters
    ----------
    topics, host, boot
        Where and as whom.
    bank
        The robots offered.
    n_targets
        S_g of the game that the robots can play.
    software
        Name and version.

    Raises
    ------
    InputError
        A name that cannot be on the wire, a robot named twice, or more names than a roster holds.
    """

    def __init__(
        self, topics: Topics, host: str, boot: str, bank: Bank, n_targets: int, software: str
    ) -> None:
        self._topics, self._host, self._boot = topics, host, boot
        self._n = len(bank.robots)
        spaces = spaces_of(bank.n_zones, n_targets, bank.n_actions)
        self._fixed = Roster(
            b=boot,
            pace=bank.pace,
            robots=offer(bank.robots),
            S=spaces.S,
            G=spaces.G,
            A=spaces.A,
            have=[],
            sw=software,
        )
        self._connection = 0
        self._state: Presence = "ONLINE"
        # Policies that come later must not make the roster longer than a payload may be.
        self.update([PREFIX + "0" * 64] * KEPT)
        self.update([])

    def session(self) -> Session:
        """Session of the host: filters, will, birth."""
        return Session(
            client_id=self._host,
            filters=self._topics.host_filters(self._host),
            will=lambda connection: self._presence("CONNECTION_BROKEN", connection),
            birth=self._birth,
            newest_only=frozenset({self._topics.step}),
            fleet=self._topics.fleet,
        )

    def update(self, have: Sequence[str]) -> Outbound:
        """Return the roster with the policies held now; later births carry it too."""
        roster = msgspec.structs.replace(self._fixed, have=list(have))
        topic = self._topics.of("roster", self._host)
        self._roster = Outbound(topic, encode(roster), qos=1, retain=True)
        return self._roster

    def leave(self) -> Outbound:
        """Return the presence of a host that has left; later births carry it too."""
        self._state = "OFFLINE"
        return self._presence("OFFLINE", self._connection)

    def farewell(self) -> list[Outbound]:
        """Messages of a clean end."""
        return [self._presence("OFFLINE", self._connection)]

    def _birth(self, connection: int) -> Sequence[Outbound]:
        # May run in the transport's thread: it reads values that are replaced whole.
        self._connection = connection
        return [self._presence(self._state, connection), self._roster]

    def _presence(self, state: Presence, connection: int) -> Outbound:
        conn = Conn(b=self._boot, c=connection, st=state, n=self._n)
        return Outbound(self._topics.of("conn", self._host), encode(conn), qos=1, retain=True)


def offer(robots: Sequence[str]) -> list[str] | RobotRange:
    """Robots as a roster writes them: short where they are `<prefix>0`, `<prefix>1`, .."""
    if not robots:
        raise InputError("a host needs at least one robot")
    for name in robots:
        check_name("robot", name)
    if len(set(robots)) != len(robots):
        raise InputError("a host has two robots of the same name")
    prefix = robots[0].removesuffix("0")
    if 1 <= len(prefix) <= 48 and all(name == f"{prefix}{i}" for i, name in enumerate(robots)):
        return RobotRange(prefix=prefix, count=len(robots))
    return list(robots)
