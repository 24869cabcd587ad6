# SPDX-License-Identifier: MIT
"""Replies to `train` and `evaluate`: which of them can be used, and what they say.

Flower ends the whole run when one reply does not look like the others. Here such replies are
sorted out first, each with a reason: those with an error, without a usable weight, with arrays
other than those that were sent, and those whose metrics differ from what most clients report.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from flwr.app import ConfigRecord

from kofn.fed.flower import wire
from kofn.fed.flower.clients import LOSS_KEYS
from kofn.fed.selectors import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import ArrayRecord, Message, MetricRecord

MAX_WEIGHT = 1e9

Shapes = dict[str, tuple[int, ...]]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply says beside the model; see `kofn.fed.selectors.Outcome`."""

    samples: int
    loss: float | None
    loss_rms: float | None
    accuracy: float | None
    epochs: int | None
    bin: int | None


def shapes(arrays: ArrayRecord) -> Shapes:
    """Return names and shapes of the arrays of a model."""
    return {key: tuple(array.shape) for key, array in arrays.items()}


def n_bytes(arrays: ArrayRecord) -> int:
    """Return the size of the numbers of a model, without names and headers."""
    return sum(math.prod(a.shape) * np.dtype(a.dtype).itemsize for a in arrays.values())


def sort_out(
    replies: Mapping[str, Message], *, weight_key: str, sent: Shapes | None
) -> tuple[dict[str, Message], dict[str, str]]:
    """Return the replies that can be used, by client, and why the others cannot.

    Parameters
    ----------
    replies : mapping of str to Message
        By client.
    weight_key : str
        Metric that weights a reply, "num-examples" by default in Flower.
    sent : Shapes, optional
        The model as it was sent; None where replies carry no arrays.
    """
    failed: dict[str, str] = {}
    good: dict[str, Message] = {}
    for client in sorted(replies):
        reason = _fault(replies[client], weight_key, sent)
        if reason:
            failed[client] = reason
        else:
            good[client] = replies[client]
    keys = {client: _metric_keys(message) for client, message in good.items()}
    if keys:
        usual = Counter(keys.values()).most_common(1)[0][0]
        for client, own in keys.items():
            if own != usual:
                failed[client] = f"metrics {', '.join(own)} are not those of most clients"
                del good[client]
    return good, failed


def told(message: Message, weight_key: str) -> Told:
    """Return what a usable reply says."""
    metrics = _metrics(message)
    config = message.content.config_records.get(wire.RECORD, ConfigRecord())
    epochs, bin_ = config.get("epochs"), config.get("bin")
    losses = (_number(metrics, key) for key in LOSS_KEYS)
    return Told(
        samples=int(_number(metrics, weight_key) or 0),
        loss=next((loss for loss in losses if loss is not None), None),
        loss_rms=_number(metrics, "loss-rms"),
        accuracy=_number(metrics, "accuracy"),
        epochs=epochs if isinstance(epochs, int) and 0 < epochs <= 10_000 else None,
        bin=bin_ if isinstance(bin_, int) and not isinstance(bin_, bool) else None,
    )


def outcome(
    name: str, seconds: float, says: Told | None, epochs: int, *, grace_s: float = 0.0
) -> Outcome:
    """Return what the selector is told of a chosen client; `says` is None if it did not arrive."""
    if says is None:
        return Outcome(
            name=name,
            duration_s=seconds,
            loss=None,
            samples=0,
            arrived=False,
            epochs=epochs,
            grace_s=grace_s,
        )
    return Outcome(
        name=name,
        duration_s=seconds,
        loss=says.loss,
        samples=says.samples,
        arrived=True,
        loss_rms=says.loss_rms,
        accuracy=says.accuracy,
        epochs=epochs,
        bin=says.bin,
        grace_s=grace_s,
    )


def why(message: Message) -> str:
    """Return the reason in an error reply, in one line."""
    reason = " ".join((message.error.reason or "no reason given").split())
    return f"error {message.error.code}: {reason}"[:200]


def _fault(message: Message, weight_key: str, sent: Shapes | None) -> str:
    if message.has_error():
        return why(message)
    content = message.content
    if len(content.metric_records) != 1:
        return f"{len(content.metric_records)} metric records, not 1"
    weight = _metrics(message).get(weight_key)
    if isinstance(weight, list) or weight is None or not 0 < weight <= MAX_WEIGHT:
        return f"{weight_key} {weight!r:.40} is not a number above 0 and up to {MAX_WEIGHT:g}"
    if sent is not None:
        if len(content.array_records) != 1:
            return f"{len(content.array_records)} array records, not 1"
        if shapes(next(iter(content.array_records.values()))) != sent:
            return "arrays of other names or shapes than the model that was sent"
    return ""


def _metrics(message: Message) -> MetricRecord:
    return next(iter(message.content.metric_records.values()))


def _metric_keys(message: Message) -> tuple[str, ...]:
    # The name of the record counts too: Flower reads all replies under the name in the first.
    content = message.content
    names = [*content.array_records, *content.metric_records]
    return (*names, *sorted(_metrics(message)))


def _number(metrics: MetricRecord, key: str) -> float | None:
    value = metrics.get(key)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None
