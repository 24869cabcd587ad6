# SPDX-License-Identifier: MIT
"""Child processes of a run: started together, watched together, and none left behind.

Every child is in its own session (Ctrl-C in the terminal reaches the supervisor only, which then
ends the children in order) and dies with its parent (`spawn_child`).
"""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kofn.controller.core.errors import RunError
from kofn.controller.link.children import spawn_child

POLL_S = 0.05
TERMINATE_S = 8.0


class Child:
    """One child process and the file that its stderr goes to."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def last_words(self) -> str:
        """Return the last line of the child's log without our prefix, "" without a line."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("kofn: ") if lines else ""

    def how_it_ended(self) -> str:
        """Return the exit code or signal in words, with the child's last words."""
        code = self.process.returncode
        if code is None:
            return "still running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        words = self.last_words()
        return f"ended with code {code}" + (f" ({words})" if words else "")


class Supervisor:
    """Starts children, notices when one dies, and ends them all.

    Parameters
    ----------
    log_dir
        Where `<name>.log` of each child goes.
    environment
        Of the children; by default this process's.
    """

    def __init__(self, log_dir: Path, *, environment: dict[str, str] | None = None) -> None:
        self._log_dir = log_dir
        self._environment = environment
        self._children: list[Child] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start a child; its stdout is discarded, its stderr goes to `<name>.log`."""
        log = self._log_dir / f"{name}.log"
        with log.open("wb") as stderr:
            process = spawn_child(
                list(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=self._environment,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def wait(self, child: Child, on_poll: Callable[[], None] = lambda: None) -> int:
        """Wait for `child` while watching the others; return its exit code.

        Raises
        ------
        RunError
            Another child ended meanwhile.
        """
        while child.process.poll() is None:
            self.check(but=child)
            on_poll()
            time.sleep(POLL_S)
        self._children.remove(child)
        return child.process.returncode

    def check(self, but: Child | None = None) -> None:
        """Raise `RunError` when a child (other than `but`) has ended.

        A host that was told to leave ends well; nothing else does so in mid-run.
        """
        for other in self._children:
            if other is not but and other.process.poll() not in (None, 0):
                raise RunError(f"{other.name} {other.how_it_ended()}")

    def stop(self, children: Sequence[Child] | None = None) -> None:
        """End the given children (default: all, last started first): SIGTERM, then SIGKILL."""
        doomed = list(reversed(self._children)) if children is None else list(children)
        for child in doomed:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + TERMINATE_S
        for child in doomed:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child in self._children:
                self._children.remove(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
