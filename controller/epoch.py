# SPDX-License-Identifier: MIT
"""The epoch counter: one number per start of a controller, persisted before it is used.

Hosts obey only the highest epoch they have seen, so a counter that went back would give steps that
nobody obeys, and one that was used twice could let an old step pass for a new one. Hence: write,
sync, rename, and only then use; without a readable counter the controller refuses to start. Two
controllers that start at once take their numbers one after the other.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kofn.controller.core.errors import InputError

MAX_EPOCH = 2**53 - 1


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader or a crash sees the old or the new file only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that do the same out; a process that dies lets go."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def next_epoch(path: Path) -> int:
    """Return the next epoch and leave it in `path`; the first is 1.

    Raises
    ------
    InputError
        The file is not a counter, is exhausted, or cannot be written: without it no epoch is safe.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            text = path.read_text(encoding="ascii").strip() if path.exists() else "0"
            last = int(text) if text.isdecimal() else -1
            if not 0 <= last < MAX_EPOCH:
                raise InputError(
                    f"epoch counter {path} holds {text[:40]!r}, not a number of epochs"
                )
            write_atomically(path, f"{last + 1}\n".encode("ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"epoch counter {path} cannot be read and written: {error}") from error
    return last + 1
