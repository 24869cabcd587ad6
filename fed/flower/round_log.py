# SPDX-License-Identifier: MIT
"""One JSON line per round: who was polled, chosen and arrived, what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


class RoundRecord(msgspec.Struct, kw_only=True):
    """What one round was.

    Attributes
    ----------
    round : int
        From 1.
    online : int
        Clients that were online when it began.
    polled : list of str
        Clients that were sent a poll.
    what : str
        What the poll asked for.
    bins : dict of str to int
        What they answered in time, by client.
    status_dropped : int
        Answers that broke the declared limits and were dropped.
    poll_failed : dict of str to str
        Clients that answered the poll with an error.
    call : str
        The call in force, where the rule knows calls.
    deadline_s : float, optional
        When the round was to end, s from sending the model, what messages take included.
    chosen, arrived : list of str
        Clients that were sent the model, and whose update counted.
    failed : dict of str to str
        Clients that answered with an error or with an update that could not be used.
    seconds : dict of str to float
        From sending the model to its arrival, s; of those that did not arrive, the time waited.
    poll_s, train_s : float
        Length of both parts, s; simulated time where the run simulates it.
    at_s : float
        Time since the start of the run at the end of the round, s.
    bytes_poll_down, bytes_poll_up, bytes_model_down, bytes_model_up : int
        Bytes to and from clients.
    skipped : str
        Why there was no training; empty where there was.
    """

    round: int
    online: int = 0
    polled: list[str] = []
    what: str = "nothing"
    bins: dict[str, int] = {}
    status_dropped: int = 0
    poll_failed: dict[str, str] = {}
    call: str = ""
    deadline_s: float | None = None
    chosen: list[str] = []
    arrived: list[str] = []
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    poll_s: float = 0.0
    train_s: float = 0.0
    at_s: float = 0.0
    bytes_poll_down: int = 0
    bytes_poll_up: int = 0
    bytes_model_down: int = 0
    bytes_model_up: int = 0
    skipped: str = ""


class RoundLog:
    """Keeps the records of a run, and writes them to a file if one is given."""

    def __init__(self, path: Path | None = None) -> None:
        self.rounds: list[RoundRecord] = []
        self._path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")

    def write(self, record: RoundRecord) -> None:
        """Add a record; it is on disk when this returns."""
        self.rounds.append(record)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(record) + b"\n")


def read_log(path: Path) -> list[RoundRecord]:
    """Return the records of a log file; a line cut off at the end is left out."""
    rounds = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rounds.append(msgspec.json.decode(line, type=RoundRecord))
        except msgspec.MsgspecError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: {error}") from None
    return rounds
