# SPDX-License-Identifier: MIT
"""Ctrl-C at awkward moments: it is neither lost nor leaves anything behind."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from kofn.controller.core.errors import RunError
from kofn.controller.core.presets import arena
from kofn.controller.record import read_decisions
from kofn.launch import entry, fleet
from kofn.launch.entry import Interrupted
from kofn.launch.training import train

IN_A_DESTRUCTOR = """
import os, signal, time
from kofn.launch import entry

class Closing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)

def work(arguments):
    Closing()
    time.sleep(60)
    return 0

entry.run = work
entry.main()
"""

IN_A_BARE_EXCEPT = """
import os, signal, time
from kofn.launch import entry

def work(arguments):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except:  # as numpy and numba guard what is optional
        pass
    try:
        time.sleep(60)
    finally:
        time.sleep(0.3)  # a cleanup is not broken off
        print("cleaned", flush=True)

entry.run = work
entry.main()
"""

AFTER_THE_WORK = """
import atexit, os, signal
from kofn.launch import entry

atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
entry.run = lambda arguments: 0
entry.main()
"""


WHILE_WAITING_FOR_A_BROKER = """
import os, pathlib, signal, sys, threading, time
from kofn.launch import entry

def press(runs):
    while not list(runs.glob("*/config.toml")):  # written right before the broker is looked for
        time.sleep(0.05)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=press, args=(pathlib.Path(sys.argv[2]),), daemon=True).start()
sys.argv[1:] = ["controller", "--policy", sys.argv[1], "--k", "1", "--robots", "1", "--steps", "1",
                "--broker", "mqtt://127.0.0.1:1", "--wait", "100", "--out", sys.argv[2]]
entry.main()
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_ctrl_c_inside_a_destructor_is_not_lost() -> None:
    done = python(IN_A_DESTRUCTOR)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "kofn: stopped by Ctrl-C\n")


def test_ctrl_c_swallowed_by_a_library_is_not_lost() -> None:
    done = python(IN_A_BARE_EXCEPT)
    expected = (1, "cleaned\n", "kofn: stopped by Ctrl-C\n")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_ctrl_c_while_python_ends_after_the_work_changes_nothing() -> None:
    done = python(AFTER_THE_WORK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ctrl_c_breaks_off_the_wait_for_a_broker(policy_file: Path, tmp_path: Path) -> None:
    done = python(WHILE_WAITING_FOR_A_BROKER, str(policy_file), str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "kofn: stopped by Ctrl-C\n")
    (folder,) = tmp_path.glob("*-fleet")
    assert read_decisions(folder) == []


def test_the_private_folder_goes_even_when_its_removal_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remove = shutil.rmtree

    def interrupted_once(folder: Path, **options: bool) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)
        raise Interrupted("Ctrl-C")

    monkeypatch.setattr(shutil, "rmtree", interrupted_once)
    with pytest.raises(Interrupted), fleet._private_folder() as folder:
        (folder / "passwords").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with (
        pytest.raises(RunError, match=r"cannot make folder .*No such file"),
        fleet._private_folder(),
    ):
        pass


def test_learning_ends_when_the_watch_finds_a_dead_broker() -> None:
    def dead() -> None:
        raise RunError("the amqtt broker died")

    with pytest.raises(RunError, match="broker died"):
        train(arena(), k=2, n=4, restarts=1, rounds=1, watch=dead)


def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")

    monkeypatch.setattr("kofn.controller.core.policy.Policy.save", full)
    arguments = ["train", "arena", "--k", "2", "--n", "4", "--grid", "2", "--restarts", "1"]
    assert entry.run([*arguments, "--rounds", "1", "--out", str(tmp_path / "p.npz")]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in sentence
    assert "somewhere" in sentence
