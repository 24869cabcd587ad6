# SPDX-License-Identifier: MIT
"""`kofn train`, `evaluate`, `certify` and `bench` as a script calls them."""

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
    assert played["ci"] == pytest.approx(
        [played["mean"] + sign * 1.96 * played["stderr"] for sign in (-1, 1)], rel=1e-5
    )
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


def test_a_tuned_memory_is_no_worse_than_none_for_another_poll_size(
    capsys: pytest.CaptureFixture[str], policy_file: Path
) -> None:
    settings = ("evaluate", str(policy_file), "--n", "20", "--k", "2", "--rollouts", "2000")
    tuned = called(capsys, *settings, "--memory", "tune")
    none = called(capsys, *settings, "--memory", "none")
    assert tuned["memory"] >= none["memory"] == 2
    assert tuned["mean"] >= none["mean"] - 3 * none["stderr"]


def test_training_goes_on_from_a_policy_and_polishes_it(
    capsys: pytest.CaptureFixture[str], policy_file: Path, tmp_path: Path
) -> None:
    trained = called(
        capsys, "train", "arena", "--k", "2", "--n", "6", "--grid", "3", "--rounds", "1",
        "--restarts", "1", "--start", str(policy_file), "--polish", "1",
        "--out", str(tmp_path / "p.npz"),
    )  # fmt: skip
    assert trained["start"] in {str(policy_file), "hold"}
    assert trained["polish_gain"] >= 0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--polish", "-1"), "polish -1 is not a whole number from 0 to"),
        (("--start", "nowhere.npz"), "cannot read policy nowhere.npz"),
    ],
)
def test_settings_of_training_that_cannot_be_are_named(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    out = tmp_path / "p.npz"
    assert run(["train", "arena", "--k", "2", "--n", "6", *options, "--out", str(out)]) == 2
    assert part in capsys.readouterr().err
    assert not out.exists()


def test_the_exact_return_lies_in_the_interval_of_the_episodes(
    capsys: pytest.CaptureFixture[str], policy_file: Path
) -> None:
    settings = ("evaluate", str(policy_file), "--n", "5", "--k", "2", "--memory", "none")
    exact = called(capsys, *settings, "--exact")
    played = called(capsys, *settings, "--rollouts", "4000")
    assert set(exact) >= set(played)
    assert exact["stderr"] == 0
    assert exact["ci"] == pytest.approx([exact["mean"]] * 2, rel=1e-9)
    assert abs(exact["mean"] - played["mean"]) < 5 * played["stderr"]
    assert exact["states"] == 5 * 126


def test_exactness_is_refused_where_a_fleet_cannot_be_enumerated(
    capsys: pytest.CaptureFixture[str], policy_file: Path
) -> None:
    base = ("evaluate", str(policy_file), "--exact")
    assert run([*base, "--n", "5", "--k", "2", "--memory", "40"]) == 2
    assert "--memory 40: only --memory none can be enumerated" in capsys.readouterr().err
    assert run([*base, "--n", "1000", "--k", "2", "--memory", "none"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "the exact value of 1000 agents" in sentence
    assert "above the limit" in sentence


def test_bias_is_measured_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = called(capsys, "bench", "bias", "--quick")["rows"]
    cells = {(row["strategy"], row["column"]): row for row in rows}
    assert abs(cells["all k answer (ideal)", "B"]["bias"]) < 0.05
    assert cells["drop the missing, use m < k", "B"]["bias"] < -0.05
    assert run(["bench", "bias", "--quick"]) == 0
    assert "| default settings |" in capsys.readouterr().out
