# SPDX-License-Identifier: MIT
"""`kofn fed` as a user calls it: runs on both engines, the app template, keys, bad input."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509 import load_pem_x509_certificate
from kofn_process import Kofn, family, wait_for

from kofn.launch.entry import run as kofn_run
from kofn.launch.fed_engines import ENVIRONMENT
from kofn.launch.verbs_fed import few_polled

KEYS = {
    "selector", "rounds", "final_accuracy", "selections", "simulated_s", "polls", "bytes_poll",
    "bytes_model", "wall_s",
}  # fmt: skip
SMALL = ["--clients", "20", "--train", "4", "--poll", "8", "--rounds", "3"]


@pytest.fixture
def kofn(tmp_path: Path) -> Iterator[Kofn]:
    """The command in an empty folder; whatever the test left running is killed."""
    command = Kofn(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def no_network() -> list[str]:
    """Return the words before a command that take all networks away from it; that takes root."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], check=False).returncode:
        return []
    return [unshare, "-n"]


def isolated(kofn: Kofn, *arguments: str) -> dict[str, Any]:
    """Run the command where there is no network, not even a loopback interface that is up."""
    done = subprocess.run(
        [*no_network(), sys.executable, "-m", "kofn.launch", *arguments, "--json"],
        cwd=kofn.home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def alike(run: dict[str, Any]) -> dict[str, Any]:
    """Return what must not depend on the engine."""
    apart = {"engine", "wall_s", "run_dir"}
    return {key: value for key, value in run.items() if key not in apart}


def test_a_run_in_one_process_learns_without_any_network(kofn: Kofn) -> None:
    found = isolated(kofn, "fed", "run")
    assert set(found) >= KEYS
    assert found["selector"] == "mean-field"
    assert found["rounds"] == len(found["selections"]) == 20
    assert all(0 < len(set(chosen)) == len(chosen) <= 10 for chosen in found["selections"])
    assert found["final_accuracy"] > 0.6
    assert found["simulated_s"] > 0
    # 20 are polled in each round, of which those that are offline cost no message.
    assert 200 < found["polls"] <= 400
    lines = (kofn.home / found["run_dir"] / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["chosen"] for line in lines] == found["selections"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_flowers_simulation_engine_gives_the_same_run_without_any_network(kofn: Kofn) -> None:
    if not no_network():
        pytest.skip("no network namespace can be made here (that takes root)")
    here = kofn.json("fed", "run", "--seed", "3")
    there = isolated(kofn, "fed", "run", "--seed", "3", "--engine", "ray")
    assert alike(there) == alike(here)
    assert there["engine"] == "ray"


def words(process: psutil.Process) -> str:
    """Return the command line of a process; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_app_that_fails_on_flowers_engine_is_a_failure_of_the_command(kofn: Kofn) -> None:
    assert kofn_run(["fed", "app", str(kofn.home / "mine")]) == 0
    server = kofn.home / "mine" / "kofnapp" / "server_app.py"
    server.write_text(
        server.read_text().replace("    run = context.run_config\n", "    raise OSError('boom')\n")
    )
    done = kofn.run("fed", "run", "mine", *SMALL, "--engine", "ray")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "finished:failed" in done.stderr
    done = kofn.run("fed", "run", *SMALL, "--engine", "ray", "--strategy", "FedSGD")
    assert done.returncode == 2
    assert done.stderr.startswith("kofn: there is no strategy 'FedSGD'")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_on_flowers_engine_that_is_stopped_leaves_nothing_behind(kofn: Kofn) -> None:
    process = kofn.start("fed", "run", "--engine", "ray", "--rounds", "200")
    wait_for(lambda: any("ray::" in words(p) for p in family(process)), "ray workers", 120)
    everything = family(process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by SIGTERM" in stderr
    wait_for(lambda: not any(words(p) for p in everything), "the end of all processes", 30)


def test_a_copy_of_the_app_runs_and_is_the_users_own(
    kofn: Kofn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kofn_run(["fed", "app", str(kofn.home / "mine"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert {"pyproject.toml", "README.md", "kofnapp/client_app.py"} <= set(made["files"])
    server = kofn.home / "mine" / "kofnapp" / "server_app.py"
    told = '"environment": dict(__import__("os").environ), "selector": strategy'
    server.write_text(server.read_text().replace('"selector": strategy', told))
    found = kofn.json("fed", "run", "mine", *SMALL, "--set", "epochs=1", "--set", "model=numpy")
    assert found["rounds"] == 3
    assert found["environment"].items() >= ENVIRONMENT.items()
    assert found["environment"]["FLWR_HOME"] != os.environ.get("FLWR_HOME")


def test_an_app_that_raises_is_exit_code_1_and_names_the_log(kofn: Kofn) -> None:
    assert kofn_run(["fed", "app", str(kofn.home / "mine")]) == 0
    (kofn.home / "mine" / "kofnapp" / "server_app.py").write_text("raise OSError('boom')\n")
    done = kofn.run("fed", "run", "mine", *SMALL)
    assert done.returncode == 1
    assert "boom" in done.stderr
    assert "app.log" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--selector", "rnadom"], "there is no selector 'rnadom'"),
        (["--poll", "101"], "poll size 101 exceeds the 100"),
        (["--poll", "101", "--selector", "random"], "poll size 101 exceeds the 100"),
        (["--poll", "9", "--selector", "power-of-choice"], "poll size 9 is below the 10"),
        (["--train", "101", "--poll", "100"], "clients per round 101 exceed the 100"),
        (["--clients", "0"], "number of clients"),
        (["--rounds", "0"], "rounds is 0"),
        (["--clients", "1438"], "do not fit the 1438 training samples of digits"),
        (["--dataset", "cifar"], "there is no data set 'cifar'"),
        (["--partition", "dirichlet"], "needs a positive number after the colon"),
        (["--flip", "1.5"], "flip probability 1.5"),
        (["--online", "o.csv"], "needs --devices"),
        (["--devices", "nowhere.csv"], "cannot read"),
        (["--set", "epochs"], "is not KEY=VALUE"),
        (["--set", "epochs=many"], "setting epochs is 'many', not a whole number"),
        (["--set", "epoch=1"], "has no setting 'epoch'"),
        (["nowhere"], "no app as kofn fed app makes it"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_sentence(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kofn_run(["fed", "run", *arguments, "--json"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert words in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_a_poll_of_fewer_than_train_is_played_and_said_in_one_sentence() -> None:
    (said,) = few_polled("mean-field", 5, 10)
    assert said.startswith("poll size 5 is below the 10 clients that train")
    assert few_polled("mean-field", 10, 10) == few_polled("oort", 5, 10) == []


def test_the_service_units_are_valid(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not installed")
    assert kofn_run(["fed", "keys", str(tmp_path / "k"), "--superlink", "h", "--client", "a"]) == 0
    for unit in (tmp_path / "k").rglob("*.service"):
        # The programs are not at their place here.
        here = re.sub(
            r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE
        )
        unit.write_text(here)
        done = subprocess.run(
            [verify, "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    assert kofn_run(["fed", "app", str(tmp_path)]) == 2
    assert kofn_run(["fed", "keys", str(tmp_path), "--superlink", "h", "--client", "a"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_keys_are_private_readable_by_flower_and_can_be_added(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    make = ["fed", "keys", str(folder)]
    assert kofn_run([*make, "--superlink", "fed.example,127.0.0.1", "--client", "pi-0,pi-1"]) == 0
    before = (folder / "nodes" / "pi-0" / "node.key").read_bytes()
    assert kofn_run([*make, "--client", "pi-2"]) == 0
    assert (folder / "nodes" / "pi-0" / "node.key").read_bytes() == before
    secrets = [*folder.glob("nodes/*/node.key"), folder / "authority" / "ca.key",
               folder / "superlink" / "server.key"]  # fmt: skip
    assert len(secrets) == 5
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for node in (folder / "nodes").iterdir():
        private = load_ssh_private_key((node / "node.key").read_bytes(), password=None)
        public = load_ssh_public_key((node / "node.pub").read_bytes())
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert private.public_key().public_numbers() == public.public_numbers()
        assert "SUPERLINK=fed.example:8000" in (node / "supernode.env").read_text()
    parts = {(folder / "nodes" / f"pi-{i}" / "supernode.env").read_text()[-5:] for i in range(3)}
    assert len(parts) == 3
    authority = load_pem_x509_certificate((folder / "authority" / "ca.crt").read_bytes())
    server = load_pem_x509_certificate((folder / "superlink" / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--client", "a"], "names no host"),
        (["--superlink", "h", "--client", "../a"], "client name '../a'"),
        (["--superlink", "h", "--client", "a,a"], "named twice"),
        (["--superlink", "h", "--port", "0"], "port 0"),
    ],
)
def test_keys_for_names_that_cannot_be_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kofn_run(["fed", "keys", str(tmp_path / "keys"), *arguments]) == 2
    assert words in capsys.readouterr().err
