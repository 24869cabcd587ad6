# SPDX-License-Identifier: MIT
"""The client's side: what a ClientApp needs to be chosen by more than chance.

::

    app = ClientApp(mods=[remember()])
    attach_status(app)

`attach_status` answers `query.hello` with the client's stable name and `query.status` with one
coarse bin that the client computes itself; `remember` keeps in the node's own context what that
bin is made of. A subclass of `StatusProvider` tells more, where its operator wants it told.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord

from kofn.controller.core.errors import InputError
from kofn.fed.flower import wire
from kofn.fed.selectors import Reference, Status
from kofn.fed.status import (
    FIVE,
    Bins,
    check_flip,
    client_bin,
    encode,
    epochs_asked,
    randomise,
    settings_reference,
)

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.clientapp.typing import ClientAppCallable, Mod

#: Where a node's context keeps what it remembers of its last training.
MEMORY = "kofn.memory"

#: Keys under which apps commonly report the loss of a training.
LOSS_KEYS = ("loss", "train_loss", "train-loss")


class StatusProvider:
    """What a client knows of itself; override a method to know it better.

    Parameters
    ----------
    bins : Bins
        The declared bins, the same as the server's.
    flip : float
        Probability of randomised response: with it an even draw over all bins is sent instead of
        the true one. Each poll draws anew, so many polls of an unchanged client reveal its bin.
    """

    def __init__(self, *, bins: Bins = FIVE, flip: float = 0.0) -> None:
        check_flip(flip)
        self._bins = bins
        self._flip = flip

    def bins(self, context: Context) -> Bins:
        """Return the declared bins."""
        del context
        return self._bins

    def flip(self, context: Context) -> float:
        """Return the probability of randomised response."""
        del context
        return self._flip

    def name(self, context: Context) -> str:
        """Return the stable name: `client-name` of the node's configuration, or its partition."""
        name = context.node_config.get("client-name")
        if name is not None:
            return str(name)
        partition = context.node_config.get("partition-id")
        return f"node-{context.node_id}" if partition is None else f"partition-{partition}"

    def training_s(self, context: Context, server_round: int) -> float:
        """Return this client's estimate of one training round, s; as measured in the last one."""
        del server_round
        return _number(_memory(context).get("seconds"), 0.0)

    def resources(self, context: Context, poll: wire.Poll) -> tuple[float, float, int]:
        """Return estimates of computing and of an upload, s, and the number of samples."""
        raise NotImplementedError

    def loss(self, context: Context, poll: wire.Poll) -> tuple[float, int]:
        """Return the mean loss of the polled model, and the number of samples."""
        raise NotImplementedError

    def rng(self, context: Context, server_round: int) -> np.random.Generator:
        """Return the generator of randomised response; unpredictable, as privacy needs it."""
        del context, server_round
        return np.random.default_rng()

    def bin(self, context: Context, server_round: int, reference: Reference) -> int:
        """Return the bin that this client finds itself in."""
        memory = _memory(context)
        loss = memory.get("loss")
        return client_bin(
            self.bins(context),
            server_round=server_round,
            last_trained=int(_number(memory.get("round"), -1)),
            loss=loss if isinstance(loss, float) else None,
            duration_s=self.training_s(context, server_round),
            reference=reference,
        )

    def told_bin(self, context: Context, server_round: int, reference: Reference) -> int:
        """Return the bin to tell, flipped where that is switched on."""
        bin_, flip = self.bin(context, server_round, reference), self.flip(context)
        if not flip:
            return bin_
        return randomise(bin_, self.bins(context), flip, self.rng(context, server_round))

    def epochs(self, message: Message, context: Context, default: int) -> int:
        """Return how many epochs the server asks this client to train."""
        config = _settings(message)
        server_round = _round(message) or 0
        bin_ = self.bin(context, server_round, settings_reference(config))
        return epochs_asked(config, bin_, default)

    def status(self, context: Context, poll: wire.Poll) -> Status:
        """Return the answer to a poll."""
        name = self.name(context)
        if poll.what == "loss":
            if poll.arrays is None:
                raise InputError("a poll for losses came without a model")
            loss, samples = self.loss(context, poll)
            return Status(name=name, loss=loss, samples=samples)
        if poll.what == "resources":
            compute_s, upload_s, samples = self.resources(context, poll)
            return Status(name=name, compute_s=compute_s, upload_s=upload_s, samples=samples)
        bin_ = self.told_bin(context, poll.server_round, poll.reference)
        # With randomised response the round would give the value bin away.
        last = -1 if self.flip(context) else int(_number(_memory(context).get("round"), -1))
        return Status(name=name, bin=bin_, last_trained=last)


def attach_status(app: ClientApp, provider: StatusProvider | None = None) -> ClientApp:
    """Make a ClientApp answer `query.hello` and `query.status`; return it.

    Parameters
    ----------
    app : ClientApp
        Any app of the Message API.
    provider : StatusProvider, optional
        What it tells; by default a name, and a bin from what `remember` keeps.
    """
    tells = provider or StatusProvider()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return Message(wire.pack_name(tells.name(context)), reply_to=message)

    @app.query("status")
    def status(message: Message, context: Context) -> Message:
        told = tells.status(context, wire.read_poll(message.content))
        return Message(wire.pack_status(encode(told, tells.bins(context))), reply_to=message)

    return app


def remember(provider: StatusProvider | None = None) -> Mod:
    """Return a client mod that keeps what status bins are made of: round, loss, duration.

    It stays in the node's context; the reply gets one small record more, with the bin after
    training. The loss is what the app itself reports as one of `LOSS_KEYS`.
    """
    tells = provider or StatusProvider()

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.split(".")[0] != "train":
            return call_next(message, context)
        started = time.perf_counter()
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        memory = ConfigRecord({"seconds": time.perf_counter() - started})
        server_round = _round(message)
        if server_round is not None:
            memory["round"] = server_round
        loss = _loss(reply)
        if loss is not None:
            memory["loss"] = loss
        context.state[MEMORY] = memory
        reference = settings_reference(_settings(message))
        told = reply.content.config_records.get(wire.RECORD, ConfigRecord())
        told["bin"] = tells.told_bin(context, server_round or 0, reference)
        reply.content[wire.RECORD] = told
        return reply

    return mod


def _memory(context: Context) -> ConfigRecord:
    memory = context.state.config_records.get(MEMORY)
    return ConfigRecord() if memory is None else memory


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _settings(message: Message) -> dict[str, object]:
    """Return all settings that came with a model."""
    return {
        key: value
        for record in message.content.config_records.values()
        for key, value in record.items()
    }


def _round(message: Message) -> int | None:
    value = _settings(message).get("server-round")
    return value if isinstance(value, int) else None


def _loss(reply: Message) -> float | None:
    for record in reply.content.metric_records.values():
        for key in LOSS_KEYS:
            if isinstance(record, MetricRecord) and isinstance(record.get(key), (int, float)):
                return _number(record[key], 0.0)
    return None
