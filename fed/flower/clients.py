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
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord

from kofn.controller.core.errors import InputError
from kofn.fed.flower import wire
from kofn.fed.selectors import Reference, Status
from kofn.fed.status import FIVE, Bins, check_flip, client_bin, encode, randomise

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
        self.bins = bins
        self.flip = flip

    def name(self, context: Context) -> str:
        """Return the stable name: `client-name` of the node's configuration, or its partition."""
        name = context.node_config.get("client-name")
        if name is not None:
            return str(name)
        partition = context.node_config.get("partition-id")
        return f"node-{context.node_id}" if partition is None else f"partition-{partition}"

    def training_s(self, context: Context) -> float:
        """Return this client's estimate of one training round, s; as measured in the last one."""
        return _number(_memory(context).get("seconds"), 0.0)

    def upload_s(self, context: Context) -> float:
        """Return this client's estimate of one upload of the model, s."""
        raise NotImplementedError

    def loss(self, context: Context, arrays: ArrayRecord, samples: int | None) -> tuple[float, int]:
        """Return the mean loss of a model on this client's data, and how many samples it holds."""
        raise NotImplementedError

    def rng(self, context: Context, server_round: int) -> np.random.Generator:
        """Return the generator of randomised response; unpredictable, as privacy needs it."""
        del context, server_round
        return np.random.default_rng()

    def bin(self, context: Context, server_round: int, reference: Reference) -> int:
        """Return the bin to tell, flipped where that is switched on."""
        memory = _memory(context)
        loss = memory.get("loss")
        bin_ = client_bin(
            self.bins,
            server_round=server_round,
            last_trained=int(_number(memory.get("round"), -1)),
            loss=loss if isinstance(loss, float) else None,
            duration_s=self.training_s(context),
            reference=reference,
        )
        if not self.flip:
            return bin_
        return randomise(bin_, self.bins, self.flip, self.rng(context, server_round))

    def status(self, context: Context, poll: wire.Poll) -> Status:
        """Return the answer to a poll."""
        name = self.name(context)
        last = int(_number(_memory(context).get("round"), -1))
        if poll.what == "loss":
            if poll.arrays is None:
                raise InputError("a poll for losses came without a model")
            loss, samples = self.loss(context, poll.arrays, poll.samples)
            return Status(name=name, last_trained=last, loss=loss, samples=samples)
        if poll.what == "resources":
            return Status(
                name=name,
                last_trained=last,
                compute_s=self.training_s(context),
                upload_s=self.upload_s(context),
            )
        bin_ = self.bin(context, poll.server_round, poll.reference)
        # With randomised response the round would give the value bin away.
        return Status(name=name, bin=bin_, last_trained=-1 if self.flip else last)


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
        return Message(wire.pack_status(encode(told, tells.bins)), reply_to=message)

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
        bin_ = tells.bin(context, 0 if server_round is None else server_round, Reference())
        reply.content[wire.RECORD] = ConfigRecord({"bin": bin_})
        return reply

    return mod


def _memory(context: Context) -> ConfigRecord:
    memory = context.state.config_records.get(MEMORY)
    return ConfigRecord() if memory is None else memory


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _round(message: Message) -> int | None:
    for record in message.content.config_records.values():
        value = record.get("server-round")
        if isinstance(value, int):
            return value
    return None


def _loss(reply: Message) -> float | None:
    for record in reply.content.metric_records.values():
        for key in LOSS_KEYS:
            if isinstance(record, MetricRecord) and isinstance(record.get(key), (int, float)):
                return _number(record[key], 0.0)
    return None
