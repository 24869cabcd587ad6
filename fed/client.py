# SPDX-License-Identifier: MIT
"""What a client does with the models of `learn`: report its status, measure losses, train.

The same functions serve the event clock and a Flower client. Between messages a client remembers
two numbers, `ClientMemory`; the rest comes with the message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kofn.fed.learn import sample_losses, train
from kofn.fed.selectors.protocol import Outcome, Status
from kofn.fed.status import client_bin, epochs_asked, settings_reference
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kofn.fed.learn import F32, I64, Parameters
    from kofn.fed.selectors.protocol import PollRequest, Reference
    from kofn.fed.status import Bins


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Local training: epochs of a full effort, samples of a step, step size, FedProx's mu."""

    epochs: int = 5
    batch: int = 20
    rate: float = 0.01
    proximal_mu: float = 0.0


class ClientMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client keeps between rounds: its last measured loss, and the round it trained in."""

    last_loss: float | None = None
    last_trained: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What a client sends back: its model, and what `Outcome` says of it."""

    parameters: Parameters
    samples: int
    loss: float
    loss_rms: float
    accuracy: float
    epochs: int
    bin: int
    memory: ClientMemory

    def outcome(self, name: str, duration_s: float) -> Outcome:
        """Return what the server sees of an update that arrived."""
        return Outcome(
            name=name,
            duration_s=duration_s,
            loss=self.loss,
            samples=self.samples,
            arrived=True,
            loss_rms=self.loss_rms,
            accuracy=self.accuracy,
            epochs=self.epochs,
            bin=self.bin,
        )


def own_bin(
    memory: ClientMemory,
    bins: Bins,
    *,
    server_round: int,
    duration_s: float,
    reference: Reference,
) -> int:
    """Return the bin that a client finds itself in."""
    return client_bin(
        bins,
        server_round=server_round,
        last_trained=memory.last_trained,
        loss=memory.last_loss,
        duration_s=duration_s,
        reference=reference,
    )


def asked_epochs(
    settings: TrainSettings,
    config: Mapping[str, object],
    memory: ClientMemory,
    bins: Bins,
    *,
    server_round: int,
    duration_s: float,
) -> int:
    """Return how many epochs a client trains under the settings that came with the model."""
    before = own_bin(
        memory,
        bins,
        server_round=server_round,
        duration_s=duration_s,
        reference=settings_reference(config),
    )
    return epochs_asked(config, before, settings.epochs)


def local_round(
    parameters: Parameters,
    x: F32,
    y: I64,
    settings: TrainSettings,
    config: Mapping[str, object],
    memory: ClientMemory,
    bins: Bins,
    *,
    name: str,
    server_round: int,
    duration_s: float,
    seed: int,
) -> Update:
    """Measure the received model on the client's samples, then train it as the call asks.

    Parameters
    ----------
    x, y : arrays
        The client's samples.
    config : mapping
        Settings that came with the model.
    duration_s : float
        The client's own estimate of one full training round, s.
    seed : int
        Of the run; the training stream is the client's own in each round.
    """
    reference = settings_reference(config)
    epochs = asked_epochs(
        settings, config, memory, bins, server_round=server_round, duration_s=duration_s
    )
    losses, accuracy = sample_losses(parameters, x, y)
    loss = float(losses.mean())
    trained = train(
        parameters,
        x,
        y,
        epochs=epochs,
        rate=settings.rate,
        batch=settings.batch,
        proximal_mu=settings.proximal_mu,
        rng=stream(seed, "train", name, server_round),
    )
    after = ClientMemory(last_loss=loss, last_trained=server_round)
    return Update(
        parameters=trained,
        samples=len(y),
        loss=loss,
        loss_rms=math.sqrt(float((losses.astype(np.float64) ** 2).mean())),
        accuracy=accuracy,
        epochs=epochs,
        bin=own_bin(
            after, bins, server_round=server_round, duration_s=duration_s, reference=reference
        ),
        memory=after,
    )


def answer(
    request: PollRequest,
    parameters: Parameters,
    x: F32,
    y: I64,
    memory: ClientMemory,
    bins: Bins,
    *,
    name: str,
    server_round: int,
    compute_s: float,
    upload_s: float,
    download_s: float,
    seed: int,
) -> Status:
    """Return a client's reply to a poll; the times are its own estimates of a full round."""
    if request.what == "loss":
        size = len(y) if request.samples is None else min(request.samples, len(y))
        rows = stream(seed, "probe", name, server_round).permutation(len(y))[:size]
        losses, _ = sample_losses(parameters, x[rows], y[rows])
        return Status(name=name, loss=float(losses.mean()), samples=len(y))
    if request.what == "resources":
        return Status(name=name, samples=len(y), compute_s=compute_s, upload_s=upload_s)
    found = 0
    if request.reference is not None:
        found = own_bin(
            memory,
            bins,
            server_round=server_round,
            duration_s=download_s + compute_s + upload_s,
            reference=request.reference,
        )
    return Status(name=name, bin=found, last_trained=memory.last_trained)
