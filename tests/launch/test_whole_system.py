# SPDX-License-Identifier: MIT
"""The whole system as real processes: broker, PyBullet hosts, controller, supervisor."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kofn_process import Kofn, brokers, family, gone, port_is_free, wait_for

from kofn.controller.core.errors import InputError
from kofn.controller.link import messages
from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Session
from kofn.controller.record import read_decisions, read_run
from kofn.launch.parts import write_credentials

pytestmark = [pytest.mark.e2e, pytest.mark.bullet, pytest.mark.broker]

DEMO_KEYS = {
    "run_dir", "broker", "robots", "k", "steps", "mean_share_in_target_last10",
    "mean_share_in_target_last10_random", "mean_reward", "mean_reward_random", "poll_p50_ms",
    "poll_p99_ms", "polls_sent", "replies_used", "wall_s",
}  # fmt: skip

Scenario = Callable[..., Path]


@pytest.mark.timeout(300)
def test_demo_trains_steers_and_beats_the_random_control(kofn: Kofn) -> None:
    result = kofn.json(
        "demo", "--robots", "8", "--k", "3", "--steps", "14", "--seed", "1", mosquitto=False
    )
    assert set(result) >= DEMO_KEYS
    assert result["broker"] == "amqtt"
    assert result["mean_share_in_target_last10"] >= 0.5
    assert result["mean_share_in_target_last10_random"] < 0.5
    assert result["mean_reward"] > result["mean_reward_random"]
    assert result["replies_used"] <= 3 * 14
    folder = kofn.home / result["run_dir"]
    files = {path.name for path in folder.iterdir()}
    wanted = {"config.toml", "policy.npz", "run.mcap", "summary.json", "report.png", "video.mp4"}
    assert wanted <= files
    assert len(read_decisions(folder)) == 14
    assert len(read_decisions(folder / "control")) == 14


@pytest.mark.parametrize("broker", brokers())
def test_a_scenario_runs_on_each_broker_of_our_own(
    kofn: Kofn, scenario: Scenario, broker: str
) -> None:
    result = kofn.json("up", str(scenario()), "--broker", broker, "--no-video")
    assert result["broker"] == broker
    assert (result["robots"], result["k"], result["steps"]) == (6, 2, 4)
    assert result["polls_sent"] == result["replies_used"] == 2 * 4


def test_the_same_seed_gives_the_same_run_whatever_the_broker(
    kofn: Kofn, scenario: Scenario
) -> None:
    """Lockstep: with every answer present a run is a function of the seed.

    Also the control, in which robots draw their actions, and also under a later epoch.
    """
    path = str(scenario(control=True))
    traces, figures = [], []
    for broker in (brokers()[0], brokers()[-1]):
        result = kofn.json("up", path, "--broker", broker, "--no-video")
        folder = kofn.home / result["run_dir"]
        decisions = read_decisions(folder) + read_decisions(folder / "control")
        traces.append([(d.t, d.g, d.u, d.asked, d.counts) for d in decisions])
        figures.append([v for key, v in result.items() if key.startswith("mean_")])
        epochs = {d.ep for d in decisions}
        assert len(epochs) == 2
    assert traces[0] == traces[1]
    assert figures[0] == figures[1]


def test_hosts_and_controller_are_processes_of_their_own(kofn: Kofn, scenario: Scenario) -> None:
    process = kofn.start("up", str(scenario(steps=30)), "--no-video", "--json")

    def verbs() -> set[str]:
        lines = [child.cmdline() for child in family(process)[1:]]
        return {line[3] for line in lines if line[1:3] == ["-m", "kofn.launch"]}

    wait_for(lambda: verbs() >= {"swarm", "controller"}, "hosts and controller")
    hosts = [c for c in family(process)[1:] if "swarm" in c.cmdline()]
    assert len({child.pid for child in hosts}) == 2
    stdout, _ = process.communicate(timeout=120)
    assert json.loads(stdout)["replies_used"] == 2 * 30


def test_no_state_but_the_k_polled_crosses_the_broker(
    kofn: Kofn, tmp_path: Path, policy_file: Path
) -> None:
    """Seen from the broker by a client that may read everything in the fleet."""
    k, steps, hosts = 2, 5, ("a", "b")
    users = [BrokerUser(name, f"secret-{name}", "host") for name in hosts]
    users += [
        BrokerUser("controller", "secret-controller", "controller"),
        BrokerUser("ear", "secret-ear", "auditor"),
    ]
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as broker:
        ear = MqttTransport(
            broker.url,
            MonotonicClock(),
            username="ear",
            password="secret-ear",  # noqa: S106  of a broker that lives for this test
            protocol=broker.protocol,
        )
        ear.open(Session("ear", [("kofn1/f/#", 0)], will=lambda _: None, birth=lambda _: []))
        try:
            wires = {}
            for user in users:
                file = write_credentials(tmp_path / f"{user.name}.json", user.name, user.password)
                wires[user.name] = [
                    *("--broker", broker.url, "--fleet", "f"),
                    *("--credentials", str(file), "--mqtt", broker.protocol),
                ]
            running = [
                kofn.start("swarm", *wires[name], "--host", name, "--robots", "4") for name in hosts
            ]
            summary = kofn.json(
                *("controller", *wires["controller"], "--policy", str(policy_file)),
                *("--k", str(k), "--robots", "8", "--steps", str(steps)),
            )
            for process in running:
                process.send_signal(signal.SIGTERM)
            heard = []
            while (message := ear.receive(1.0)) is not None:
                heard.append(message)
        finally:
            ear.close()
    assert summary["replies_used"] == k * steps
    by_kind: dict[str, list[bytes]] = {}
    for message in heard:
        kind = message.topic.split("/")[2]
        by_kind.setdefault(kind, []).append(message.payload)
    assert set(by_kind) <= {"ctl", "step", "poll", "rep", "done", "conn", "roster", "pol"}
    assert len(by_kind["step"]) == steps
    replies = [messages.decode(messages.Reply, payload) for payload in by_kind["rep"]]
    rows_by_step: dict[int, int] = {}
    for reply in replies:
        rows_by_step[reply.t] = rows_by_step.get(reply.t, 0) + len(reply.r)
    assert rows_by_step == dict.fromkeys(range(steps), k)
    # What else hosts say holds no zone: these types have no field for one.
    for payload in by_kind["done"]:
        assert set(json.loads(payload)) == {"v", "ep", "t", "b", "n", "sim"}
    for payload in by_kind["conn"]:
        assert set(json.loads(payload)) == {"v", "b", "c", "st", "n"}


MIXED = """
[time]
pace = "realtime"
speed = 12.0
[[hosts]]
name = "a"
robots = 3
[[hosts]]
kind = "robot"
name = "dry"
zone = 3
"""


def test_a_dry_run_robot_replaces_a_simulated_host(kofn: Kofn, scenario: Scenario) -> None:
    """Hardware in the loop in miniature: the controller's command line does not change."""
    result = kofn.json("up", str(scenario(hosts=MIXED, k=4, steps=8)), "--no-video")
    assert result["robots"] == 4
    folder = kofn.home / result["run_dir"]
    asked = {robot for decision in read_decisions(folder) for robot in decision.asked}
    assert asked == {"a.r0", "a.r1", "a.r2", "dry.r0"}
    replies = [e.message for e in read_run(folder) if isinstance(e.message, messages.Reply)]
    zones = {row.z for reply in replies for row in reply.r if row.id == "dry.r0"}
    assert result["replies_used"] >= 4 * 8 - 4  # a late answer of a real-time robot is no failure
    assert len(zones) >= 2, "the robot on the dry-run driver never changed its zone"
    assert result["mean_share_in_target_last10"] > 0.2


