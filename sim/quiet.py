# SPDX-License-Identifier: MIT
"""Keep C libraries off stdout: PyBullet prints below Python, and a pipe may expect JSON there."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send file descriptor 1 to stderr inside the block, for Python and C code alike.

    Not for use from several threads at once: a process has one descriptor 1.
    """
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # no stdout at all (closed descriptor): nothing to protect
        yield
        return
    libc = ctypes.CDLL(None)
    try:
        os.dup2(2, 1)
        yield
    finally:
        # C buffers a pipe by blocks: what it still holds would come out on the real stdout later.
        sys.stdout.flush()
        libc.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)
