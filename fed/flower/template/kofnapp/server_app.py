# SPDX-License-Identifier: MIT
"""The server's side: a strategy of Flower, and a rule that chooses its clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, Strategy

from kofn.controller.core.errors import InputError
from kofn.fed.clock import EventClock
from kofn.fed.flower import SelectedStrategy, Simulated
from kofn.fed.flower.results import report_errors, write_result
from kofn.fed.selectors import check_sizes, make_selector

from . import task

if TYPE_CHECKING:
    from flwr.app import UserConfig

app = ServerApp()

STRATEGIES: dict[str, type[Strategy]] = {"FedAvg": FedAvg, "FedAdam": FedAdam, "FedAvgM": FedAvgM}

#: Rules whose status bins may be randomised, and those of them that learn a model as they go.
CALLING = ("fixed-call", "myopic", "mean-field")
LEARNING = ("myopic", "mean-field")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write what came out."""
    run = context.run_config
    path = str(run["result"])
    with report_errors(path):
        write_result(path, federate(grid, run))


def federate(grid: Grid, run: UserConfig) -> dict[str, Any]:
    """Run the rounds and return their figures."""
    clients, train, poll = (int(run[key]) for key in ("clients", "train", "poll"))
    name = str(run["selector"])
    check_sizes(name, n=clients, m=train, k=poll)
    model, federation = task.model(run), task.federation(run)
    data = federation.data

    timekeeper = None
    if task.simulates(run):
        timekeeper = Simulated(
            EventClock(task.fleet(run)),
            federation.samples,
            poll_timeout_s=float(run["poll-timeout-s"]),
            round_timeout_s=float(run["train-timeout-s"]),
        )
    strategy = SelectedStrategy(
        inner_strategy(run),
        make_selector(name, k=poll, **selector_settings(run)),
        train,
        seed=int(run["seed"]),
        bins=task.bins(run),
        poll_timeout_s=float(run["poll-timeout-s"]),
        train_timeout_s=float(run["train-timeout-s"]),
        wait_for=int(run["wait-for"]) or clients,
        wait_s=float(run["wait-s"]),
        epochs=int(run["epochs"]),
        log=Path(str(run["log"])) if run["log"] else None,
        timekeeper=timekeeper,
    )

    def accuracy(_server_round: int, arrays: ArrayRecord) -> MetricRecord:
        _, found = model.losses(arrays.to_numpy_ndarrays(), data.x_test, data.y_test)
        return MetricRecord({"accuracy": found})

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.initial(int(run["seed"]))),
        num_rounds=int(run["rounds"]),
        evaluate_fn=accuracy,
    )
    accuracies = [
        float(str(metrics["accuracy"]))
        for server_round, metrics in sorted(result.evaluate_metrics_serverapp.items())
        if server_round > 0
    ]
    return summary(strategy, accuracies)


def selector_settings(run: UserConfig) -> dict[str, Any]:
    """Return what the rule of these settings takes besides the number of clients to poll."""
    settings: dict[str, Any] = {"bins": task.bins(run)}
    if run["selector"] in CALLING:
        settings["flip"] = float(run["flip"])
    if run["selector"] in LEARNING and task.simulates(run):
        # Real rounds never wait for a refit; simulated ones do, to depend on the seed alone.
        settings["refit"] = "blocking"
    return settings


def inner_strategy(run: UserConfig) -> Strategy:
    """Return the strategy that the settings name."""
    # Accuracy is measured on the server; training needs no more than one client.
    settings: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": 1,
        "min_available_nodes": 1,
    }
    name = str(run["strategy"])
    if name == "FedProx":
        return FedProx(proximal_mu=float(run["proximal-mu"]), **settings)
    if name not in STRATEGIES:
        raise InputError(
            f"there is no strategy {name!r}; known are FedProx, {', '.join(STRATEGIES)}"
        )
    return STRATEGIES[name](**settings)


def summary(strategy: SelectedStrategy, accuracies: list[float]) -> dict[str, Any]:
    """Return the figures of a run."""
    rounds = strategy.log.rounds
    return {
        "selector": strategy.selector.name,
        "rounds": len(rounds),
        "final_accuracy": accuracies[-1] if accuracies else None,
        "accuracies": accuracies,
        "selections": [record.chosen for record in rounds],
        "arrived": [len(record.arrived) for record in rounds],
        "simulated": strategy.timekeeper.simulated,
        "simulated_s": strategy.timekeeper.now(),
        "polls": sum(len(record.polled) for record in rounds),
        "status_dropped": strategy.intake.dropped.total(),
        "bytes_poll": sum(r.bytes_poll_down + r.bytes_poll_up for r in rounds),
        "bytes_model": sum(r.bytes_model_down + r.bytes_model_up for r in rounds),
    }
