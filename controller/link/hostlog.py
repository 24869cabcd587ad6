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

from kofn.controller.core.errors import InputError, RunError


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header", tag_field="row"):
    """First line: who, and the arena that the poses live in.

    `arena` holds `zones`, and for a ring `inner_m`, `outer_m` (radii) and `robot_radius_m`.
    """

    host: str
    robots: list[str]
    arena: dict[str, Any]
    option_s: float
    seed: int
    backend: str
    versions: dict[str, str]


class StepTaken(msgspec.Struct, frozen=True, kw_only=True, tag="step", tag_field="row"):
    """A step that the host took: what it latched and what its robots then did.

    z[i] is the latched zone of robot i (-1 unavailable), a[i] its local action (-1 hold).
    """

    ep: int
    t: int
    g: int
    u: int
    time_s: float
    z: list[int]
    a: list[int]


class Poses(msgspec.Struct, frozen=True, kw_only=True, tag="poses", tag_field="row"):
    """Poses of all robots at world time `time_s`: p[i] = (x m, y m, yaw rad)."""

    time_s: float
    p: list[tuple[float, float, float]]


HostLogRow = Header | StepTaken | Poses


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
