# SPDX-License-Identifier: MIT
"""The client's side: train the model it is sent, answer polls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from kofn.fed.flower import StatusProvider, attach_status, remember
from kofn.fed.streams import stream

from . import task

if TYPE_CHECKING:
    from kofn.fed.flower.wire import Poll
    from kofn.fed.status import Bins


class Provider(StatusProvider):
    """What a client of this app knows of itself."""

    def bins(self, context: Context) -> Bins:
        """Return the bins that the run declares."""
        return task.bins(context.run_config)

    def flip(self, context: Context) -> float:
        """Return the run's probability of randomised response."""
        return float(context.run_config["flip"])

    def name(self, context: Context) -> str:
        """Return the name by which the data and devices know this client."""
        return task.client_name(context)

    def rng(self, context: Context, server_round: int) -> np.random.Generator:
        """Return the generator of randomised response; repeatable in simulations alone."""
        if not task.simulates(context.run_config):
            return super().rng(context, server_round)
        return stream(task.seed(context), "flip", self.name(context), server_round)

    def training_s(self, context: Context, server_round: int) -> float:
        """Return its own estimate of one round, s, or in real time what the last one took."""
        if not task.simulates(context.run_config):
            return super().training_s(context, server_round)
        return sum(task.estimates(context, server_round))

    def resources(self, context: Context, poll: Poll) -> tuple[float, float, int]:
        """Return computing and upload, s, and samples."""
        _, compute_s, upload_s = task.estimates(context, poll.server_round)
        return compute_s, upload_s, len(task.samples(context)[1])

    def loss(self, context: Context, poll: Poll) -> tuple[float, int]:
        """Return the loss of a model on some of the samples, and how many there are."""
        assert poll.arrays is not None  # noqa: S101  # `status` has looked
        x, y = task.samples(context)
        size = len(y) if poll.samples is None else min(poll.samples, len(y))
        rng = stream(task.seed(context), "probe", self.name(context), poll.server_round)
        rows = rng.permutation(len(y))[:size]
        parameters = poll.arrays.to_numpy_ndarrays()
        losses, _ = task.model(context.run_config).losses(parameters, x[rows], y[rows])
        return float(losses.mean()), len(y)


provider = Provider()
app = attach_status(ClientApp(mods=[remember(provider)]), provider)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Measure the received model on this client's samples, then train it."""
    config, run = message.content.config_records["config"], context.run_config
    x, y = task.samples(context)
    model = task.model(run)
    received = message.content.array_records["arrays"].to_numpy_ndarrays()
    losses, accuracy = model.losses(received, x, y)
    epochs = provider.epochs(message, context, int(run["epochs"]))
    trained = model.train(
        received,
        x,
        y,
        epochs=epochs,
        rate=float(run["rate"]),
        batch=int(run["batch"]),
        proximal_mu=float(str(config.get("proximal-mu", 0.0))),
        # A stream of this client and round: who else trains does not matter to it.
        rng=stream(task.seed(context), "train", provider.name(context), _round(config)),
    )
    metrics = MetricRecord(
        {
            "num-examples": len(y),
            "loss": float(losses.mean()),
            "loss-rms": float(np.sqrt((losses.astype(np.float64) ** 2).mean())),
            "accuracy": accuracy,
        }
    )
    content = RecordDict(
        {
            "arrays": ArrayRecord(trained),
            "metrics": metrics,
            "kofn": ConfigRecord({"epochs": epochs}),
        }
    )
    return Message(content, reply_to=message)


def _round(config: ConfigRecord) -> int:
    return int(str(config["server-round"]))
