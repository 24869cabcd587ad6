# SPDX-License-Identifier: MIT
"""One federated run of a Flower app: in one process of its own, or on Flower's simulation engine.

Nothing here imports flwr: it takes seconds and belongs into the processes that run an app. Flower's
engine is its SuperLink in simulation mode, which plays the nodes with ray; it is started here, on a
free loopback port, rather than left to `flwr run`, whose own one stays behind.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tomli_w

from kofn.controller.core.errors import InputError, RunError
from kofn.launch.loopback import bring_up_loopback
from kofn.launch.orphans import no_orphans
from kofn.launch.supervise import Child, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Setting = bool | int | float | str

START_S = 90.0
ASK_EVERY_S = 3.0
ASK_AGAIN = 5

#: No telemetry, no look for updates, no installation of dependencies at run time (it would fetch
#: them from the network into a fresh environment); one thread for each process.
ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

HOW_TO_INSTALL = (
    'pip install "kofn[fed,fed-data]", in an environment without kofn[broker], whose amqtt '
    "excludes it"
)


def need_flower(verb: str) -> None:
    """Raise InputError with how to install Flower where it is missing."""
    if importlib.util.find_spec("flwr") is None:
        raise InputError(f"kofn fed {verb} needs Flower, which is not installed: {HOW_TO_INSTALL}")


def child_environment(home: Path) -> dict[str, str]:
    """Return the environment of all child processes, with Flower's files in `home`."""
    scripts = str(Path(sys.executable).parent)  # where flwr finds its own programs
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    own = {"FLWR_HOME": str(home), "RAY_TMPDIR": str(home), "PATH": path}
    return {**os.environ, **direct, **ENVIRONMENT, **own}


def run_in_process(
    app: Path, settings: Mapping[str, Setting], out: Path, watch: Callable[[], None]
) -> None:
    """Run an app in a process of its own; its log is `app.log` in `out`.

    Raises
    ------
    InputError, RunError
        As the app says.
    """
    pairs = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    command = [sys.executable, "-m", "kofn.fed.flower.app_runner", str(app), *pairs]
    with (
        tempfile.TemporaryDirectory(prefix="kofn-fed-") as home,
        Supervisor(out, environment=child_environment(Path(home))) as supervisor,
    ):
        child = supervisor.start("app", command)
        code = supervisor.wait(child, watch)
    if code == 2:
        raise InputError(child.last_words())
    if code:
        raise RunError(f"the app {child.how_it_ended()}; see {child.log}")


def run_on_flower(
    app: Path,
    settings: Mapping[str, Setting],
    out: Path,
    watch: Callable[[], None],
    *,
    nodes: int,
) -> None:
    """Run an app by `flwr run` on Flower's simulation engine; logs are in `out`.

    Raises
    ------
    InputError, RunError
        As the app says, or when the engine does not come up or the run does not finish.
    """
    bring_up_loopback()
    # Short: ray puts sockets below it, whose paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="kofn-fed-") as folder:
        home = Path(folder)
        environment = child_environment(home)
        with no_orphans(), Supervisor(out, environment=environment) as supervisor:
            link = _start_superlink(supervisor, home, environment)
            flwr = _Flwr(environment, out)
            (home / "settings.toml").write_text(tomli_w.dumps(dict(settings)))
            started = flwr.ask(
                "run",
                str(app),
                "kofn",
                "--run-config",
                str(home / "settings.toml"),
                "--federation-config",
                f"num-supernodes={nodes} client-resources-num-cpus=1",
            )
            try:
                _wait_for_the_end(flwr, str(started["run-id"]), link, watch)
            except RunError as error:
                raise _said_by_the_app(settings) or error from None


def _program(name: str, environment: dict[str, str]) -> str:
    found = shutil.which(name, path=environment["PATH"])
    if found is None:
        raise RunError(f"program {name!r} is not there or cannot be executed")
    return found


def _start_superlink(supervisor: Supervisor, home: Path, environment: dict[str, str]) -> Child:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    connections = {"default": "kofn", "kofn": {"address": address, "insecure": True}}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": connections}))
    link = supervisor.start(
        "superlink",
        [
            _program("flower-superlink", environment),
            *("--insecure", "--simulation", "--isolation", "subprocess"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
    )
    until = time.monotonic() + START_S
    while not _healthy(port):
        if link.process.poll() is not None:
            raise RunError(f"Flower's SuperLink {link.how_it_ended()}; see {link.log}")
        if time.monotonic() > until:
            raise RunError(f"Flower's SuperLink did not answer within {START_S:g} s")
        time.sleep(0.1)
    return link


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _Flwr:
    """Calls of the command `flwr`, whose exit code alone says little."""

    def __init__(self, environment: dict[str, str], out: Path) -> None:
        self._environment = environment
        self._log = out / "flwr.log"
        self._program = _program("flwr", environment)

    def ask(self, *arguments: str) -> dict[str, Any]:
        """Return what a call says of itself as JSON."""
        with self._log.open("ab") as log:
            try:
                done = subprocess.run(
                    [self._program, *arguments, "--format", "json"],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    env=self._environment,
                    timeout=START_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise RunError(
                    f"flwr {arguments[0]} did not end within {START_S:g} s; see {self._log}"
                ) from None
            log.write(done.stdout)
        # Notes may stand before the object.
        found = re.search(rb"^\{.*", done.stdout, re.DOTALL | re.MULTILINE)
        try:
            said: dict[str, Any] = msgspec.json.decode(found[0] if found else b"{}")
        except msgspec.MsgspecError:
            said = {}
        if not said.get("success", False):
            why = " ".join(str(said.get("error-message", f"exit code {done.returncode}")).split())
            raise RunError(f"flwr {arguments[0]} failed: {why}; see {self._log}")
        return said


def _wait_for_the_end(flwr: _Flwr, run_id: str, link: Child, watch: Callable[[], None]) -> None:
    ask = time.monotonic() + ASK_EVERY_S
    failures = 0
    while True:
        watch()
        if link.process.poll() is not None:
            raise RunError(f"Flower's SuperLink {link.how_it_ended()}; see {link.log}")
        if time.monotonic() >= ask:
            try:
                runs = _runs(flwr.ask("list", "--run-id", run_id, "kofn"))
                failures = 0
            except RunError:
                # The run goes on whether or not its state could be asked for.
                failures += 1
                if failures == ASK_AGAIN:
                    raise
                runs = []
            status = str(runs[0].get("status")) if runs else "unknown"
            if status == "finished:completed":
                return
            if status.startswith("finished"):
                details = runs[0].get("status-details", "no details")
                raise RunError(f"the run ended as {status} ({details}); see {link.log}")
            ask = time.monotonic() + ASK_EVERY_S
        time.sleep(0.1)


def _runs(said: dict[str, Any]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = said.get("runs", [])
    if not runs:
        raise RunError("Flower's SuperLink does not know the run any more")
    return runs


def _said_by_the_app(settings: Mapping[str, Setting]) -> InputError | RunError | None:
    """Return the error that the app left in its result file, if it was one of ours."""
    try:
        left = msgspec.json.decode(Path(str(settings.get("result", ""))).read_bytes())
        sentence, bad_input = str(left["error"]), bool(left["bad_input"])
    except (OSError, msgspec.MsgspecError, KeyError, TypeError):
        return None
    return InputError(sentence) if bad_input else RunError(sentence)
