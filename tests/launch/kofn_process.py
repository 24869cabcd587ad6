# SPDX-License-Identifier: MIT
"""The command as a process, and ways to see what it leaves behind."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import psutil


class Kofn:
    """Runs `kofn` in a folder of its own; a PATH without mosquitto makes `auto` mean amqtt."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[str]] = []
        self.extra: dict[str, str] = {}
        """Further variables of the environment."""

    def environment(self, *, mosquitto: bool = True) -> dict[str, str]:
        folders = os.environ["PATH"].split(os.pathsep)
        if not mosquitto:
            folders = [f for f in folders if not (Path(f) / "mosquitto").exists()]
        return {**os.environ, "PATH": os.pathsep.join(folders), **self.extra}

    def start(
        self, *arguments: str, mosquitto: bool = True, stderr: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start the command; what it logs is piped, or goes to a file."""
        with ExitStack() as stack:
            to = subprocess.PIPE if stderr is None else stack.enter_context(stderr.open("w"))
            return self._start(arguments, to, mosquitto=mosquitto)

    def _start(
        self, arguments: tuple[str, ...], stderr: int | IO[str], *, mosquitto: bool
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "kofn.launch", *arguments],
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=self.environment(mosquitto=mosquitto),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, mosquitto: bool = True) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, mosquitto=mosquitto)
        stdout, stderr = process.communicate(timeout=170)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def json(self, *arguments: str, mosquitto: bool = True) -> dict[str, Any]:
        """Run with --json and return the object; whatever else is on stdout is an error."""
        done = self.run(*arguments, "--json", mosquitto=mosquitto)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and everything below it."""
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """Wait for something that another process does; return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s} s for {what}")


def gone(processes: list[psutil.Process], timeout_s: float = 10.0) -> bool:
    """Whether all of them end within the time."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not alive


def brokers() -> list[str]:
    """Kinds of broker of our own that can be started here."""
    return ["mosquitto", "amqtt"] if shutil.which("mosquitto") else ["amqtt"]


def port_is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
