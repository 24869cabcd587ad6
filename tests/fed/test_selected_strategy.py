# SPDX-License-Identifier: MIT
"""Client selection around Flower's strategies: who trains, what counts, what never stalls."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedXgbCyclic,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from small_app import FakeClock, Script, clients, reply, small_app, weights

from kofn.controller.core.errors import InputError, RunError
from kofn.fed.flower import InProcessGrid, SelectedStrategy, StatusProvider, read_log
from kofn.fed.flower.wire import Poll
from kofn.fed.selectors import PollRequest, Reference

QUIET: dict[str, Any] = {"fraction_evaluate": 0.0}

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(**QUIET),
    "FedProx": lambda: FedProx(**QUIET),
    "FedAdam": lambda: FedAdam(**QUIET),
    "FedAdagrad": lambda: FedAdagrad(**QUIET),
    "FedYogi": lambda: FedYogi(**QUIET),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9, **QUIET),
    "FedMedian": lambda: FedMedian(**QUIET),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(**QUIET),
    "QFedAvg": lambda: QFedAvg(client_learning_rate=0.1, **QUIET),
    "Krum": lambda: Krum(**QUIET),
    "MultiKrum": lambda: MultiKrum(**QUIET),
    "Bulyan": lambda: Bulyan(**QUIET),
    "DP": lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(**QUIET), 0.1, 10.0, 3),
}


def strategy(*arguments: Any, **settings: Any) -> SelectedStrategy:
    """Return a strategy whose clock stands still unless somebody waits."""
    return SelectedStrategy(*arguments, **{"clock": FakeClock(), **settings})


@pytest.mark.parametrize("name", STRATEGIES)
def test_any_strategy_of_flower_trains_exactly_the_clients_chosen(name: str) -> None:
    trained: list[tuple[int, int]] = []

    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records["config"]
        trained.append((int(str(config["server-round"])), int(context.node_config["partition-id"])))
        return reply(message, context)

    rule = Script([clients(1, 4, 6), clients(2, 3, 5)])
    run = strategy(STRATEGIES[name](), rule, 3)
    result = run.start(InProcessGrid(small_app(train), 8), weights(), num_rounds=2)
    assert sorted(trained) == [(1, 1), (1, 4), (1, 6), (2, 2), (2, 3), (2, 5)]
    assert np.isfinite(result.arrays.to_numpy_ndarrays()[0]).all()
    assert [r.arrived for r in run.log.rounds] == [clients(1, 4, 6), clients(2, 3, 5)]


@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "FedAdam", "FedAvgM"])
def test_the_result_is_the_inner_strategys_own_on_those_clients(name: str) -> None:
    # Partitions 0 to 2 alone, without any selection.
    alone = STRATEGIES[name]().start(InProcessGrid(small_app(), 3), weights(), num_rounds=2)
    chosen = strategy(STRATEGIES[name](), Script([clients(0, 1, 2)] * 2), 3).start(
        InProcessGrid(small_app(), 6), weights(), num_rounds=2
    )
    np.testing.assert_allclose(
        chosen.arrays.to_numpy_ndarrays()[0], alone.arrays.to_numpy_ndarrays()[0]
    )


def test_two_runs_with_other_node_ids_choose_and_learn_alike() -> None:
    def run(ids: list[int]) -> tuple[list[list[str]], bytes]:
        grid = InProcessGrid(small_app(), 12, node_ids=ids)
        selected = strategy(FedAvg(**QUIET), "random", 4, seed=7)
        result = selected.start(grid, weights(), num_rounds=4)
        arrays = result.arrays.to_numpy_ndarrays()[0]
        return [r.chosen for r in selected.log.rounds], arrays.tobytes()

    ids = random.Random(3).sample(range(10, 2**63), 12)
    random.seed(1)
    one = run(ids)
    random.seed(2)
    other = run(sorted(ids))
    assert one == other
    assert len({tuple(chosen) for chosen in one[0]}) > 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fraction_train": 0.5}, "fraction_train 0.5, but must have 1.0"),
        ({"min_train_nodes": 4}, "min_train_nodes 4, more than the 3 clients"),
        ({"min_available_nodes": 9}, "min_available_nodes 9, more than the 3 clients"),
    ],
)
def test_inner_settings_that_would_wait_for_ever_are_refused(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        SelectedStrategy(FedAvg(**settings), "random", 3)
    wrapped = DifferentialPrivacyServerSideFixedClipping(FedAvg(**settings), 0.1, 1.0, 3)
    with pytest.raises(InputError, match=words):
        SelectedStrategy(wrapped, "random", 3)


def test_strategies_that_cannot_be_selected_for_are_refused() -> None:
    with pytest.raises(InputError, match="order of clients of its own"):
        SelectedStrategy(FedXgbCyclic(), "random", 3)
    with pytest.raises(InputError, match="not a flwr"):
        SelectedStrategy("FedAvg", "random", 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there is no selector 'rnadom'"):
        SelectedStrategy(FedAvg(), "rnadom", 3)
    with pytest.raises(InputError, match="poll size 2 is below the 3"):
        SelectedStrategy(FedAvg(), "power-of-choice", 3, k=2)
    with pytest.raises(InputError, match="needs k"):
        SelectedStrategy(FedAvg(), "mean-field", 3)
    with pytest.raises(InputError, match="m is 0"):
        SelectedStrategy(FedAvg(), "random", 0)
    noisy = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 3)
    noisy.accountant = object()  # type: ignore[assignment]
    with pytest.raises(InputError, match="privacy accountant"):
        SelectedStrategy(noisy, "random", 3)


POLL = PollRequest(clients=tuple(clients(0, 1, 2, 3)), what="status", reference=Reference())


def test_silent_failing_and_vanished_clients_do_not_stall_a_round() -> None:
    silent, failing, vanishing = 1000, 1001, 1002

    def train(message: Message, context: Context) -> Message:
        if context.node_id == failing:
            raise ValueError("no memory left")
        return reply(message, context)

    grid = InProcessGrid(small_app(train), 6)
    rule = Script([clients(0, 1, 2, 3), clients(0, 1, 3)], poll=POLL)
    clock = FakeClock({6.0: lambda: grid.online.discard(vanishing)})
    run = strategy(FedAvg(**QUIET), rule, 4, poll_timeout_s=5.0, train_timeout_s=20.0, clock=clock)
    run.start(grid, weights(), num_rounds=1)
    grid.silent = {silent, vanishing}
    result = run.start(grid, weights(), num_rounds=2)
    first, second, third = run.log.rounds
    assert first.arrived == clients(0, 2, 3)
    assert "no memory left" in first.failed["partition-1"]
    # The poll waits 5 s for two of them, the training at most 20 s; then the round goes on.
    assert set(second.bins) == set(clients(1, 3))
    assert second.arrived == clients(3)
    assert second.poll_s == pytest.approx(5.0, abs=0.1)
    assert second.train_s == pytest.approx(20.0, abs=0.1)
    assert third.round == 2
    assert result.arrays is not None
    told = {outcome.name: outcome for outcome in rule.outcomes[1]}
    assert [told[name].arrived for name in clients(0, 1, 2, 3)] == [False, False, False, True]
    assert told["partition-0"].duration_s == pytest.approx(20.0, abs=0.1)


def test_a_round_ends_at_the_deadline_of_its_call_and_keeps_no_more_than_it_says() -> None:
    grid = InProcessGrid(small_app(), 5)
    run = strategy(FedAvg(**QUIET), Script([clients(0, 1, 2)], deadline_s=7.0), 3)
    run._names.online(grid)
    grid.silent = {1000}
    run.start(grid, weights(), num_rounds=1)
    assert run.log.rounds[0].train_s == pytest.approx(7.0, abs=0.1)

    grid = InProcessGrid(small_app(), 5)
    run = strategy(FedAvg(**QUIET), Script([clients(0, 1, 2, 3)], keep=2), 2)
    run._names.online(grid)
    grid.silent = {1000}
    run.start(grid, weights(), num_rounds=1)
    assert run.log.rounds[0].train_s == 0.0
    assert len(run.log.rounds[0].arrived) == 2


def test_a_round_with_too_few_clients_is_skipped_and_the_model_stays() -> None:
    grid = InProcessGrid(small_app(), 4)
    rule = Script([clients(0), [], clients(1, 2)])
    run = strategy(FedAvg(**QUIET), rule, 2)
    result = run.start(grid, weights(), num_rounds=3)
    assert [bool(r.skipped) for r in run.log.rounds] == [True, True, False]
    assert list(result.train_metrics_clientapp) == [3]
    assert rule.outcomes[:2] == [[], []]
    assert rule.closed


def test_krum_with_too_few_models_skips_the_round_instead_of_ending_the_run() -> None:
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] != 0:
            raise OSError("gone")
        return reply(message, context)

    run = strategy(Bulyan(num_malicious_nodes=1, **QUIET), Script([clients(0, 1, 2)] * 2), 3)
    run.start(InProcessGrid(small_app(train), 3), weights(), num_rounds=2)
    assert len(run.log.rounds) == 2


def lying_app(lies: dict[int, MetricRecord | ConfigRecord]) -> ClientApp:
    honest = small_app()
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return honest(message, context)

    @app.query("status")
    def status(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if partition in lies:
            return Message(RecordDict({"kofn": lies[partition]}), reply_to=message)
        return honest(message, context)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return honest(message, context)

    return app


def test_a_malicious_status_is_dropped_counted_and_never_reaches_the_selector() -> None:
    lies: dict[int, MetricRecord | ConfigRecord] = {
        0: MetricRecord({"v": 1, "bin": 10**15, "last": -1}),
        1: MetricRecord({"v": 1, "bin": math.nan, "last": -1}),
        2: MetricRecord({"v": 1, "bin": [1, 2, 3], "last": -1}),
        3: ConfigRecord({"bin": "high"}),
        4: MetricRecord({"v": 1, "bin": 1, "last": -1, "loss": math.inf}),
        5: MetricRecord({}),
    }
    request = PollRequest(clients=tuple(clients(*range(8))), what="status")
    rule = Script([clients(0, 1)] * 2, poll=request)
    run = strategy(FedAvg(**QUIET), rule, 2)
    run.start(InProcessGrid(lying_app(lies), 8), weights(), num_rounds=2)
    assert [[s.name for s in statuses] for statuses in rule.statuses] == [clients(6, 7)] * 2
    assert run.intake.dropped == dict.fromkeys(clients(*range(6)), 2)
    assert run.log.rounds[0].status_dropped == 6
    # A lie about the status does not exclude from training.
    assert run.log.rounds[0].arrived == clients(0, 1)


def _hostile(kind: str, message: Message, context: Context) -> Message:
    if kind == "no weight":
        good = reply(message, context)
        del good.content.metric_records["metrics"]["num-examples"]
        return good
    if kind == "huge weight":
        return reply(message, context, **{"num-examples": 1e300})
    if kind == "weight that is no number":
        return reply(message, context, **{"num-examples": math.nan})
    if kind == "other shapes":
        good = reply(message, context)
        good.content["arrays"] = ArrayRecord([np.zeros(9)])
        return good
    if kind == "more metrics":
        return reply(message, context, surprise=1.0)
    if kind == "no arrays":
        good = reply(message, context)
        del good.content["arrays"]
        return good
    return Message(Error(code=99, reason="never mind"), reply_to=message)


@pytest.mark.parametrize(
    "kind",
    ["no weight", "huge weight", "weight that is no number", "other shapes", "more metrics",
     "no arrays", "error"],
)  # fmt: skip
def test_an_update_that_cannot_be_used_costs_its_client_the_round_and_nobody_else(
    kind: str,
) -> None:
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            return _hostile(kind, message, context)
        return reply(message, context)

    rule = Script([clients(0, 1, 2)])
    run = strategy(FedAvg(**QUIET), rule, 3)
    result = run.start(InProcessGrid(small_app(train), 3), weights(), num_rounds=1)
    assert run.log.rounds[0].arrived == clients(0, 2)
    assert run.log.rounds[0].failed["partition-1"]
    # (0 * 1 + 2 * 3) / (1 + 3), by num-examples
    np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], 1.5)


@given(
    st.dictionaries(
        st.sampled_from(["num-examples", "train_loss", "loss", "x"]),
        st.one_of(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(),
            st.lists(st.floats(), max_size=3),
            st.lists(st.integers(-5, 5), max_size=3),
        ),
    ),
    st.lists(st.integers(0, 5), max_size=2),
)
@settings(max_examples=60)
def test_whatever_one_client_replies_the_others_are_aggregated(
    metrics: dict[str, Any], shape: list[int]
) -> None:
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            content = RecordDict({"metrics": MetricRecord(metrics)})
            if shape:
                content["arrays"] = ArrayRecord([np.ones(shape)])
            return Message(content, reply_to=message)
        return reply(message, context)

    run = strategy(FedAvg(**QUIET), Script([clients(0, 1, 2)]), 3)
    result = run.start(InProcessGrid(small_app(train), 3), weights(), num_rounds=1)
    record = run.log.rounds[0]
    assert {"partition-0", "partition-2"} <= {*record.arrived}
    assert ("partition-1" in record.arrived) != ("partition-1" in record.failed)
    if "partition-1" in record.failed:
        np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], 1.5)


def test_names_come_from_the_node_its_partition_or_its_id() -> None:
    nodes: list[dict[str, Any]] = [{"client-name": "pi-07"}, {"partition-id": 3}, {}]
    run = strategy(FedAvg(**QUIET), "random", 2, wait_for=3)
    run.configure_train(1, weights(), ConfigRecord(), InProcessGrid(small_app(), nodes))
    assert sorted(run._ids) == ["node-1002", "partition-3", "pi-07"]


def test_two_nodes_with_one_name_are_an_error_at_the_start() -> None:
    nodes = [{"client-name": "pi"}, {"client-name": "pi"}, {"client-name": "other"}]
    run = strategy(FedAvg(**QUIET), "random", 2)
    with pytest.raises(InputError, match="two nodes call themselves 'pi'"):
        run.start(InProcessGrid(small_app(), nodes), weights())


def test_a_late_joiner_is_registered_and_cannot_take_a_name_that_is_in_use() -> None:
    grid = InProcessGrid(small_app(), 3)
    chosen = [clients(0, 1), clients(0, 3), clients(0, 1)]
    rule = Script(chosen)
    run = strategy(FedAvg(**QUIET), rule, 2)
    arrays, config = weights(), ConfigRecord()

    def one(server_round: int) -> list[str]:
        list(run.configure_train(server_round, arrays, config, grid))
        run.aggregate_train(server_round, [])
        return rule.online[-1]

    assert one(1) == clients(0, 1, 2)
    grid.join(2000, {"partition-id": 3})
    grid.join(2001, {"partition-id": 0})
    assert one(2) == clients(0, 1, 2, 3)
    assert run._ids["partition-0"] == 1000
    assert list(rule.registered) == clients(0, 1, 2, 3)
    # The client behind partition-0 was restarted under another id.
    grid.online.discard(1000)
    assert one(3) == clients(0, 1, 2, 3)
    assert run._ids["partition-0"] == 2001


def test_a_stock_client_app_is_chosen_from_too() -> None:
    run = strategy(FedAvg(**QUIET), "random", 2)
    grid = InProcessGrid(small_app(status=False), 3)
    run.start(grid, weights(), num_rounds=2)
    assert [len(r.arrived) for r in run.log.rounds] == [2, 2]


def test_a_poll_that_clients_cannot_answer_is_noted_and_costs_nothing_else() -> None:
    rule = Script([clients(0, 1)], poll=PollRequest(clients=tuple(clients(0, 1)), what="loss"))
    run = strategy(FedAvg(**QUIET), rule, 2)
    run.start(InProcessGrid(small_app(), 2), weights(), num_rounds=1)
    assert "NotImplementedError" in run.log.rounds[0].poll_failed["partition-1"]
    assert run.log.rounds[0].arrived == clients(0, 1)


def test_silent_clients_do_not_stall_an_evaluation() -> None:
    clock = FakeClock()
    grid = InProcessGrid(small_app(), 3)
    run = strategy(
        FedAvg(), Script([clients(0, 1)]), 2, clock=clock, train_timeout_s=9.0, poll_timeout_s=1.0
    )
    run._names.online(grid)
    grid.silent = {1002}
    result = run.start(grid, weights(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["loss"] == 0.5
    assert clock.now == pytest.approx(9.0, abs=0.1)


def test_a_start_without_clients_ends_with_one_sentence() -> None:
    run = strategy(FedAvg(**QUIET), "random", 3, wait_s=30.0)
    with pytest.raises(RunError, match="after 30 s 2 clients are online, but 3 are waited for"):
        run.start(InProcessGrid(small_app(), 2), weights())


def test_settings_for_one_client_reach_that_client_alone() -> None:
    asked: dict[int, Any] = {}

    def train(message: Message, context: Context) -> Message:
        config = message.content.config_records["config"]
        asked[int(context.node_config["partition-id"])] = config.get("epochs")
        return reply(message, context)

    rule = Script([clients(0, 1, 2)], per_client_config={"partition-1": {"epochs": 7}})
    run = strategy(FedProx(**QUIET), rule, 3)
    run.start(InProcessGrid(small_app(train), 3), weights(), num_rounds=1)
    assert asked == {0: None, 1: 7, 2: None}
    assert [outcome.epochs for outcome in rule.outcomes[0]] == [1, 7, 1]


def test_the_log_has_one_line_a_round_with_names_bins_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "rounds.jsonl"
    rule = Script([clients(0, 1)] * 3, poll=POLL)
    run = strategy(FedAvg(**QUIET), rule, 2, log=path)
    run.start(InProcessGrid(small_app(), 4), weights(), num_rounds=3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert lines[0]["polled"] == clients(0, 1, 2, 3)
    assert lines[0]["what"] == "status"
    # Nobody has trained yet, so all are worth a visit; later partitions 0 and 1 have.
    assert set(lines[0]["bins"].values()) == {3}
    assert [lines[1]["bins"][name] for name in clients(0, 1, 2, 3)] == [1, 1, 3, 3]
    assert lines[0]["chosen"] == lines[0]["arrived"] == clients(0, 1)
    assert set(lines[0]["seconds"]) == set(clients(0, 1))
    assert 0 < lines[0]["bytes_poll_up"] < lines[0]["bytes_model_up"]
    assert read_log(path) == run.log.rounds


def test_a_poll_for_losses_carries_the_model_and_brings_losses_back() -> None:
    class Measures(StatusProvider):
        def loss(self, context: Context, poll: Poll) -> tuple[float, int]:
            assert poll.samples == 16
            assert poll.arrays is not None
            return float(poll.arrays.to_numpy_ndarrays()[0].sum()), 40

    request = PollRequest(clients=tuple(clients(0, 1)), what="loss", samples=16)
    rule = Script([clients(0, 1)] * 2, poll=request)
    run = strategy(FedAvg(**QUIET), rule, 2)
    run.start(InProcessGrid(small_app(provider=Measures()), 2), weights(), num_rounds=2)
    status = rule.statuses[1][0]
    # (0 * 1 + 1 * 2) / 3 in each of four weights after the first round.
    assert status.loss == pytest.approx(8 / 3)
    assert status.samples == 40
    assert run.log.rounds[0].bytes_poll_down > 2 * 4 * 8


def test_randomised_response_tells_the_true_bin_as_often_as_stated() -> None:
    provider = StatusProvider(flip=0.5)
    rule = Script([clients(0, 1)], poll=PollRequest(clients=tuple(clients(*range(400))),
                                                    what="status"))  # fmt: skip
    run = strategy(FedAvg(**QUIET), rule, 2)
    run.start(InProcessGrid(small_app(provider=provider), 400), weights(), num_rounds=1)
    told = [status.bin for status in rule.statuses[0]]
    # All are in bin 3; told truly with 1 - f + f / 4 = 0.625, +-5 standard deviations.
    assert 0.5 < told.count(3) / 400 < 0.75
    assert {status.last_trained for status in rule.statuses[0]} == {-1}


def test_a_selector_that_chooses_who_is_not_there_ends_the_run() -> None:
    class Confused(Script):
        pass

    run = strategy(FedAvg(**QUIET), Confused([clients(0, 77)]), 2)
    with pytest.raises(RunError, match="chose partition-77, which is not online"):
        run.start(InProcessGrid(small_app(), 3), weights())


def test_evaluation_needs_no_more_nodes_than_are_online() -> None:
    grid = InProcessGrid(small_app(), 3)
    run = strategy(FedAvg(min_evaluate_nodes=3), Script([clients(0, 1)] * 2), 2)
    result = run.start(grid, weights(), num_rounds=1)
    assert result.evaluate_metrics_clientapp[1]["loss"] == 0.5
    grid.online.discard(1002)
    # Alone, the strategy would wait for the third node in an endless loop.
    assert run.configure_evaluate(2, weights(), ConfigRecord(), grid) == []
