# SPDX-License-Identifier: MIT
"""Robots that have said that they are out of the game are left in peace for a while.

A robot that answered "unavailable" (disarmed, manual mode, a stop, a fault) is not drawn for
`RETRY_STEPS` steps. Where nobody else is there, all are drawn: a fleet that comes back is noticed.
"""

from collections.abc import Sequence

RETRY_STEPS = 10


class Availability:
    """Who is out of the game."""

    def __init__(self) -> None:
        self._until: dict[str, int] = {}

    def note(self, t: int, unavailable: Sequence[str]) -> None:
        """Take robots that said at step t that they are unavailable."""
        self._until.update(dict.fromkeys(unavailable, t + RETRY_STEPS))

    def among(self, t: int, robots: Sequence[str]) -> Sequence[str]:
        """Return those of `robots`, in their order, that may be drawn at step t."""
        if not self._until:
            return robots
        self._until = {robot: until for robot, until in self._until.items() if until > t}
        there = [robot for robot in robots if robot not in self._until]
        return there or robots
