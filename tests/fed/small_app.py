# SPDX-License-Identifier: MIT
"""A federated app small enough to know by heart, and selectors that do as a test says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from kofn.fed.flower import StatusProvider, attach_status, remember
from kofn.fed.selectors import Outcome, PollRequest, Selection, Status
from kofn.fed.selectors.base import BaseSelector

Train = Callable[[Message, Context], Message]


def reply(message: Message, context: Context, **metrics: Any) -> Message:
    """Add the number of the partition to each weight, as training does here."""
    partition = int(context.node_config["partition-id"])
    weights = message.content.array_records["arrays"].to_numpy_ndarrays()[0]
    told = {"num-examples": partition + 1, "train_loss": 1.0 / (partition + 1), **metrics}
    return Message(
        RecordDict({"arrays": ArrayRecord([weights + partition]), "metrics": MetricRecord(told)}),
        reply_to=message,
    )


def small_app(
    train: Train = reply, provider: StatusProvider | None = None, *, status: bool = True
) -> ClientApp:
    """Return the client's side; `train` replaces what it does, `status` False keeps it stock."""
    provider = provider or StatusProvider()
    app = ClientApp(mods=[remember(provider)] if status else [])
    if status:
        attach_status(app, provider)

    @app.train()
    def train_fn(message: Message, context: Context) -> Message:
        return train(message, context)

    @app.evaluate()
    def evaluate_fn(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def weights(n: int = 4) -> ArrayRecord:
    """Return the model to start with: zeros."""
    return ArrayRecord([np.zeros(n)])


class Script(BaseSelector):
    """Polls and chooses as written down, round by round; keeps what it was told."""

    name = "script"

    def __init__(
        self,
        chosen: Sequence[Sequence[str]],
        *,
        poll: PollRequest | None = None,
        **selection: Any,
    ) -> None:
        super().__init__()
        self.chosen = chosen
        self.poll = poll or PollRequest()
        self.selection = selection
        self.statuses: list[list[Status]] = []
        self.outcomes: list[list[Outcome]] = []
        self.online: list[list[str]] = []
        self.closed = False

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        return self.poll

    def observe(self, server_round: int, statuses: Sequence[Status]) -> None:
        self.statuses.append(list(statuses))

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        self.online.append(list(online))
        return Selection(clients=tuple(self.chosen[server_round - 1]), **self.selection)

    def update(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        self.outcomes.append(list(outcomes))

    def close(self) -> None:
        self.closed = True


def clients(*partitions: int) -> list[str]:
    """Return the default names of partitions."""
    return [f"partition-{i}" for i in partitions]


class FakeClock:
    """Time passes by waiting alone; `at` maps moments to what happens then."""

    def __init__(self, at: dict[float, Callable[[], None]] | None = None) -> None:
        self.now = 0.0
        self._at = dict(at or {})

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment in sorted(self._at):
            if moment <= self.now:
                self._at.pop(moment)()
