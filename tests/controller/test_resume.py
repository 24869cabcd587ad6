# SPDX-License-Identifier: MIT
"""A controller that was killed, and the one that goes on in its place."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kofn.controller.config import ControllerConfig
from kofn.controller.core.belief import Belief
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.link.messages import Step
from kofn.controller.loop import ControlLoop
from kofn.controller.record import Recorder, RunFolder, read_decisions, read_run
from kofn.controller.results import Checkpoint, Decision, Summary
from kofn.controller.resume import read_checkpoint, read_settings


class Killed(BaseException):
    """What stands for `kill -9`: nothing in the loop handles it, nothing is written after it."""


def kill_controller(fleet: Any, loop: ControlLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a loop that dies; leave folder and bus as the death of its process would."""

    def nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(RunFolder, "write_summary", nothing)
    monkeypatch.setattr(Recorder, "close", lambda recorder: recorder._file.close())
    monkeypatch.setattr(loop._transport, "close", nothing)
    try:
        with pytest.raises(Killed):
            loop.run()
    finally:
        monkeypatch.undo()
    fleet.bus.break_connection(loop._transport)  # the broker publishes the will


def resume(fleet: Any, folder: Path, epoch: int, **changes: Any) -> tuple[Any, list[Decision]]:
    """Return the loop that continues the run in `folder`, and its decisions to be."""
    config, policy = read_settings(folder)
    fleet.folder = RunFolder.create(fleet.root / "runs", config.name)
    decisions: list[Decision] = []
    loop = ControlLoop(
        changes.pop("config", config),
        changes.pop("policy", policy),
        fleet.bus.transport(),
        fleet.clock,
        fleet.folder,
        epoch,
        progress=changes.pop("progress", decisions.append),
        resume_from=read_checkpoint(folder),
    )
    return loop, decisions


def die_at(t: int) -> Any:
    def progress(decision: Decision) -> None:
        if decision.t == t:
            raise Killed

    return progress


def cut_off(make_fleet: Any, monkeypatch: pytest.MonkeyPatch, t: int, **settings: Any) -> Any:
    """A fleet whose controller was killed right after its decision of step t."""
    fleet = make_fleet(3, 4)
    kill_controller(fleet, fleet.loop(progress=die_at(t), **settings), monkeypatch)
    return fleet


