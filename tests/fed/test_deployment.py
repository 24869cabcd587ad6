# SPDX-License-Identifier: MIT
"""A SuperLink and three SuperNodes on loopback, with TLS and node authentication.

Slow: every message starts a process on the node, and nodes ask for work every few seconds.
"""

import json
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import tomli_w
from kofn_process import port_is_free, wait_for

from kofn.fed.flower import read_log
from kofn.launch.entry import run as kofn_run
from kofn.launch.fed_engines import child_environment

SCRIPTS = Path(sys.executable).parent
CLIENTS = 3
TRAINED = 2
ROUNDS = 4


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def started(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a program and everything it starts; end them all."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SCRIPTS / command[0]), *command[1:]],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def command_of(unit: Path, environment_file: Path) -> list[str]:
    """Return the command of a service unit, with its variables filled in as systemd does."""
    text = unit.read_text().replace("\\\n", " ")
    found = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert found
    variables = dict(
        line.split("=", 1) for line in environment_file.read_text().splitlines() if line
    )
    words = found[1].split()
    for name, value in variables.items():
        words = [word.replace(f"${{{name}}}", shlex.split(value)[0]) for word in words]
    return [Path(words[0]).name, *words[1:]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chosen_clients_train_over_tls_with_the_keys_and_units_that_kofn_makes(
    tmp_path: Path,
) -> None:
    keys, home, port = tmp_path / "keys", tmp_path / "home", free_port()
    home.mkdir()
    names = [f"pi-{i}" for i in range(CLIENTS)]
    made = kofn_run(
        ["fed", "keys", str(keys), "--superlink", "127.0.0.1", "--port", str(port),
         "--bind", "127.0.0.1", "--client", ",".join(names)]
    )  # fmt: skip
    assert made == 0
    assert kofn_run(["fed", "app", str(tmp_path / "app")]) == 0
    authority = str(keys / "authority" / "ca.crt")
    link = {"address": f"127.0.0.1:{port}", "root-certificates": authority}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "k", "k": link}}))
    environment = child_environment(home)

    def flwr(*arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [SCRIPTS / "flwr", *arguments, "--format", "json"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        found = re.search(r"^\{.*", done.stdout, re.DOTALL | re.MULTILINE)
        assert found, done.stdout + done.stderr
        said: dict[str, object] = json.loads(found[0])
        assert said.get("success"), said
        return said

    log, result = tmp_path / "rounds.jsonl", tmp_path / "result.json"
    with ExitStack() as running:
        server = command_of(
            keys / "superlink" / "kofn-superlink.service", keys / "superlink" / "superlink.env"
        )
        here = {"/etc/kofn/superlink": str(keys / "superlink"),
                "/var/lib/kofn-superlink": str(home)}  # fmt: skip
        running.enter_context(started(_there(server, here), tmp_path / "link.log", environment))
        wait_for(lambda: not port_is_free(port), "the SuperLink", timeout_s=90)
        for name in names:
            flwr("supernode", "register", str(keys / "nodes" / name / "node.pub"), "k")
        stranger = tmp_path / "stranger"
        assert kofn_run(["fed", "keys", str(stranger), "--superlink", "x", "--client", "s"]) == 0
        (stranger / "nodes" / "s" / "ca.crt").write_bytes(Path(authority).read_bytes())
        (stranger / "nodes" / "s" / "supernode.env").write_text(
            f"SUPERLINK=127.0.0.1:{port}\nNODE_CONFIG='partition-id=9'\n"
        )
        folders = [*(keys / "nodes" / name for name in names), stranger / "nodes" / "s"]
        for folder in folders:
            node = command_of(folder / "kofn-supernode.service", folder / "supernode.env")
            node = _there(node, {"/etc/kofn/supernode": str(folder)})
            node += ["--port", str(free_port())]
            running.enter_context(started(node, tmp_path / f"{folder.name}.log", environment))
        settings = {
            "time": "measured", "clients": CLIENTS, "train": TRAINED, "poll": 2, "rounds": ROUNDS,
            "partition": "iid", "model": "numpy", "log": str(log), "result": str(result),
        }  # fmt: skip
        (tmp_path / "settings.toml").write_text(tomli_w.dumps(settings))
        flwr("run", str(tmp_path / "app"), "k", "--run-config", str(tmp_path / "settings.toml"))
        wait_for(result.exists, "the result", timeout_s=400)
    rounds = read_log(log)
    assert len(rounds) == ROUNDS
    for record in rounds:
        # Three are registered; the stranger, whose key is not, never gets in.
        assert record.online == CLIENTS
        assert len(record.chosen) == TRAINED
        # The first round ends with half of its models; no round is lost.
        assert len(record.arrived) >= math.ceil(TRAINED / 2)
        assert all(seconds > 0 for seconds in record.seconds.values())
    # After it at most one model comes late, whatever the start of a process takes here.
    assert sum(len(record.arrived) for record in rounds[1:]) >= TRAINED * (ROUNDS - 1) - 1
    assert json.loads(result.read_text())["final_accuracy"] > 0.1


def _there(command: list[str], places: dict[str, str]) -> list[str]:
    for there, here in places.items():
        command = [word.replace(there, here) for word in command]
    return command
