# SPDX-License-Identifier: MIT
"""The page on Flower does what it says: its diff applies to a stock app, its commands run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kofn.fed.flower import read_log
from kofn.launch.entry import run as kofn_run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "federated-flower.md").read_text()
STOCK = Path(__file__).parent / "stock"
NODES = 6


def diff() -> str:
    """Return the change that the page tells newcomers to make."""
    (block,) = re.findall(r"^```diff\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


def play(app: Path) -> str:
    """Run an app in a process of its own; return what it prints."""
    code = (
        "from pathlib import Path; from kofn.fed.flower.app_runner import run_app; "
        f"run_app(Path({str(app)!r}), {{}}, nodes={NODES})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_newcomer_changes_at_most_ten_lines_and_clients_are_chosen(tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(STOCK, app)
    before = play(app)
    assert "Sampled 6 nodes (out of 6)" in before
    changed = [line for line in diff().splitlines() if re.match(r"[+-](?![+-]{2})", line)]
    assert len(changed) <= 10
    (tmp_path / "change.diff").write_text(diff())
    subprocess.run(["git", "apply", tmp_path / "change.diff"], cwd=app, check=True)
    server = app / "stockapp" / "server_app.py"
    log = tmp_path / "rounds.jsonl"
    server.write_text(
        server.read_text().replace("k=4)", f"k=4, log=__import__('pathlib').Path({str(log)!r}))")
    )
    after = play(app)
    assert "Sampled 2 nodes (out of 2)" in after
    rounds = read_log(log)
    assert len(rounds) == 3
    for record in rounds:
        assert len(record.polled) == 4
        assert record.bins
        assert len(record.chosen) == 2
        assert record.arrived
    weights = json.loads(re.findall(r"weights: (\[.*\])", after)[0])
    assert weights[-1] > 1.0


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in PAGE.splitlines() if line.startswith("kofn ")]
    assert len(lines) == 3
    for line in lines:
        assert kofn_run(shlex.split(line)[1:]) == 0
    assert (tmp_path / "fedkeys" / "nodes" / "pi-2" / "node.key").exists()
