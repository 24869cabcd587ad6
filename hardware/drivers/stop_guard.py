# SPDX-License-Identifier: MIT
"""`StopGuard`: a small process that stops a device when its agent falls silent.

For devices without a time-out of their own. The guard holds the agent's open line; each drive
command sends it a byte. No byte for `deadman_s`, or the pipe's end (the agent was killed), and it
writes the stop. It survives what a thread cannot: SIGKILL and SIGSTOP of the agent.
"""

import contextlib
import os
import subprocess
import sys

LAST_WORD_S = 0.2

# argv: file descriptor of the line, seconds, stop bytes in hex. Written again in case one is torn.
_CODE = """
import os, select, signal, sys
line, limit, stop = int(sys.argv[1]), float(sys.argv[2]), bytes.fromhex(sys.argv[3])
signal.signal(signal.SIGINT, signal.SIG_IGN)
driving = False
while True:
    ready, _, _ = select.select([0], [], [], limit if driving else None)
    data = os.read(0, 4096) if ready else b""
    if data:
        driving = data[-1:] == b"d"
        continue
    try:
        for _ in range(2):
            os.write(line, stop)
    except OSError:
        pass
    driving = False
    if ready:
        sys.exit(0)
"""


class StopGuard:
    """Guards one line.

    Parameters
    ----------
    line
        File descriptor of the open device.
    stop
        Bytes that stop it.
    deadman_s
        Longest time between two drive commands.
    """

    def __init__(self, line: int, stop: bytes, deadman_s: float) -> None:
        command = [sys.executable, "-I", "-S", "-c", _CODE]
        self._process = subprocess.Popen(
            [*command, str(line), str(deadman_s), stop.hex()],
            stdin=subprocess.PIPE,
            pass_fds=(line,),
            start_new_session=True,
        )
        assert self._process.stdin is not None  # noqa: S101
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    @property
    def pid(self) -> int:
        """Of the guard's process."""
        return self._process.pid

    def driving(self) -> None:
        """Say that a drive command was just sent."""
        self._say(b"d")

    def stopped(self) -> None:
        """Say that the device stands: silence is no news now."""
        self._say(b"s")

    def close(self) -> None:
        """End the guard; it writes a last stop, if it can within 0.2 s.

        The driver has written one before, and its event loop waits here: a guard that a busy
        machine has not even started must not keep it.
        """
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(LAST_WORD_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # a guard that is gone or full stops nobody's stop
            os.write(self._pipe, word)
