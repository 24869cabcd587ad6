# SPDX-License-Identifier: MIT
"""One poll round: which robots are asked at step t, and which of their answers count.

Pure: no clock, no socket. All randomness is one permutation of the frame, drawn before anything is
sent. Its first k robots are asked (first wave). At `second_wave_s`, or once all of them have said
something, each that has not given its zone is replaced by the next robot of the permutation (second
wave, same nonce): at most 2k robots in all. The deadline does not move. A row counts only if

    (ep, t, q) is the open round, the robot was asked, and it belongs to the host that answers.

The first zone of a robot counts, whatever comes later. The result lists answers in the order of the
permutation, so it does not depend on the order of arrival.

One robot may honestly say several things in one round. A poll that overtakes its step is answered
"stale" after half its time, and its twin, which came after the step, with the zone; a host that is
told to hold says "unavailable" after a zone. So a row without a zone is replaced by a zone that
comes in time, and a row without a zone never changes one. Two different zones are another matter:
a latch is read once per step, so from one boot of a host they are a contradiction (`conflict`).

| symbol | name | meaning |
|---|---|---|
| q | `nonce` | 64 random bits: nobody can answer before having been asked |
| k | `len(first_wave)` | robots of the first wave, at most the configured poll size |
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kofn.controller.link.messages import Flag, Poll, Reply, Row

Kind = Literal[
    "late", "duplicate", "conflict", "foreign", "out_of_range", "stale", "unavailable", "malformed"
]
Tally = Counter[Kind]
"""How many rows (or, for `malformed`, messages) did not become an answer, by kind."""


class Answer(NamedTuple):
    """A robot and the zone that it latched at the step of the round.

    `came_from` is its last transition, (z(t-1), a(t-1)), where it has made one whole.
    """

    robot: str
    zone: int
    came_from: tuple[int, int] | None = None


class Outcome(NamedTuple):
    """What a closed round says; all in the order of the permutation.

    `fresh` and `topped_up` are the answers of the first and of the second wave; `silent` robots
    were asked and gave no valid row at all; `stale` ones answered for an older step only;
    `unavailable` ones said that they are out of the game.
    """

    fresh: tuple[Answer, ...]
    topped_up: tuple[Answer, ...]
    silent: tuple[str, ...]
    stale: tuple[str, ...]
    unavailable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoundKey:
    """What identifies a round on the wire."""

    ep: int
    t: int
    q: str


class Lack(NamedTuple):
    """What the first wave lacks when the second is due.

    `missing` robots have said nothing, or are stale; `unavailable` ones have said that they are out
    of the game; `heard` is the number of zones that have come.
    """

    missing: tuple[str, ...]
    unavailable: int
    heard: int


class _Given(NamedTuple):
    """A valid row and the boot of the host that gave it."""

    row: Row
    boot: str


class PollRound:
    """The round of one step.

    Parameters
    ----------
    key
        Epoch, step and nonce.
    permutation
        The frame in random order.
    host_of
        Robot -> host that speaks for it.
    k
        Poll size; a smaller frame is asked as a whole.
    n_zones, n_actions
        Zones are 0..n_zones-1, local actions 0..n_actions-1.
    deadline_s
        Time on the controller's clock after which nothing counts any more.
    second_wave_s
        When silent robots are replaced; None: there is no second wave.
    replacements
        How many of the `Lack` to replace in the second wave; all by default.
    """

    def __init__(
        self,
        key: RoundKey,
        *,
        permutation: Sequence[str],
        host_of: Mapping[str, str],
        k: int,
        n_zones: int,
        n_actions: int,
        deadline_s: float,
        second_wave_s: float | None = None,
        replacements: Callable[[Lack], int] = lambda lack: len(lack.missing) + lack.unavailable,
    ) -> None:
        self.key = key
        self.first_wave: tuple[str, ...] = tuple(permutation[:k])
        self.second_wave: tuple[str, ...] = ()
        self.deadline_s = deadline_s
        self._spare = tuple(permutation[k : 2 * k]) if second_wave_s is not None else ()
        self._second_wave_s = deadline_s if second_wave_s is None else second_wave_s
        self._replacements = replacements
        self._all_hosts = host_of
        self._host_of = {robot: host_of[robot] for robot in self.first_wave}
        self._n_zones = n_zones
        self._n_actions = n_actions
        self._first = frozenset(self.first_wave)
        self._first_unheard = len(self._first)
        self._given: dict[str, _Given] = {}
        self._heard: dict[str, Answer] = {}
        self._late: list[Answer] = []
        self._late_s: list[float] = []
        self._closed_s: float | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """All robots asked so far."""
        return self.first_wave + self.second_wave

    def polls(self, *, up_ms: int, ttl_ms: int, wave: Literal[1, 2] = 1) -> dict[str, Poll]:
        """Return host -> its poll message, in the order in which hosts appear in the wave."""
        ids: dict[str, list[str]] = {}
        for robot in self.first_wave if wave == 1 else self.second_wave:
            ids.setdefault(self._host_of[robot], []).append(robot)
        ep, t, q = self.key.ep, self.key.t, self.key.q
        return {
            host: Poll(ep=ep, t=t, up=up_ms, q=q, w=wave, ttl=ttl_ms, ids=robots)
            for host, robots in ids.items()
        }

    def second_wave_due(self, now_s: float) -> bool:
        """Whether silent robots are to be replaced now; `open_second_wave` does it."""
        if not self._spare or self.is_closed(now_s):
            return False
        return now_s >= self._second_wave_s or self._all_said_something()

    def open_second_wave(self) -> bool:
        """Choose the robots of the second wave, once; return whether there are any."""
        lacking = [robot for robot in self.first_wave if robot not in self._heard]
        missing = [r for r in lacking if r not in self._given or self._said(r, Flag.STALE)]
        lack = Lack(tuple(missing), len(lacking) - len(missing), len(self._heard))
        wanted = self._replacements(lack)
        self.second_wave = self._spare[: max(0, wanted)]
        self._spare = ()
        self._host_of.update({robot: self._all_hosts[robot] for robot in self.second_wave})
        return bool(self.second_wave)

    @property
    def wake_s(self) -> float:
        """When there is something to do although no message has come."""
        return min(self._second_wave_s, self.deadline_s) if self._spare else self.deadline_s

    def accept(self, host: str, reply: Reply, now_s: float) -> Tally:
        """Take a reply from `host` at `now_s`; count the rows that are no answer."""
        tally: Tally = Counter()
        if RoundKey(reply.ep, reply.t, reply.q) != self.key:
            tally["foreign"] += max(1, len(reply.r))
            return tally
        for row in reply.r:
            refused = self._take(host, _Given(row, reply.b), now_s)
            if refused is not None:
                tally[refused] += 1
        return tally

    def _take(self, host: str, given: _Given, now_s: float) -> Kind | None:
        """Keep a row if it is the answer of its robot; else return why it is none."""
        row = given.row
        if self._host_of.get(row.id) != host:
            return "foreign"
        before = self._given.get(row.id)
        if before is not None and (before.row == row or self._contradicts(before, given)):
            return "duplicate" if before.row == row else "conflict"
        if row.flag is Flag.OK and not self._in_range(row):
            return "out_of_range"
        end_s = self.deadline_s if self._closed_s is None else self._closed_s
        if self._closed_s is not None or now_s >= end_s:
            if row.flag is Flag.OK and row.z is not None and row.id not in self._heard:
                self._late.append(Answer(row.id, row.z))
                self._late_s.append(max(0.0, now_s - end_s))
            return "late"
        if row.flag is Flag.OK and row.z is not None:
            if row.id in self._heard:
                return "duplicate"  # the host has started anew and taken the step once more
            self._given[row.id] = given
            came_from = None
            if row.z_prev is not None and row.a_prev is not None:
                came_from = row.z_prev, row.a_prev
            self._heard[row.id] = Answer(row.id, row.z, came_from)
            self._first_unheard -= row.id in self._first
            return None
        self._given.setdefault(row.id, given)
        return "stale" if row.flag is Flag.STALE else "unavailable"

    def _in_range(self, row: Row) -> bool:
        """Whether zone and last transition can be; the two parts of the latter come together."""
        if row.z is None or row.z >= self._n_zones:
            return False
        if row.z_prev is None or row.a_prev is None:
            return row.z_prev is row.a_prev
        return row.z_prev < self._n_zones and row.a_prev < self._n_actions

    @staticmethod
    def _contradicts(before: _Given, given: _Given) -> bool:
        """Whether one boot of a host has given two zones for one latch."""
        both = before.row.flag is Flag.OK and given.row.flag is Flag.OK
        return both and before.boot == given.boot

    def _said(self, robot: str, flag: Flag) -> bool:
        given = self._given.get(robot)
        return given is not None and given.row.flag is flag

    def _all_said_something(self) -> bool:
        return len(self._given) == len(self._host_of)  # both hold none but robots that were asked

    @property
    def complete(self) -> bool:
        """Whether waiting can bring nothing more."""
        if not self._first_unheard:
            return True
        return not self._spare and self._all_said_something()

    def is_closed(self, now_s: float) -> bool:
        """Whether nothing more can count: all have answered, or the deadline has passed."""
        return self._closed_s is not None or self.complete or now_s >= self.deadline_s

    def close(self, now_s: float | None = None) -> Outcome:
        """Close the round and return what it says; later rows are counted as late."""
        if self._closed_s is None:
            self._closed_s = self.deadline_s if now_s is None else min(now_s, self.deadline_s)
        if not self._first_unheard and not self.second_wave:
            return Outcome(self._answers(self.first_wave), (), (), ())
        return Outcome(
            fresh=self._answers(self.first_wave),
            topped_up=self._answers(self.second_wave),
            silent=tuple(robot for robot in self.asked if robot not in self._given),
            stale=tuple(robot for robot in self.asked if self._said(robot, Flag.STALE)),
            unavailable=tuple(r for r in self.asked if self._said(r, Flag.UNAVAILABLE)),
        )

    def take_late(self) -> tuple[list[Answer], list[float]]:
        """Return and clear the zones that came too late, and by how many seconds each."""
        late = self._late, self._late_s
        self._late, self._late_s = [], []
        return late

    def _answers(self, robots: Sequence[str]) -> tuple[Answer, ...]:
        return tuple(self._heard[robot] for robot in robots if robot in self._heard)
