# SPDX-License-Identifier: MIT
"""Deadlines where time is measured: what messages take is not held against clients."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg
from small_app import FakeClock, Script, clients, small_app, weights

from kofn.fed.flower import InProcessGrid, RoundRecord, SelectedStrategy
from kofn.fed.flower.patience import MOST_IN_VAIN, WAIT_ON, Patience
from kofn.fed.selectors import Outcome, PollRequest, Reference, Status, make_selector


class SlowGrid(InProcessGrid):
    """Each message takes a while, as where every message starts a process."""

    def __init__(self, clock: FakeClock, nodes: int, least_s: float, most_s: float) -> None:
        super().__init__(small_app(), nodes)
        self.clock, self.least_s, self.most_s = clock, least_s, most_s
        self._rng = np.random.default_rng(3)
        self._due: dict[str, float] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = super().push_messages(messages)
        for key in ids:
            took = self._rng.uniform(self.least_s, self.most_s)
            self._due[key] = self.clock.monotonic() + float(took)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return super().pull_messages([k for k in message_ids if self._due[k] <= self.clock.now])


def start(rule: Any, grid: SlowGrid, m: int, rounds: int) -> SelectedStrategy:
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    run = SelectedStrategy(inner, rule, m, clock=grid.clock, train_timeout_s=1000.0)
    run.start(grid, weights(), num_rounds=rounds)
    return run


@pytest.mark.parametrize("call", ["all", "high", "fast", "both", "long"])
def test_no_model_is_lost_where_messages_take_longer_than_training(call: str) -> None:
    # Training takes less than a millisecond, each message 5 to 15 s.
    grid = SlowGrid(FakeClock(), 6, 5.0, 15.0)
    run = start(make_selector("fixed-call", k=4, call=call), grid, 3, 25)
    opening, *rounds = run.log.rounds
    assert len(opening.arrived) >= 2
    assert [len(record.arrived) for record in rounds] == [3] * 24
    # Nobody is waited for after all have come.
    assert max(record.train_s for record in rounds) <= 16.0


def test_a_learned_rule_is_not_told_that_messages_are_slow_clients() -> None:
    rule = make_selector("fixed-call", k=2)
    rule.register(["a", "b"])
    rng = np.random.default_rng(0)

    def one(server_round: int, seconds: float, grace_s: float) -> None:
        asked = rule.wants(server_round, ["a", "b"], rng).clients
        # Value high, speed fast, whatever the limit.
        rule.observe(server_round, [Status(name=name, bin=3) for name in asked])
        chosen = rule.select(server_round, ["a", "b"], 2, rng).clients
        rule.update(
            server_round,
            [
                Outcome(name=n, duration_s=seconds, loss=1.0, samples=1, arrived=True,
                        grace_s=grace_s)
                for n in chosen
            ],
        )  # fmt: skip

    for server_round in range(1, 60):
        one(server_round, seconds=10.0, grace_s=9.0)
    state = rule.state()
    # All call themselves fast, so the limit falls: to what messages take, and no further.
    assert state["limit_s"] == 9.0
    # One second of ten was their own.
    shares = state["log"]["times"]["1,2"]
    assert shares[-1] == pytest.approx(1 / 9)
    assert all(share <= 0.7 for share in shares)
    # Simulated clients count the messages in themselves.
    for server_round in range(60, 120):
        one(server_round, seconds=10.0, grace_s=0.0)
    assert rule.state()["limit_s"] < 2.0


def test_a_round_without_a_model_waits_for_the_first_and_the_next_one_longer() -> None:
    def run(*delays: float) -> list[RoundRecord]:
        grid = SlowGrid(FakeClock(), 3, 0.0, 0.0)
        rule = Script([clients(0, 1, 2)] * len(delays), deadline_s=1.0)
        inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        strategy = SelectedStrategy(inner, rule, 3, clock=grid.clock, train_timeout_s=1000.0)
        strategy._names.online(grid)

        def slower(server_round: int, _arrays: object) -> None:
            if server_round < len(delays):
                grid.least_s = grid.most_s = delays[server_round]

        strategy.start(grid, weights(), num_rounds=len(delays), evaluate_fn=slower)
        return strategy.log.rounds

    # The first model comes s after the deadline; s + 4 s / 2 is granted from then on.
    first, second = run(2.0, 3.0)
    assert (first.deadline_s, len(first.arrived), len(second.arrived)) == (1.0, 3, 3)
    assert 2.0 <= first.train_s < 3.0
    assert second.deadline_s == pytest.approx(1.0 + 3 * (first.train_s - 1.0))
    # Ten times the deadline is too much at once; the next round has four times as long, and so on.
    first, second, third = run(10.0, 10.0, 10.0)
    assert [len(r.arrived) for r in (first, second, third)] == [0, 3, 3]
    assert (first.train_s, second.deadline_s) == (WAIT_ON, WAIT_ON)
    assert 10.0 <= second.train_s < 11.0
    assert third.deadline_s == pytest.approx(1.0 + 3 * (second.train_s - 1.0))
    # Who never answers stalls nobody for long; once models come deadlines are what they were.
    rounds = run(1e9, 1e9, 0.5, 0.5)
    assert [r.deadline_s for r in rounds] == [1.0, 4.0, 16.0, 1.0]
    assert [len(r.arrived) for r in rounds] == [0, 0, 3, 3]
    assert rounds[1].train_s == pytest.approx(16.0)


def test_the_estimate_is_that_of_rfc_6298() -> None:
    patience = Patience()
    assert patience.deadline_s(3.0) == 3.0
    patience.took(2.0)
    assert patience.grace_s == 2.0 + 4 * 1.0
    patience.took(4.0)
    assert patience.grace_s == 2.25 + 4 * 1.25
    for nonsense in (math.nan, math.inf, -1.0):
        patience.took(nonsense)
    assert patience.deadline_s(3.0) == 3.0 + 7.25
    for _ in range(200):
        patience.took(1.0)
    assert patience.grace_s == pytest.approx(1.0, abs=1e-6)
    for _ in range(1000):
        patience.ended(3.0, None)
    assert patience.deadline_s(3.0) == pytest.approx(4.0 * WAIT_ON**MOST_IN_VAIN)
    patience.ended(3.0, 3.5)
    assert patience.deadline_s(3.0) == pytest.approx(4.0)


def test_polls_that_cost_work_say_nothing_about_messages() -> None:
    for what, grace_s in (("loss", 0.0), ("status", 12.0)):
        grid = SlowGrid(FakeClock(), 2, 4.0, 4.0)
        poll = PollRequest(clients=tuple(clients(0, 1)), what=what, reference=Reference())  # type: ignore[arg-type]
        run = start(Script([clients(0, 1)], poll=poll), grid, 2, 1)
        assert run.timekeeper.grace_s == pytest.approx(grace_s, abs=2.0)
