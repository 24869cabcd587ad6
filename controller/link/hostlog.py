# SPDX-License-Identifier: MIT
"""The log that a host keeps for itself: JSON lines, one file per host, never sent over the wire.

The harness measures the share of robots in the target zone from these logs, and films are drawn
from them. The controller does not read them while it steers. A file of a killed process is
readable up to its last whole line.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError, RunError

IntArray = npt.NDArray[np.int64]

NAMED_ROBOTS = 10_000
"""A host of more robots logs counts instead of each robot's zone and action."""


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="row"):
    """First line: who, and the arena that the poses live in.

    `arena` holds the settings of the arena; empty for robots without bodies. `robots` is empty
    where steps hold counts. `config` is what the host's world is built from, for `kofn replay`.
    `calibrated` is False where moves succeed at other rates than those of wheeled robots.
    """

    host: str
    robots: list[str]
    arena: dict[str, Any]
    option_s: float
    seed: int
    backend: str
    versions: dict[str, str]
    config: dict[str, Any] = {}
    calibrated: bool | None = None


class StepTaken(msgspec.Struct, frozen=True, kw_only=True, tag="step", tag_field="row"):
    """A step that the host took: what it latched and what its robots then did.

    z[i] is the latched zone of robot i (-1 unavailable), a[i] its local action (-1 hold). With `w`
    (hosts of very many robots), i is a cell instead: w[i] robots had zone z[i] and action a[i].
    `x` is a digest of the world's exact state at the step; empty where there is none.
    """

    ep: int
    t: int
    g: int
    u: int
    time_s: float
    z: list[int]
    a: list[int]
    w: list[int] = []
    x: str = ""


class Poses(msgspec.Struct, frozen=True, kw_only=True, tag="poses", tag_field="row"):
    """Poses of all robots at world time `time_s`: p[i] = (x m, y m, yaw rad)."""

    time_s: float
    p: list[tuple[float, float, float]]


class Incident(msgspec.Struct, frozen=True, kw_only=True, tag="incident", tag_field="row"):
    """Something out of the ordinary: a fault that was injected, or a robot out of play.

    `i` is the robot's place in the header (-1: the host itself), `kind` the fault, "trouble", or
    "answer_lost" and "cut_off" for what the wire did;
    `t` is the step that an injected fault belongs to.
    """

    time_s: float
    i: int
    kind: str
    text: str
    t: int = -1


HostLogRow = Header | StepTaken | Poses | Incident


def logged(zones: IntArray, actions: IntArray) -> tuple[list[int], list[int], list[int]]:
    """Columns z, a, w of a step: robot by robot, or counts by (z, a) where robots are very many."""
    if zones.size <= NAMED_ROBOTS:
        return zones.tolist(), actions.tolist(), []
    width = int(actions.max()) + 2
    cells = np.bincount((zones + 1) * width + actions + 1)
    (filled,) = np.nonzero(cells)
    z, a = filled // width - 1, filled % width - 1
    return z.tolist(), a.tolist(), cells[filled].tolist()


class HostLog:
    """Appends rows to a file; each step row is flushed so that a killed host leaves whole lines.

    Raises
    ------
    InputError
        The file cannot be opened.
    RunError
        From `write` and `close`: it cannot be written any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise InputError(f"cannot write host log {path}: {error.strerror}") from error
        self._encoder = msgspec.json.Encoder()

    def write(self, row: HostLogRow) -> None:
        """Append one row."""
        try:
            self._file.write(self._encoder.encode(row) + b"\n")
            if not isinstance(row, Poses):
                self._file.flush()
        except OSError as error:
            raise RunError(f"cannot write host log {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Flush and close; idempotent."""
        try:
            self._file.close()  # closed for good, also when its last rows cannot be flushed
        except OSError as error:
            raise RunError(f"cannot write host log {self._path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_host_log(path: Path) -> Iterator[HostLogRow]:
    """Yield the rows of a log; a torn last line (killed host) ends it silently."""
    decoder: msgspec.json.Decoder[HostLogRow] = msgspec.json.Decoder(HostLogRow)
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield decoder.decode(line)
