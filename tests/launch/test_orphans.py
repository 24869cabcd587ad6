# SPDX-License-Identifier: MIT
"""Nothing that was started for a run outlives it."""

import subprocess
import sys

import psutil
import pytest

from kofn.launch.orphans import no_orphans


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can do it")
def test_processes_whose_parents_have_ended_are_ended_too() -> None:
    elder = subprocess.Popen(["sleep", "60"])
    with no_orphans():
        # In a session of its own, below a shell that ends at once.
        done = subprocess.run(
            ["sh", "-c", "setsid sleep 60 >/dev/null & echo $!"],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        orphan = int(done.stdout)
        assert psutil.pid_exists(orphan)
    assert not psutil.pid_exists(orphan)
    assert elder.poll() is None
    elder.kill()
    elder.wait()
