# SPDX-License-Identifier: MIT
"""`kofn fleet`: orders to a run that goes on, with real processes."""

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from kofn_process import Kofn, wait_for
from prometheus_client.parser import text_string_to_metric_families

from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.record import read_decisions, read_run
from kofn.launch.parts import write_credentials

NAMES = {"controller": "controller", "a": "host", "b": "host"}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[list[str]]:
    """Options of a broker of our own; each user's credentials are in `<name>.json`."""
    users = [BrokerUser(name, f"secret-{name}", role) for name, role in NAMES.items()]  # type: ignore[arg-type]
    for user in users:
        write_credentials(tmp_path / f"{user.name}.json", user.name, user.password)
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as started:
        yield ["--broker", started.url, "--mqtt", started.protocol, "--fleet", "f"]


@pytest.mark.e2e
@pytest.mark.broker
def test_hosts_hold_resume_leave_and_halt_on_order(
    kofn: Kofn, broker: list[str], policy_file: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    time = ("--period", "1", "--speed", "5")
    hosts = {
        name: kofn.start(
            "robot", *broker, "--credentials", f"{name}.json", "--host", name, *time
        )
        for name in ("a", "b")
    }  # fmt: skip
    steering = kofn.start(
        "controller", *broker, "--credentials", "controller.json", "--policy", str(policy_file),
        "--k", "1", "--robots", "2", "--steps", "100000", *time, "--metrics-port", str(port),
    )  # fmt: skip
    (record,) = wait_for(lambda: list((tmp_path / "runs").glob("*-f/run.mcap")), "the run folder")
    folder = record.parent

    def frame() -> int:
        decisions = read_decisions(folder)
        return decisions[-1].frame if decisions else 0

    wait_for(lambda: frame() == 2, "both hosts")
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    page = {sample.name: sample.value for family in families for sample in family.samples}
    assert page["kofn_steps_total"] >= 1
    assert page["kofn_poll_size"] == 1
    assert 0 < page["kofn_echo_seconds"] < 10
    held = kofn.json("fleet", "hold", "a", "--run", str(folder), "--why", "battery")
    assert held == {"op": "hold", "ok": True, "text": "1 of 1 hosts complied", "hosts": {}}
    wait_for(lambda: frame() == 1, "the frame without a")
    kofn.json("fleet", "resume", "a", "--run", str(folder))
    wait_for(lambda: frame() == 2, "the frame with a")
    unknown = kofn.run("fleet", "hold", "c", "--run", str(folder))
    assert unknown.returncode == 1
    assert "host c has not been heard of; known are a, b" in unknown.stderr
    kofn.json("fleet", "leave", "b", "--run", str(folder))
    assert hosts["b"].wait(20) == 0
    wait_for(lambda: frame() == 1, "the frame without b")
    kofn.json("fleet", "halt", "--run", str(folder), "--why", "smoke")
    assert steering.wait(30) == 1
    assert steering.stderr is not None
    assert "operator halted the fleet up to epoch 1: smoke" in steering.stderr.read()
    ops = [entry.message.op for entry in read_run(folder) if entry.kind == "cmd"]  # type: ignore[union-attr]
    assert ops == ["HOLD", "RESUME", "LEAVE"]
    over = kofn.run("fleet", "hold", "a", "--run", str(folder))
    assert (over.returncode, "is over" in over.stderr) == (2, True)
