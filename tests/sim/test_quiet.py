# SPDX-License-Identifier: MIT
"""Nothing that C code prints reaches stdout."""

import subprocess
import sys

import msgspec
import pytest

_C_PRINTS = """
import ctypes, json
from kofn.sim.quiet import quiet_stdout
libc = ctypes.CDLL(None)
with quiet_stdout():
    libc.puts(b"from C")
    print("from Python")
print(json.dumps({"ok": True}))
"""

_BULLET = """
import json
import numpy as np
from kofn.sim.bullet import BulletWorld
world = BulletWorld(3)
world.reset(1)
world.apply(np.ones(3, dtype=np.int64))
world.advance(0.5)
world.reset(2)
world.close()
print(json.dumps({"ok": True}))
"""


def _child(code: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_prints_of_c_and_python_go_to_stderr() -> None:
    child = _child(_C_PRINTS)
    assert msgspec.json.decode(child.stdout) == {"ok": True}
    assert b"from C" in child.stderr
    assert b"from Python" in child.stderr


@pytest.mark.bullet
def test_bullet_world_leaves_stdout_to_json() -> None:
    pytest.importorskip("pybullet", reason="needs kofn[sim]")
    assert msgspec.json.decode(_child(_BULLET).stdout) == {"ok": True}


def test_stdout_is_put_back_after_an_exception() -> None:
    code = """
from kofn.sim.quiet import quiet_stdout
try:
    with quiet_stdout():
        raise ValueError
except ValueError:
    print("back")
"""
    assert _child(code).stdout == b"back\n"


def test_process_without_stdout_still_works() -> None:
    code = """
import os
os.close(1)
from kofn.sim.quiet import quiet_stdout
with quiet_stdout():
    done = True
os.write(2, b"done")
"""
    assert _child(code).stderr == b"done"