def broker_port(processes: list[psutil.Process]) -> int | None:
    for process in processes:
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    return int(connection.laddr.port)
        except psutil.Error:
            continue
    return None


def ended_cleanly(process: subprocess.Popen[str], before: list[psutil.Process]) -> str:
    """Assert exit code 1, one line, no orphan, no busy port; return the line."""
    port = broker_port(before)
    stdout, stderr = process.communicate(timeout=40)
    assert process.returncode == 1, stderr
    assert stdout == ""
    lines = [line for line in stderr.splitlines() if line.startswith("kofn: ")]
    assert len(lines) == 1
    assert stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in stderr
    assert gone(before[1:]), "processes were left behind"
    if port is not None:
        assert port_is_free(port)
    return lines[0]


def steering(process: subprocess.Popen[str], home: Path) -> list[psutil.Process]:
    """Wait until the run has made a few steps; return all processes of the run."""

    def few_steps() -> bool:
        assert process.poll() is None, process.communicate()[1]
        try:
            return any(len(read_decisions(f.parent)) >= 3 for f in home.glob("runs/*/run.mcap"))
        except InputError:
            return False

    wait_for(few_steps, "the first steps")
    return family(process)


def readable(kofn: Kofn) -> dict[str, Any]:
    """Replay the only run there is."""
    (folder,) = kofn.home.glob("runs/*-*")
    return kofn.json("replay", str(folder))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_steering_ends_everything(
    kofn: Kofn, scenario: Scenario, stop: signal.Signals
) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    everyone = steering(process, kofn.home)
    process.send_signal(stop)
    line = ended_cleanly(process, everyone)
    assert "what was recorded is in runs/" in line
    replayed = readable(kofn)
    assert not replayed["completed"]
    assert len(replayed["steps"]) >= 3


