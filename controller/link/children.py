# SPDX-License-Identifier: MIT
"""Child processes that do not outlive their parent.

On Linux a child asks the kernel to be killed when its parent dies (`prctl(PR_SET_PDEATHSIG)`), even
by `kill -9`. The request is made by a few lines of Python that then `exec` the real program: this
costs some 20 ms a start, needs no code between fork and exec in a process that may have threads,
and the child keeps its process id. Elsewhere the child is a plain one.

Children live in a session of their own, so that Ctrl-C in a terminal reaches the supervisor only
and it decides the order in which they end.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from kofn.controller.core.errors import RunError

_PR_SET_PDEATHSIG = 1

# argv: parent's process id, signal, program, its arguments. If the parent died before prctl, the
# child has a new parent already, and nobody would ever send the signal.
_GUARD = f"""
import ctypes, os, sys
parent, death_signal = map(int, sys.argv[1:3])
if ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, death_signal) or os.getppid() != parent:
    sys.exit("the parent process is gone")
os.execv(sys.argv[3], sys.argv[3:])
"""


def spawn_child(
    argv: Sequence[str], *, death_signal: signal.Signals = signal.SIGKILL, **popen: Any
) -> "subprocess.Popen[bytes]":
    """Start a program that dies with this process.

    Call it from a thread that lives as long as the process (the main thread): the kernel watches
    the thread that starts the child, not the process.

    Parameters
    ----------
    argv
        Program and arguments; the program is looked up on PATH.
    death_signal
        What the child gets when this process dies, however it dies.
    popen
        Further arguments of `subprocess.Popen`. `start_new_session` is True unless given.

    Raises
    ------
    RunError
        No such program.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise RunError(f"program {argv[0]!r} is not there or cannot be executed")
    command = [os.path.abspath(program), *argv[1:]]  # noqa: PTH100  a venv's python is a symlink
    if sys.platform.startswith("linux"):
        guard = [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), str(int(death_signal))]
        command = guard + command
    popen.setdefault("start_new_session", True)
    return subprocess.Popen(command, **popen)


def end_child(process: "subprocess.Popen[bytes]", grace_s: float = 3.0) -> int:
    """Ask a child to end, kill it after `grace_s` seconds; return its exit code. Idempotent."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return process.returncode
