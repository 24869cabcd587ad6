# SPDX-License-Identifier: MIT
"""From a kernel file of `kofn identify` to a policy, and into a scenario."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import drawn, info, ring_kernel

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.launch.entry import run
from kofn.launch.preparing import load_policy
from kofn.launch.scenario_file import load_scenario
from kofn.sim.identify import from_recordings
from kofn.sim.kernel import Kernel

FIRST = (0, 4, 6, 8, 11)
SMALL = ("--k", "3", "--grid", "5", "--rounds", "1", "--restarts", "1")


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.fixture(scope="module")
def kernel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crowded ring of 30 robots, as `kofn identify` would have written it."""
    moves = drawn(ring_kernel([0.9, 0.8, 0.7, 0.6, 0.5]), FIRST, n=30, steps=60, seed=4)
    kernel = from_recordings([moves], arena(), info(symmetry="ring"), first=FIRST)
    path = tmp_path_factory.mktemp("kernel") / "kernel.npz"
    kernel.save(path)
    return path


def test_a_policy_is_learned_from_a_kernel_file_for_the_fleet_it_was_counted_on(
    capsys: pytest.CaptureFixture[str], kernel_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p.npz"
    made = called(capsys, "train", str(kernel_file), *SMALL, "--kernel", "plain", "--out", str(out))
    kernel = Kernel.load(kernel_file)
    assert (made["n"], made["game"]) == (30, "arena identified")
    assert made["kernel_sha256"] == kernel.sha256
    learned = Policy.load(out)
    assert np.allclose(learned.game.P_l, kernel.game().P_l)
    assert learned.provenance["kernel_sha256"] == kernel.sha256
    assert learned.provenance["kernel_n"] == 30


def test_what_is_no_kernel_for_this_fleet_is_one_sentence(
    capsys: pytest.CaptureFixture[str], kernel_file: Path, policy_file: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.npz"
    torn.write_bytes(kernel_file.read_bytes()[:-40])
    for arguments, sentence in (
        (("no.npz",), "cannot read kernel no.npz: No such file"),
        ((str(policy_file),), "is not a kofn kernel"),
        ((str(torn),), "is not a kofn kernel, or is truncated or damaged"),
        ((str(kernel_file), "--n", "40"), "was identified for 30 robots, not for 40 (--force"),
        (("kernel",), "not a kernel file (.npz)"),
    ):
        assert run(["train", *arguments, "--out", str(tmp_path / "p.npz")]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert not (tmp_path / "p.npz").exists()


def test_a_policy_from_a_kernel_steers_the_scenario_that_was_identified(
    kernel_file: Path, scenario: Callable[..., Path], policy_file: Path, tmp_path: Path
) -> None:
    kernel, made_by_hand = Kernel.load(kernel_file), Policy.load(policy_file)
    learned = tmp_path / "learned.npz"
    from_kernel = {"kernel_sha256": kernel.sha256}
    Policy(kernel.game(), 5, made_by_hand.action, made_by_hand.pi_l, provenance=from_kernel).save(
        learned
    )

    def scenario_with(hosts: str) -> Path:
        path = scenario(hosts)
        path.write_text(path.read_text().replace(str(policy_file), str(learned)))
        return path

    _, policy = load_policy(load_scenario(str(scenario_with(""))))
    assert policy is not None
    assert policy.provenance == from_kernel
    # A finite world without a kernel of its own would move by the other game.
    finite = '[[hosts]]\nname = "a"\nrobots = 6\nworld = "finite"\n'
    with pytest.raises(InputError, match="was made for game arena identified"):
        load_policy(load_scenario(str(scenario_with(finite))))


def test_bins_are_learned_and_played_by_crowd_and_the_output_says_so(
    capsys: pytest.CaptureFixture[str], kernel_file: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "p.npz")
    made = called(capsys, "train", str(kernel_file), *SMALL, "--out", out)
    assert (made["motion"], made["backend"]) == ("binned", "crowd rollouts")
    learned = Policy.load(out).provenance
    assert (learned["motion"], learned["kernel_sha256"]) == ("binned", made["kernel_sha256"])
    assert run(["evaluate", out, "--n", "30", "--k", "3"]) == 0
    assert "--game KERNEL plays on the binned one" in capsys.readouterr().out
    played = called(capsys, "evaluate", out, "--game", str(kernel_file), "--k", "3")
    assert (played["n"], played["motion"]) == (30, "binned")
    assert abs(played["mean"] - made["mean_belief"]) < 8 * played["stderr"]
    bound = called(capsys, "certify", out, "--n", "30", "--budget", "1")
    assert bound["covers"] == "plain"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--kernel", "fine"), "unknown kernel 'fine'; known are binned, plain"),
        (("--exact", "--memory", "none"), "--exact is not built for the binned kernel"),
        (("--n", "31"), "was identified for 30 robots, not for 31"),
    ],
)
def test_play_by_crowd_says_what_it_cannot_do(
    capsys: pytest.CaptureFixture[str],
    kernel_file: Path,
    policy_file: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    assert run(["evaluate", str(policy_file), "--game", str(kernel_file), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert run(["train", "arena", "--kernel", "binned"]) == 2
    assert "--kernel binned belongs to a kernel file" in capsys.readouterr().err
