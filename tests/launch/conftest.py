# SPDX-License-Identifier: MIT
"""Fixtures: the command in an empty folder, a policy made by hand, small scenarios."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kofn_process import Kofn

from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena


@pytest.fixture
def kofn(tmp_path: Path) -> Iterator[Kofn]:
    """The command in an empty folder; whatever the test left running is killed."""
    command = Kofn(tmp_path)
    yield command
    for process in command.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for the arena made by hand: hold the target, robots go to it the shorter way."""
    game = arena()
    pi_l = np.zeros((5, 5, 3))
    for target in range(5):
        for zone in range(5):
            ahead = (target - zone) % 5
            pi_l[target, zone, 0 if ahead == 0 else (1 if ahead <= 2 else 2)] = 1.0
    table = np.repeat(np.arange(5)[:, None], 126, axis=1)  # C(5 + 4, 4) cells on grid 5
    path = tmp_path_factory.mktemp("policy") / "hold.npz"
    Policy(game, 5, table, pi_l).save(path)
    return path


@pytest.fixture
def scenario(tmp_path: Path, policy_file: Path) -> Callable[..., Path]:
    """Write a small scenario with the hand-made policy; keys given replace the defaults."""

    def write(hosts: str = "", **keys: object) -> Path:
        top = {"name": "small", "seed": 3, "k": 2, "steps": 4, **keys}
        lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
        lines += ["[policy]", f'file = "{policy_file}"']
        lines += [hosts or '[[hosts]]\nname = "a"\nrobots = 3\n[[hosts]]\nname = "b"\nrobots = 3']
        path = tmp_path / "small.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write
