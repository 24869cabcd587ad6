# SPDX-License-Identifier: MIT
"""Children do not outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from wires import until

from kofn.controller.core.errors import RunError
from kofn.controller.link.children import end_child, spawn_child

_PARENT = """
import sys, time
from kofn.controller.link.children import spawn_child
child = spawn_child(["sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl of Linux")
def test_a_child_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        until(lambda: psutil.Process(pid).name() == "sleep")
        parent.send_signal(signal.SIGKILL)
    until(lambda: gone(pid), 5.0)


def test_a_child_keeps_its_process_id_arguments_and_exit_code(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    child = spawn_child(
        [sys.executable, "-c", code, "a b", "", "--x=1"], stdout=subprocess.PIPE, cwd=tmp_path
    )
    out, _ = child.communicate()
    assert out.decode().strip() == f"{child.pid} ['a b', '', '--x=1']"
    assert child.returncode == 7


def test_a_python_child_sees_the_packages_of_this_environment() -> None:
    child = spawn_child(
        [sys.executable, "-c", "import kofn.controller.link.topics, sys; print(sys.prefix)"],
        stdout=subprocess.PIPE,
    )
    out, _ = child.communicate()
    assert out.decode().strip() == sys.prefix


def test_a_child_leads_a_session_of_its_own() -> None:
    child = spawn_child(["sleep", "60"])
    until(lambda: os.getsid(child.pid) == child.pid)
    end_child(child)


def test_end_child_terminates_and_may_be_called_again() -> None:
    child = spawn_child(["sleep", "60"], stdout=subprocess.PIPE)
    until(lambda: psutil.Process(child.pid).name() == "sleep")
    assert end_child(child) == -signal.SIGTERM
    assert end_child(child) == -signal.SIGTERM


def test_a_child_that_ignores_the_request_is_killed_after_its_grace() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(1, flush=True); time.sleep(60)"
    )
    child = spawn_child([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    start_s = time.monotonic()
    assert end_child(child, grace_s=0.3) == -signal.SIGKILL
    assert 0.25 < time.monotonic() - start_s < 2.0


def test_an_unknown_program_is_one_sentence() -> None:
    with pytest.raises(RunError, match=r"^program 'no-such-thing' is not there"):
        spawn_child(["no-such-thing", "x"])
