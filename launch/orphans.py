# SPDX-License-Identifier: MIT
"""Processes whose parents have ended, taken in and ended with the work that started them.

A program like ray starts agents in sessions of their own; when their parents are ended, nobody
knows of them any more. On Linux a process can ask to become the parent of such orphans.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def no_orphans() -> Iterator[None]:
    """End every process that is started inside and still there at the end, however deep below.

    Elsewhere than on Linux nothing is done.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    before = _children()
    _become_reaper(1)
    try:
        yield
    finally:
        # Those of one that ends become ours, so there may be more each time.
        while found := _children() - before:
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        _become_reaper(0)


def _become_reaper(on: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, on, 0, 0, 0)


def _children() -> set[int]:
    """Return the ids of this process's children."""
    own = os.getpid()
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # pid (name) state ppid ..., where the name may hold spaces and brackets
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == own:
                    found.add(int(folder.name))
    return found