def test_run_goes_on_with_the_next_step_epoch_and_belief(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = cut_off(make_fleet, monkeypatch, 4, steps=10, seed=3)
    old = fleet.folder
    before = read_decisions(old.path)
    assert [decision.t for decision in before] == [0, 1, 2, 3, 4]
    loop, decisions = resume(fleet, old.path, epoch=2)
    summary = loop.run()
    assert [decision.t for decision in decisions] == [5, 6, 7, 8, 9]
    assert {decision.ep for decision in decisions} == {2}
    assert (summary.completed, summary.steps, summary.first_step) == (True, 5, 5)
    assert summary.resumed_from == old.path.name
    assert fleet.folder.read_config()["run"]["resumed_from"] == old.path.name
    assert read_decisions(old.path) == before  # the old folder stays as it was left
    steps = [entry.message for entry in read_run(fleet.folder.path) if entry.kind == "step"]
    assert isinstance(steps[0], Step)
    assert (steps[0].ep, steps[0].t, steps[0].u, steps[0].m) == (2, 5, before[-1].u, before[-1].m)


def test_run_that_was_cut_between_steps_ends_as_if_it_had_not_been(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_fleet(3, 4).run(steps=10, seed=3)[1]
    fleet = make_fleet(3, 4)
    loop = fleet.loop(steps=10, seed=3)
    done = loop._estimator.advance

    def advance(g: int) -> None:  # all hosts are done with step 4, step 5 is not out
        done(g)
        if loop._totals.steps == 5:
            raise Killed

    monkeypatch.setattr(loop._estimator, "advance", advance)
    kill_controller(fleet, loop, monkeypatch)
    loop, decisions = resume(fleet, fleet.folder.path, epoch=2)
    loop.run()

    def trace(found: list[Decision]) -> list[Any]:
        return [(d.t, d.g, d.u, d.asked, d.counts, d.belief) for d in found]

    assert trace(decisions) == trace(whole[5:])


def test_step_that_came_to_no_decision_is_played_again_and_has_moved_the_belief(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(3, 4)
    loop = fleet.loop(steps=10, seed=3)
    estimate = loop._estimator.estimate

    def dying(t: int, *rest: Any) -> Any:
        if t == 5:
            raise Killed
        return estimate(t, *rest)

    loop._estimator.estimate = dying
    kill_controller(fleet, loop, monkeypatch)
    old = fleet.folder.path
    checkpoint = read_checkpoint(old)
    assert (checkpoint.t, checkpoint.repeats, checkpoint.ep) == (4, 1, 1)
    again, decisions = resume(fleet, old, epoch=2)
    seen: list[list[float]] = []
    again._progress = decisions.append
    decide = again._dispatcher.decide

    def watch(t: int, g: int, weights: Any) -> Any:
        seen.append(again._dispatcher.belief.tolist())
        return decide(t, g, weights)

    again._dispatcher.decide = watch
    again.run()
    assert [decision.t for decision in decisions] == [5, 6, 7, 8, 9]
    last = read_decisions(old)[-1]
    expected = Belief(again._dispatcher.kernels, 8.0)  # the memory of small_policy
    expected.restore(last.belief)
    expected.predict(last.g)
    expected.predict(decisions[0].g)
    assert seen[0] == pytest.approx(expected.weights)
    taken = fleet.agents["h0"].counters["steps_taken"]
    assert taken == 11  # step 5 twice: a new epoch is a new step


def test_resumed_run_that_is_killed_before_its_first_decision_can_be_resumed(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = cut_off(make_fleet, monkeypatch, 4, steps=8)
    first = read_checkpoint(fleet.folder.path)
    loop, _ = resume(fleet, fleet.folder.path, epoch=2)

    def die(*_: Any) -> Any:
        raise Killed

    loop._estimator.estimate = die
    kill_controller(fleet, loop, monkeypatch)
    second = read_checkpoint(fleet.folder.path)
    assert (second.run, second.ep, second.repeats) == (fleet.folder.path.name, 2, 1)
    assert (second.t, second.belief) == (first.t, first.belief)
    loop, decisions = resume(fleet, fleet.folder.path, epoch=3)
    assert loop.run().completed
    assert [decision.t for decision in decisions] == [5, 6, 7]


def test_fleet_that_had_shrunk_is_not_waited_for(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(4, 4)

    def progress(decision: Decision) -> None:
        if decision.t == 2:
            fleet.kill("h1")
        if decision.t == 5:
            raise Killed

    kill_controller(fleet, fleet.loop(steps=9, progress=progress), monkeypatch)
    summary: Summary = resume(fleet, fleet.folder.path, epoch=2)[0].run()
    assert (summary.completed, summary.robots) == (True, 4)


def test_run_that_failed_or_was_stopped_can_be_resumed(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    seen: list[Decision] = []
    fleet.run(steps=9, progress=seen.append, should_stop=lambda: len(seen) >= 3)
    assert resume(fleet, fleet.folder.path, epoch=2)[0].run().completed

    def lose(decision: Decision) -> None:
        if decision.t == 3:
            fleet.kill("h0")

    loop = fleet.loop(steps=9, epoch=3, wait_s=3.0, progress=lose)
    with pytest.raises(RunError):
        loop.run()
    failed = fleet.folder.path
    fleet.add("h1", 4, robots=("h0-0", "h0-1", "h0-2", "h0-3"))
    assert resume(fleet, failed, epoch=4)[0].run().completed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("epoch", r"epoch 1 is not above 1, that of run .*is this the epoch counter of that run"),
        ("seed", "has seed 0, not 9"),
        ("policy", "was steered by policy"),
        ("steps", "has made all its 5 steps"),
    ],
)
def test_run_cannot_go_on_as_another_one(
    make_fleet: Any,
    monkeypatch: pytest.MonkeyPatch,
    policy: Policy,
    change: str,
    sentence: str,
) -> None:
    fleet = cut_off(make_fleet, monkeypatch, 4, steps=10)
    config, _ = read_settings(fleet.folder.path)
    changes: dict[str, dict[str, Any]] = {
        "epoch": {"epoch": 1},
        "seed": {"config": replace(config, seed=9)},
        "policy": {"policy": Policy.uniform(policy.game, 4)},
        "steps": {"config": replace(config, steps=5)},
    }
    with pytest.raises(InputError, match=sentence):
        resume(fleet, fleet.folder.path, **({"epoch": 2} | changes[change]))


def replace(config: ControllerConfig, **changes: Any) -> ControllerConfig:
    import msgspec

    return msgspec.structs.replace(config, **changes)


def test_folders_that_cannot_be_resumed_are_named_in_one_sentence(
    make_fleet: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a run folder: it has no run\.mcap"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="has no settings of a controller"):
        read_settings(tmp_path)
    fleet = make_fleet(3)
    fleet.run(steps=3)
    with pytest.raises(InputError, match="is complete: there is nothing to resume"):
        read_checkpoint(fleet.folder.path)
    (fleet.folder.path / "summary.json").unlink()
    record = fleet.folder.record.read_bytes()
    fleet.folder.record.write_bytes(record[:9])
    with pytest.raises(InputError, match="ended before its first decision: start it anew"):
        read_checkpoint(fleet.folder.path)
    fleet.folder.record.write_bytes(record.replace(b'"belief":[', b'"belief":{'))
    with pytest.raises(InputError, match="cannot be resumed, its record is damaged"):
        read_checkpoint(fleet.folder.path)


def test_record_torn_at_any_byte_gives_the_last_whole_decision(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fleet = cut_off(make_fleet, monkeypatch, 3, steps=6)
    torn = tmp_path / "torn"
    shutil.copytree(fleet.folder.path, torn)
    record = fleet.folder.record.read_bytes()
    begin = record.rindex(b"kofn.checkpoint")
    for end in range(begin, len(record), 41):
        (torn / "run.mcap").write_bytes(record[:end])
        decisions = read_decisions(torn)
        if decisions:
            checkpoint = read_checkpoint(torn)
            assert (checkpoint.t, checkpoint.belief) == (decisions[-1].t, decisions[-1].belief)
        else:
            with pytest.raises(InputError, match="before its first decision"):
                read_checkpoint(torn)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
fleet = conftest.SmallFleet(Path(sys.argv[2]), (3, 4), None)
def die(decision):
    if decision.t == 4:
        os.kill(os.getpid(), signal.SIGKILL)
fleet.run(steps=10, seed=3, progress=die)
"""


def test_record_of_a_process_killed_hard_is_enough_to_go_on(
    make_fleet: Any, tmp_path: Path
) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED_RUN, here, str(tmp_path)]
    killed = subprocess.run(command, env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    (old,) = (tmp_path / "runs").iterdir()
    checkpoint = read_checkpoint(old)
    assert isinstance(checkpoint, Checkpoint)
    assert (checkpoint.t, checkpoint.repeats) == (4, 0)
    fleet = make_fleet(3, 4)
    loop, decisions = resume(fleet, old, epoch=2)
    assert loop.run().completed
    assert [decision.t for decision in decisions] == [5, 6, 7, 8, 9]