@pytest.mark.parametrize("after_s", [0.0, 0.15, 0.4, 0.8, 1.3, 2.0])
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(
    kofn: Kofn, scenario: Scenario, after_s: float
) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    # Before its handlers are in place a Python process dies of SIGINT by itself.
    wait_for(lambda: handles_sigint(process.pid), "the signal handlers")
    time.sleep(after_s)  # the moment is the point here
    everyone = family(process)
    process.send_signal(signal.SIGINT)
    line = ended_cleanly(process, everyone)
    assert "Ctrl-C" in line


def handles_sigint(pid: int) -> bool:
    """Whether the process runs our entry point yet: its mask of caught signals is no help, since
    the interpreter catches SIGINT too, but SIGTERM is caught by us only."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def test_kill_9_of_a_host_fails_the_run_and_leaves_a_readable_folder(
    kofn: Kofn, scenario: Scenario
) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    everyone = steering(process, kofn.home)
    victim = next(p for p in everyone if "swarm" in p.cmdline())
    os.kill(victim.pid, signal.SIGKILL)
    line = ended_cleanly(process, everyone)
    assert "was killed by SIGKILL" in line
    assert "what was recorded is in runs/" in line
    assert len(readable(kofn)["steps"]) >= 3


def test_kill_9_of_the_controller_leaves_a_readable_folder(kofn: Kofn, scenario: Scenario) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    everyone = steering(process, kofn.home)
    victim = next(p for p in everyone if "controller" in p.cmdline()[:5])
    os.kill(victim.pid, signal.SIGKILL)
    assert "was killed by SIGKILL" in ended_cleanly(process, everyone)
    assert len(readable(kofn)["steps"]) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="children follow their parent on Linux only")
def test_kill_9_of_the_supervisor_takes_everything_with_it(kofn: Kofn, scenario: Scenario) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    everyone = steering(process, kofn.home)
    port = broker_port(everyone)
    process.kill()
    process.communicate()
    assert gone(everyone)
    assert port is not None
    assert port_is_free(port)
    assert len(readable(kofn)["steps"]) >= 3


def test_a_dead_broker_fails_the_run(kofn: Kofn, scenario: Scenario) -> None:
    process = kofn.start("up", str(scenario(steps=5000)), "--no-video")
    everyone = steering(process, kofn.home)
    names = ("mosquitto", "amqtt_process")
    victim = next(p for p in everyone if any(n in " ".join(p.cmdline()) for n in names))
    os.kill(victim.pid, signal.SIGKILL)
    assert "broker" in ended_cleanly(process, everyone)


def test_a_broker_that_is_not_there_is_one_sentence(kofn: Kofn, scenario: Scenario) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = kofn.run("up", str(scenario()), "--broker", f"mqtt://127.0.0.1:{port}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"mqtt://127.0.0.1:{port}" in line


@pytest.mark.timeout(60)
def test_a_broker_that_takes_the_connection_but_never_answers_is_one_sentence(
    kofn: Kofn, scenario: Scenario
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        done = kofn.run("up", str(scenario()), "--broker", f"mqtt://127.0.0.1:{port}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_fleet_that_does_not_appear_is_one_sentence(
    kofn: Kofn, tmp_path: Path, policy_file: Path
) -> None:
    users = [BrokerUser("controller", "secret", "controller")]
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as broker:
        file = write_credentials(tmp_path / "c.json", "controller", "secret")
        done = kofn.run(
            *("controller", "--broker", broker.url, "--fleet", "f", "--credentials", str(file)),
            *("--mqtt", broker.protocol, "--policy", str(policy_file), "--k", "2"),
            *("--robots", "3", "--steps", "2", "--wait", "1"),
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "0 of 3 robots" in line


def test_plot_draws_a_run_again(kofn: Kofn, scenario: Scenario) -> None:
    folder = kofn.json("up", str(scenario()), "--no-video")["run_dir"]
    assert not (kofn.home / folder / "video.mp4").exists()
    (kofn.home / folder / "report.png").unlink()
    written = kofn.json("plot", folder)["written"]
    assert [Path(path).name for path in written] == ["report.png", "video.mp4"]
    assert all((kofn.home / path).stat().st_size > 10_000 for path in written)
