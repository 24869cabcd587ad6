# SPDX-License-Identifier: MIT
"""`BlackBox`: an append-only record on the robot, one file a boot, for after an incident.

JSON lines `{"s": seconds of the monotonic clock, "kind": .., ..}`; the first holds the wall clock.
A file is rotated at 16 MB; the oldest go beyond `keep`. Lines reach the disk each second, and at
once for a fault or an emergency stop. A full disk never stops a robot from stopping: writing fails
into a counter.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

ROTATE_BYTES = 16 * 2**20
SYNC_S = 1.0
PATTERN = "black-box-*.jsonl"


class BlackBox:
    """Records of one boot; may be written from any thread.

    Parameters
    ----------
    folder
        Where the files go.
    boot
        Names the files of this boot.
    rotate_bytes, keep
        Size at which a new file is begun; files kept, of all boots.
    monotonic_s
        Time of the stamps.
    """

    def __init__(
        self,
        folder: Path,
        boot: str,
        *,
        rotate_bytes: int = ROTATE_BYTES,
        keep: int = 8,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._boot, self._keep = folder, boot, keep
        self._rotate_bytes, self._now_s = rotate_bytes, monotonic_s
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._file: BinaryIO | None = None
        self._size = self._part = 0
        self._synced_s = float("-inf")
        self.failures = 0

    def write(self, kind: str, *, urgent: bool = False, **values: Any) -> None:
        """Append one record; never raises."""
        at_s = round(self._now_s(), 4)  # not after the lock: a slow disk may hold it for long
        with self._lock:
            try:
                self._append({"s": at_s, "kind": kind, **values}, urgent)
            except (OSError, TypeError, ValueError):
                self.failures += 1

    def close(self) -> None:
        """Sync and close; idempotent, never raises."""
        with self._lock:
            try:
                self._end_file()
            except OSError:
                self.failures += 1

    def _append(self, record: dict[str, Any], urgent: bool) -> None:
        line = self._encoder.encode(record) + b"\n"
        if self._file is None or self._size + len(line) > self._rotate_bytes:
            self._begin_file()
        assert self._file is not None  # noqa: S101
        self._file.write(line)
        self._size += len(line)
        now_s = self._now_s()
        if urgent or now_s - self._synced_s >= SYNC_S:
            self._sync()
            self._synced_s = now_s

    def _sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _begin_file(self) -> None:
        self._end_file()
        self._folder.mkdir(parents=True, exist_ok=True)
        wall = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"black-box-{wall}-{self._boot}-{self._part:04d}.jsonl"
        self._part += 1
        self._file = path.open("xb")
        head = {"s": round(self._now_s(), 4), "kind": "boot", "boot": self._boot, "utc": wall}
        self._size = self._file.write(self._encoder.encode(head) + b"\n")
        for old in sorted(self._folder.glob(PATTERN))[: -self._keep]:
            old.unlink(missing_ok=True)

    def _end_file(self) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None


def read_black_box(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder, oldest file first; a torn last line is left out."""
    for path in sorted(folder.glob(PATTERN)):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield msgspec.json.decode(line)
