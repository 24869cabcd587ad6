# SPDX-License-Identifier: MIT
"""What of `kofn fed` works, and what it says, where Flower is not installed."""

import importlib.util
from pathlib import Path

import pytest
from kofn_process import Kofn


@pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed here")
def test_a_federated_run_without_flower_says_how_to_install_it(kofn: Kofn, tmp_path: Path) -> None:
    done = kofn.run("fed", "run", "--json")
    assert done.returncode == 2
    assert not done.stdout
    assert 'pip install "kofn[fed,fed-data]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert kofn.run("fed", "app", "mine").returncode == 0
    assert (tmp_path / "mine" / "kofnapp" / "server_app.py").exists()
