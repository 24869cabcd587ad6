# SPDX-License-Identifier: MIT
"""`kofn train`, `evaluate` and `certify` as a script calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from kofn.launch.entry import run


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_train_evaluate_and_certify_agree_about_one_policy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "p.npz")
    trained = called(
        capsys, "train", "arena", "--k", "3", "--n", "12", "--grid", "6", "--rounds", "1",
        "--restarts", "1", "--out", file,
    )  # fmt: skip
    assert trained["out"] == file
    assert (trained["k"], trained["n"], trained["grid"]) == (3, 12, 6)
    played = called(capsys, "evaluate", file, "--n", "12", "--k", "3", "--rollouts", "2000")
    assert set(played) >= {"mean", "stderr", "mode_accuracy", "rollouts", "n", "k", "memory"}
    assert abs(played["mean"] - trained["mean_belief"]) < 6 * 2 * played["stderr"]
    bound = called(capsys, "certify", file, "--n", "12", "--budget", "2")
    assert {"value", "value_ci", "upper_global", "upper_team", "grid", "bounds"} <= set(bound)
    low, high = bound["value_ci"]
    assert low - 6 * played["stderr"] <= played["mean"] <= high + 6 * played["stderr"]
    assert low < bound["upper_global"] <= bound["upper_team"]
    assert all(set(row) >= {"K", "upper"} for row in bound["bounds"])
    assert bound["k"] == 3


def test_memory_none_is_worse_than_memory_where_polls_are_small(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = str(tmp_path / "p.npz")
    called(
        capsys, "train", "ring-released", "--k", "5", "--grid", "8", "--rounds", "1",
        "--restarts", "1", "--out", file,
    )  # fmt: skip
    means = {
        memory: called(capsys, "evaluate", file, "--k", "5", "--memory", memory)["mean"]
        for memory in ("none", "auto")
    }
    assert means["auto"] > means["none"] > 90
