# SPDX-License-Identifier: MIT
"""The commands in README and docs do what the text says."""

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kofn_process import Kofn
from plain_broker import plain_broker

ROOT = Path(__file__).resolve().parents[2]
BROKER_IN_THE_DOCS = "mqtt://127.0.0.1:1883"


def commands(page: str) -> list[list[str]]:
    """The `kofn` lines of a page's fenced blocks, split into words."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("kofn ")]


@pytest.fixture
def open_broker(tmp_path: Path) -> Iterator[str]:
    """Somebody else's broker, without passwords."""
    with plain_broker(tmp_path) as broker:
        yield broker.url


def test_the_readme_commands_reach_the_return_they_claim(kofn: Kofn) -> None:
    train, evaluate = (words[1:] for words in commands("README.md"))
    assert train[:2] == ["train", "ring-released"]
    kofn.json(*train)
    played = kofn.json(*evaluate)
    assert (played["n"], played["k"], played["horizon"], played["rollouts"]) == (
        1000,
        10,
        50,
        20000,
    )
    assert played["mean"] >= 104.0


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_the_parts_can_be_started_by_hand(kofn: Kofn, open_broker: str) -> None:
    lines = [
        [open_broker if word == BROKER_IN_THE_DOCS else word for word in words[1:]]
        for words in commands("docs/parts.md")
    ]
    assert [line[0] for line in lines] == ["train", "swarm", "controller"]
    train, swarm, controller = lines
    assert kofn.run(*train).returncode == 0
    assert swarm.pop() == "&"
    host = kofn.start(*swarm, "--json")
    summary = kofn.json(*controller)
    assert summary["completed"]
    assert summary["steps"] == 20
    assert summary["replies_used"] == 2 * 20
    host.send_signal(signal.SIGTERM)
    stdout, _ = host.communicate(timeout=20)
    assert host.returncode == 0
    assert json.loads(stdout)["robots"] == 6
