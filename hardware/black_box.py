# SPDX-License-Identifier: MIT
"""`BlackBox`: an append-only record on the robot, one file a boot, for after an incident.

JSON lines `{"s": seconds of the monotonic clock, "kind": .., ..}`; the first holds the wall clock.
A file is rotated at 16 MB; the oldest go beyond `keep`. A thread of its own hands lines to the
operating system as they come, and to the disk each second, at once for a fault or an emergency
stop: nobody who stops a robot waits for a disk. A full disk, or one that stands still for so long
that `MOST_WAITING` lines wait for it, never stops a robot from stopping: what cannot be written is
counted.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

ROTATE_BYTES = 16 * 2**20
SYNC_S = 1.0
CLOSE_WALL_S = 5.0
"""Longest wait for the disk at the end."""
MOST_WAITING = 20_000
PATTERN = "black-box-*.jsonl"


class _Line(NamedTuple):
    """One record on its way: when it was written down, its bytes, whether the disk must have it."""

    at_s: float
    data: bytes
    urgent: bool


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
        self._news = threading.Condition()
        self._waiting: list[_Line] = []
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None
        self.failures = 0
        # Of the thread alone:
        self._file: BinaryIO | None = None
        self._size = self._part = 0
        self._synced_s = float("-inf")
        self._unsynced = False

    def write(self, kind: str, *, urgent: bool = False, **values: Any) -> None:
        """Append one record; never raises, never waits for a disk."""
        record = {"s": round(self._now_s(), 4), "kind": kind, **values}
        try:
            line = _Line(record["s"], msgspec.json.encode(record) + b"\n", urgent)
        except (TypeError, ValueError):
            self._fail()
            return
        with self._news:
            if self._closed or len(self._waiting) >= MOST_WAITING:
                self.failures += 1
                return
            self._waiting.append(line)
            if self._thread is None:
                # A daemon holds no motor; a process must not hang on a disk that never answers.
                self._thread = threading.Thread(target=self._work, name="black-box", daemon=True)
                self._thread.start()
            self._news.notify_all()

    def flush(self, timeout_s: float = CLOSE_WALL_S) -> bool:
        """Wait until the operating system has all that was written; False when it takes longer."""
        with self._news:
            return self._news.wait_for(lambda: not (self._waiting or self._busy), timeout_s)

    def close(self) -> None:
        """Write all, sync, close; idempotent, never raises, gives a hanging disk up."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_WALL_S)

    def _fail(self) -> None:
        with self._news:
            self.failures += 1

    def _work(self) -> None:
        """Write what waits, until it is closed and nothing waits."""
        while True:
            with self._news:
                self._busy = False
                self._news.notify_all()
                self._news.wait_for(
                    lambda: self._waiting or self._closed, SYNC_S if self._unsynced else None
                )
                lines, self._waiting = self._waiting, []
                closed, self._busy = self._closed, True
            try:
                self._put(lines)
                if closed and not lines:
                    self._end_file()
                    return
                if not lines:  # nothing came for a second
                    self._sync()
            except OSError:
                self._fail()
                self._unsynced = False  # not tried again each moment: the next line will
                if closed and not lines:
                    return

    def _put(self, lines: list[_Line]) -> None:
        due = False
        for line in lines:
            try:
                if self._file is None or self._size + len(line.data) > self._rotate_bytes:
                    self._begin_file()
                assert self._file is not None  # noqa: S101
                self._file.write(line.data)
            except OSError:
                self._fail()
                continue
            self._size += len(line.data)
            self._unsynced = True
            due = due or line.urgent
            if line.at_s - self._synced_s >= SYNC_S:
                due, self._synced_s = True, line.at_s
        if self._file is not None and lines:
            self._file.flush()
            if due:
                self._sync()

    def _sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._unsynced = False

    def _begin_file(self) -> None:
        self._end_file()
        self._folder.mkdir(parents=True, exist_ok=True)
        wall = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        path = self._folder / f"black-box-{wall}-{self._boot}-{self._part:04d}.jsonl"
        self._part += 1
        self._file = path.open("xb")
        head = {"s": round(self._now_s(), 4), "kind": "boot", "boot": self._boot, "utc": wall}
        self._size = self._file.write(msgspec.json.encode(head) + b"\n")
        for old in sorted(self._folder.glob(PATTERN))[: -self._keep]:
            old.unlink(missing_ok=True)

    def _end_file(self) -> None:
        if self._file is not None:
            try:
                self._sync()
            finally:
                file, self._file = self._file, None
                file.close()


def read_black_box(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a folder, oldest file first; a torn last line is left out."""
    for path in sorted(folder.glob(PATTERN)):
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield msgspec.json.decode(line)
