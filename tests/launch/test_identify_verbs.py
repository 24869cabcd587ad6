# SPDX-License-Identifier: MIT
"""`kofn identify` and `validate` as a script calls them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import load_game
from kofn.controller.link.hostlog import Header, HostLog, StepTaken
from kofn.controller.link.messages import Flag, Reply, Row, Step
from kofn.controller.record import Recorder
from kofn.launch.entry import run
from kofn.launch.verbs_validate import notes_on
from kofn.sim.bullet import PHYSICS
from kofn.sim.kernel import Kernel, KernelInfo
from kofn.sim.validate import Figures


def called(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def host_log(folder: Path, host: str, zones: list[list[int]], actions: list[list[int]]) -> None:
    robots = [f"{host}.r{i}" for i in range(len(zones[0]))]
    with HostLog(folder / "hosts" / f"{host}.jsonl") as log:
        log.write(
            Header(
                host=host, robots=robots, arena={"zones": 5}, option_s=6.0, seed=3,
                backend="bullet", versions={"pybullet": "3"},
            )
        )  # fmt: skip
        for t, (z, a) in enumerate(zip(zones, actions, strict=True)):
            log.write(StepTaken(ep=1, t=t, g=2, u=0, time_s=6.0 * t, z=z, a=a))


@pytest.fixture
def run_folder(tmp_path: Path, policy_file: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    Policy.load(policy_file).save(folder / "policy.npz")
    return folder


def test_a_run_is_counted_from_its_host_logs_with_the_crowds(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    host_log(run_folder, "a", [[0, 0], [1, 0], [1, 1]], [[1, 1], [0, 1], [0, 0]])
    host_log(run_folder, "b", [[4, 4], [4, -1], [0, 4]], [[0, 1], [1, -1], [0, 0]])
    out = run_folder.parent / "k"
    found = called(
        capsys, "identify", "--from-run", str(run_folder), "--bins", "0,2", "--out", str(out)
    )
    assert found["transitions"] == 6
    assert (found["n"], found["source"], found["bins"]) == (2, str(run_folder), ["0-1", "2+"])
    counts = Kernel.load(out.with_suffix(".npz")).counts
    assert counts[0, 1, 0, 1].tolist() == [1, 1, 0, 0, 0]  # two robots of host a were in zone 0
    assert counts[0, 0, 0, 1].tolist() == [0, 1, 0, 0, 0]
    assert counts[0, 1, 4, 0].tolist() == [0, 0, 0, 0, 1]
    only = called(
        capsys, "identify", "--from-run", str(run_folder), "--host", "b", "--out", str(out)
    )
    assert only["transitions"] == 2


def test_options_that_were_cut_short_or_missed_are_not_counted(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    with HostLog(run_folder / "hosts" / "a.jsonl") as log:
        log.write(
            Header(
                host="a", robots=["a.r0", "a.r1"], arena={"zones": 5}, option_s=6.0, seed=3,
                backend="bullet", versions={},
            )
        )  # fmt: skip
        for t, time_s in ((0, 0.0), (1, 6.0), (2, 8.0), (4, 20.0), (5, 26.0)):
            log.write(StepTaken(ep=1, t=t, g=0, u=0, time_s=time_s, z=[t % 5, 1], a=[0, 0]))
    found = called(
        capsys, "identify", "--from-run", str(run_folder), "--out", str(run_folder / "k")
    )
    assert found["transitions"] == 4  # 0 to 1 and 4 to 5, two robots each
    assert found["option_steps"] == 2


def test_without_host_logs_the_moves_that_replies_carried_are_counted(
    capsys: pytest.CaptureFixture[str], run_folder: Path
) -> None:
    recorder = Recorder(run_folder / "run.mcap")
    for t in range(3):
        recorder.write("step", Step(ep=1, t=t, up=0, g=3, u=0, ttl=9, pol="x", k=2, m=(0, 0, 0, 0)))
        previous = (None, None) if t == 0 else (t - 1, 1)
        rows = [Row("a", t, Flag.OK, 0, *previous), Row("b", None, Flag.UNAVAILABLE, 0)]
        recorder.write("reply", Reply(ep=1, t=t, q="0" * 16, b="x", n=2, r=rows), "h")
        recorder.write("reply", Reply(ep=1, t=t, q="0" * 16, b="x", n=2, r=rows), "h")
    recorder.close()
    out = run_folder / "k"
    found = called(
        capsys, "identify", "--from-run", str(run_folder), "--by-target", "--out", str(out)
    )
    assert found["transitions"] == 2
    assert found["bins"] == ["0+"]
    assert "crowds are unknown" in found["warnings"][0]
    counts = Kernel.load(out.with_suffix(".npz")).counts
    assert counts[3, 0, 0, 1].tolist() == [0, 1, 0, 0, 0]
    assert counts[3, 0, 1, 1].tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "identify takes a scenario, or a run with --from-run, and not both"),
        (("ring20", "--bins", "x"), "--bins 'x' is neither a number nor a list like 4,6,8,11"),
        (("ring20", "--bins", "4,4"), "--bins 4,4 must rise from above 0"),
        (("ring20", "--bins", "0"), "0 bins must be at least 1 and at most 50"),
        (("ring20", "--robots", "900"), "900 robots do not fit: this ring holds 1 to "),
        (("ring20", "--backend", "mars"), "unknown world 'mars'; known "),
        (("ring20", "--workers", "0"), "workers 0 must be at least 1"),
        (("ring20", "--symmetry", "star"), "unknown symmetry 'star'; known are auto, ring, none"),
        (("--from-run", "."), ". is no run folder: it has no policy.npz"),
        (("ring20", "--out", "no/where"), "--out no/where: there is no folder no"),
        (("ring20", "--compare", "no.npz"), "cannot read kernel no.npz: No such file"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["identify", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kofn: {sentence}")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def finite_scenario(tmp_path: Path) -> Path:
    path = tmp_path / "jumpers.toml"
    path.write_text(
        'name = "jumpers"\n[game]\nname = "arena"\nparameters = { move_success = 0.6 }\n'
        '[[hosts]]\nname = "a"\nrobots = 20\nworld = "finite"\n'
    )
    return path


def test_a_scenario_is_identified_and_validated_and_the_gap_sets_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finite_scenario: Path, policy_file: Path
) -> None:
    out = tmp_path / "k.npz"
    found = called(
        capsys, "identify", str(finite_scenario), "--option-steps", "200", "--workers", "1",
        "--out", str(out),
    )  # fmt: skip
    assert (found["backend"], found["n"], found["symmetry"]) == ("finite", 20, "ring")
    assert found["move_success"] == pytest.approx(0.6, abs=0.05)
    again = called(
        capsys, "identify", str(finite_scenario), "--option-steps", "400", "--workers", "1",
        "--seed", "9", "--compare", str(out), "--out", str(tmp_path / "other"),
    )  # fmt: skip
    assert again["l1_to_compared"]["max"] < 0.1
    arguments = (
        "validate", str(policy_file), str(finite_scenario), "--kernel", str(out),
        "--periods", "40", "--workers", "1",
    )  # fmt: skip
    table = called(capsys, *arguments, "--max-gap", "0.05")
    assert table["passed"] is True
    gaps = {row["name"]: row["gap"] for row in table["rows"]}
    assert gaps["ideal"] > 0.1 > abs(gaps["binned"])
    failed = called(capsys, *arguments, "--max-gap", "0", code=1)
    assert failed["passed"] is False
    assert failed["rows"] == table["rows"]


def test_validate_counts_the_crowds_of_its_policy_and_says_when_a_kernel_has_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, finite_scenario: Path, policy_file: Path
) -> None:
    arguments = ("validate", str(policy_file), str(finite_scenario), "--periods", "40")
    table = called(capsys, *arguments, "--workers", "1")
    assert table["data_policy"] == f"policy {Policy.load(policy_file).sha256}"
    quick = tmp_path / "quick.toml"
    quick.write_text(finite_scenario.read_text().replace("0.6", "0.95"))
    uniform = str(tmp_path / "uniform.npz")
    called(
        capsys, "identify", str(quick), "--option-steps", "99", "--workers", "1", "--out", uniform
    )
    assert run([*arguments, "--workers", "1", "--kernel", uniform]) == 0
    assert "not made by this policy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("versions", "gap", "noted"),
    [({}, 0.1, True), ({"physics": PHYSICS}, 0.1, False), ({}, 0.0, False)],
)
def test_a_kernel_of_other_physics_is_named_where_it_is_off(
    versions: dict[str, str], gap: float, noted: bool
) -> None:
    binned = Figures(
        name="binned", share=0.5, stderr=0.01, stay=0.9, curve=[], periods=9,
        gap=gap, gap_stderr=0.01,
    )  # fmt: skip
    info = KernelInfo(
        n=30, period_s=6.0, backend="bullet", option_steps=1, transitions=0, symmetry="ring",
        data_policy="policy ab", versions=versions,
    )  # fmt: skip
    kernel = Kernel(np.zeros((1, 1, 5, 3, 5), dtype=np.int64), (0,), load_game("arena"), info)
    sentence = f"this kernel was counted in physics 1 of the bullet world, which is now {PHYSICS}"
    expected = [f"{sentence}: identify it again"] if noted else []
    assert notes_on(binned, kernel, "ab", "bullet") == expected
