# SPDX-License-Identifier: MIT
"""The template app in one process, against the event-clock simulator that knows no Flower."""

import json
from pathlib import Path
from typing import Any

import pytest

from kofn.controller.core.errors import InputError
from kofn.fed.client import TrainSettings
from kofn.fed.devices import TraceSettings, synthetic_devices
from kofn.fed.flower import read_log
from kofn.fed.flower.app_runner import run_app
from kofn.fed.selectors import make_selector
from kofn.fed.simulate import Federation, RunSettings, simulate
from kofn.fed.status import FIVE

TEMPLATE = Path(__file__).resolve().parents[2] / "fed" / "flower" / "template"


def play(out: Path, **settings: Any) -> dict[str, Any]:
    """Run the template in this process and return its figures."""
    path = out / "result.json"
    run_app(TEMPLATE, {"model": "numpy", "result": str(path), **settings})
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("random", {}),
        ("oort", {}),
        ("power-of-choice-batch", {"k": 10}),
        ("fedcs", {"k": 10}),
        ("mean-field", {"k": 10, "refit": "blocking"}),
    ],
)
def test_flower_and_the_event_clock_simulator_play_the_same_run(
    rule: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    seed, rounds = 11, 12 if rule == "mean-field" else 4
    found = play(tmp_path, seed=seed, rounds=rounds, train=5, poll=10, selector=rule)
    federation = Federation.make("digits", 100, "dirichlet:0.3", seed=seed)
    fleet = synthetic_devices(federation.names, TraceSettings(), seed=seed)
    run = simulate(
        make_selector(rule, **settings),
        federation,
        fleet,
        RunSettings(m=5, rounds=rounds, train=TrainSettings(epochs=5, batch=10, rate=0.05)),
        bins=FIVE,
        seed=seed,
    )
    assert found["selections"] == [sorted(r.chosen) for r in run.rounds]
    assert found["arrived"] == [len(r.arrived) for r in run.rounds]
    assert found["simulated_s"] == pytest.approx(run.rounds[-1].end_s)
    assert found["accuracies"] == pytest.approx([r.accuracy for r in run.rounds], abs=0.01)
    assert found["bytes_model"] == sum(r.bytes_model_down + r.bytes_model_up for r in run.rounds)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx", "FedAdam", "FedAvgM"])
def test_the_template_offers_strategies(strategy: str, tmp_path: Path) -> None:
    found = play(
        tmp_path, selector="random", strategy=strategy, rounds=2, clients=20, train=4, poll=8
    )
    assert len(found["accuracies"]) == 2


def test_randomised_bins_of_seven_states_repeat_with_the_seed(tmp_path: Path) -> None:
    settings = {"states": 7, "flip": 0.3, "rounds": 3, "clients": 30, "train": 5, "poll": 10}
    log = tmp_path / "rounds.jsonl"
    one = play(tmp_path, log=str(log), **settings)
    told = [record.bins for record in read_log(log)]
    assert play(tmp_path, log=str(log), **settings) == one
    assert [record.bins for record in read_log(log)] == told
    assert {bin_ for bins in told for bin_ in bins.values()} <= set(range(6))
    true = play(tmp_path, log=str(log), **{**settings, "flip": 0.0})
    assert true["polls"] > 0
    assert [record.bins for record in read_log(log)] != told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"selector": "rnadom"}, "there is no selector 'rnadom'"),
        ({"train": 101}, "clients per round 101 exceed the 100"),
        ({"clients": 1000, "train": 3}, "do not fit the 1438 training samples"),
        ({"partition": "dirichlet:0"}, "needs a positive number"),
        ({"dataset": "mnist"}, "there is no data set 'mnist'"),
        ({"strategy": "FedSGD"}, "there is no strategy 'FedSGD'"),
        ({"model": "jax"}, "there is no model 'jax'"),
        ({"states": 6}, "states is 6"),
        ({"time": "real"}, "time is 'real'"),
        ({"online": "/nowhere.csv"}, "need a file of devices"),
        ({"learning-rate": 1.0}, "has no setting 'learning-rate'"),
    ],
)
def test_bad_settings_are_one_sentence(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        play(tmp_path, **settings)


def test_traces_of_ones_own_decide_who_is_there(tmp_path: Path) -> None:
    devices, online = tmp_path / "devices.csv", tmp_path / "online.csv"
    names = [f"client-{i:03d}" for i in range(8)]
    devices.write_text(
        "client,ms_per_sample,kbps\n" + "".join(f"{name},10,1000\n" for name in names)
    )
    online.write_text("client,t_on,t_off\n" + "".join(f"{name},0,1\n" for name in names[4:]))
    found = play(
        tmp_path,
        selector="random",
        clients=8,
        train=4,
        poll=4,
        rounds=2,
        devices=str(devices),
        online=str(online),
    )
    # The last four leave after one second, before anybody's training ends.
    assert found["selections"][1] == names[:4]
    assert found["arrived"][1] == 4
