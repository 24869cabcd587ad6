# SPDX-License-Identifier: MIT
"""The run folder: whole, torn, foreign."""

import json
import shutil
import signal
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.link.messages import Halt
from kofn.controller.record import KINDS, Recorder, RunFolder, RunReader, read_decisions, read_run
from kofn.controller.results import Decision

SUMMARY_KEYS = {
    *("name", "completed", "steps", "k", "robots", "dispatcher", "seed", "epoch", "policy_sha256"),
    *("polls_sent", "poll_messages", "replies_used", "missing", "fallback_steps", "wall_s"),
    *("late", "duplicate", "conflict", "foreign", "unavailable", "poll_p50_ms", "poll_p99_ms"),
}


def decision(t: int) -> Decision:
    return Decision(
        ep=1,
        t=t,
        g=0,
        u=1,
        asked=["a", "b"],
        counts=[1, 1],
        belief=[1.0, 1.0],
        m=(2, 0, 0, 0),
        frame=2,
        missing=0,
        fallback=False,
        latency_ms=1.5,
    )


def test_folder_of_a_run_holds_settings_policy_record_and_summary(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    summary, decisions = fleet.run(seed=4, steps=5)
    folder = fleet.folder
    config = tomllib.loads((folder.path / "config.toml").read_text())
    assert config["controller"]["seed"] == 4
    assert "poll_ttl_s" not in config["controller"]
    assert config["run"]["policy_sha256"] == Policy.load(folder.policy).sha256
    figures = json.loads((folder.path / "summary.json").read_text())
    assert figures.keys() >= SUMMARY_KEYS
    assert figures["policy_sha256"] == summary.policy_sha256 == config["run"]["policy_sha256"]
    assert read_decisions(folder.path) == decisions


def test_record_opens_in_any_mcap_reader_with_a_schema_per_kind(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.run(steps=2)
    topics = set()
    with fleet.folder.record.open("rb") as file:
        for schema, channel, message in make_reader(file).iter_messages():
            topics.add(channel.topic)
            assert schema is not None
            properties = json.loads(schema.data)["properties"]
            assert json.loads(message.data).keys() <= properties.keys()
    assert topics == {f"/{kind}" for kind in KINDS} - {
        *("/cmd", "/ack", "/event", "/halt", "/checkpoint")
    }


def test_messages_are_recorded_with_their_host(make_fleet: Any) -> None:
    fleet = make_fleet(2, 2)
    fleet.run(steps=4)
    entries = list(read_run(fleet.folder.path))
    assert {entry.host for entry in entries if entry.kind == "done"} == {"h0", "h1"}
    assert {entry.host for entry in entries if entry.kind == "step"} == {""}
    assert all(type(entry.message) is KINDS[entry.kind] for entry in entries)


def test_a_reader_of_a_growing_record_gives_each_record_once(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "whole.mcap")
    for t in range(5):
        recorder.write("decision", decision(t))
    recorder.close()
    whole = (tmp_path / "whole.mcap").read_bytes()
    (tmp_path / "run.mcap").write_bytes(b"")
    reader, seen = RunReader(tmp_path), []
    for size in range(0, len(whole) + 1, 37):
        (tmp_path / "run.mcap").write_bytes(whole[:size])
        seen += [entry.message for entry in reader.entries()]
    assert seen == [decision(t) for t in range(5)]


def test_record_torn_at_any_byte_gives_its_whole_records(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.mcap", wall_ns=lambda: 1)
    written = [decision(t) for t in range(3)]
    ends = []
    for each in written:
        recorder.write("decision", each)
        recorder.flush()
        ends.append((tmp_path / "run.mcap").stat().st_size)
    recorder.close()
    whole = (tmp_path / "run.mcap").read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    first = ends[0] - 400  # schemas come before, and again after: there every 101st byte will do
    sizes = {
        *range(0, len(whole), 101),
        *range(first, ends[-1] + 200),
        *range(len(whole) - 60, len(whole)),
    }
    for size in sorted({*sizes, len(whole)}):
        (torn / "run.mcap").write_bytes(whole[:size])
        expected = sum(end <= size for end in ends)
        assert read_decisions(torn) == written[:expected]


@pytest.mark.parametrize("tail", [bytes(4000), b"\xff" * 4000, b"\x03" + bytes(9) + b"\xff" * 400])
def test_record_that_ends_in_rubbish_gives_its_whole_records(tmp_path: Path, tail: bytes) -> None:
    recorder = Recorder(tmp_path / "run.mcap", wall_ns=lambda: 1)
    recorder.write("decision", decision(0))
    recorder.flush()
    whole = (tmp_path / "run.mcap").read_bytes()
    recorder.close()
    for cut in range(len(whole), len(whole) + 9):  # what a power cut leaves: blocks never written
        torn = whole + tail[: cut - len(whole)] + tail
        (tmp_path / "run.mcap").write_bytes(torn)
        assert read_decisions(tmp_path) == [decision(0)]


def test_record_with_a_damaged_text_is_named(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.mcap")
    recorder.write("halt", Halt(ep=1, by="somebody"))
    recorder.close()
    whole = (tmp_path / "run.mcap").read_bytes()
    (tmp_path / "run.mcap").write_bytes(whole.replace(b"somebody", b"some\xff\xffdy"))
    with pytest.raises(InputError, match=r"run\.mcap has a damaged /halt record"):
        list(read_run(tmp_path))


def test_record_of_a_killed_process_is_whole_up_to_its_last_flush(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from kofn.controller.record import Recorder\n"
        "from kofn.controller.link.messages import Halt\n"
        "recorder = Recorder(Path(sys.argv[1]) / 'run.mcap')\n"
        "for ep in range(7): recorder.write('halt', Halt(ep=ep, by='x'))\n"
        "recorder.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    expected = [Halt(ep=ep, by="x") for ep in range(7)]
    assert [entry.message for entry in read_run(tmp_path)] == expected


def test_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run folder, or .*: no run\.mcap"):
        list(read_run(tmp_path))
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        RunFolder(tmp_path / "nowhere")
    (tmp_path / "run.mcap").write_bytes(b"something else entirely")
    with pytest.raises(InputError, match="is not an MCAP file"):
        list(read_run(tmp_path))


def test_two_runs_in_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = [RunFolder.create(tmp_path / "runs", "demo", now=now).path.name for _ in range(3)]
    assert names == [f"20260102T030405Z-demo{suffix}" for suffix in ("", "-2", "-3")]


def test_parts_of_the_configuration_are_kept_apart(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(scenario={"robots": 20, "broker": None})
    folder.write_config(run={"epoch": 2})
    assert folder.read_config() == {"scenario": {"robots": 20}, "run": {"epoch": 2}}


def test_figures_can_be_added_to_a_summary(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.run(steps=2)
    fleet.folder.update_summary(mean_reward=3.5)
    figures = fleet.folder.read_summary()
    assert figures["mean_reward"] == 3.5
    assert figures["steps"] == 2


def test_file_that_cannot_grow_is_one_sentence(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys; from pathlib import Path\n"
        "from kofn.controller.core.errors import RunError\n"
        "from kofn.controller.record import Recorder\n"
        "from kofn.controller.link.messages import Halt\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "recorder = Recorder(Path(sys.argv[1]) / 'run.mcap')\n"
        "try:\n"
        "    for ep in range(10_000): recorder.write('halt', Halt(ep=ep, by='x'))\n"
        "except RunError as error:\n"
        "    print(error, flush=True)\n"
        "    os._exit(0)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    assert ended.stdout == f"cannot write {tmp_path}/run.mcap: File too large\n"
    assert sum(1 for _ in read_run(tmp_path)) > 10


def test_run_folder_can_be_copied_and_read_elsewhere(make_fleet: Any, tmp_path: Path) -> None:
    fleet = make_fleet(3)
    _, decisions = fleet.run(steps=2)
    shutil.copytree(fleet.folder.path, tmp_path / "elsewhere")
    assert read_decisions(tmp_path / "elsewhere") == decisions
