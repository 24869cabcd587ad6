# SPDX-License-Identifier: MIT
"""What travels between a server and its clients beside Flower's own messages.

=================  ==========  ==================================================================
message type       direction   content
=================  ==========  ==================================================================
`query.hello`      to client   empty
                   reply       `kofn`: ConfigRecord with `name`
`query.status`     to client   `kofn`: ConfigRecord with `round`, `what`, and where they are known
                               `samples`, `mean-loss`, `limits-s`; for losses also the model
                   reply       `kofn`: MetricRecord, the flat record of `kofn.fed.status`
`train`            reply       `kofn`: ConfigRecord with `bin`, beside what the app itself replies
=================  ==========  ==================================================================

Strategies of Flower aggregate ArrayRecords and MetricRecords only, so the ConfigRecord in a reply
to `train` does not disturb them. Sizes count the values in the records, as Flower itself does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from kofn.controller.core.errors import InputError
from kofn.fed.selectors import PollRequest, Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kofn.fed.selectors.protocol import ConfigValue

HELLO = "query.hello"
STATUS = "query.status"
RECORD = "kofn"
ARRAYS = "arrays"

MAX_NAME = 64


class Poll(msgspec.Struct, frozen=True, kw_only=True):
    """A poll as the client reads it.

    Attributes
    ----------
    server_round : int
        The round that it prepares.
    what : str
        "status", "loss" or "resources".
    samples : int, optional
        For losses: on how many samples.
    reference : Reference
        The server's averages.
    arrays : ArrayRecord, optional
        For losses: the model.
    """

    server_round: int
    what: str
    samples: int | None
    reference: Reference
    arrays: ArrayRecord | None


def pack_poll(request: PollRequest, server_round: int, arrays: ArrayRecord) -> RecordDict:
    """Return the content of the messages of a poll; the model goes along for losses only."""
    config = ConfigRecord({"round": server_round, "what": request.what})
    if request.samples is not None:
        config["samples"] = request.samples
    if request.reference is not None:
        if request.reference.loss is not None:
            config["mean-loss"] = float(request.reference.loss)
        if request.reference.duration_s:
            config["limits-s"] = [float(limit) for limit in request.reference.duration_s]
    content = RecordDict({RECORD: config})
    if request.what == "loss":
        content[ARRAYS] = arrays
    return content


def read_poll(content: RecordDict) -> Poll:
    """Return the poll that a client received."""
    config = content.config_records[RECORD]
    samples, loss, limits = (config.get(key) for key in ("samples", "mean-loss", "limits-s"))
    return Poll(
        server_round=_whole(config["round"]),
        what=str(config["what"]),
        samples=None if samples is None else _whole(samples),
        reference=Reference(
            loss=loss if isinstance(loss, float) else None,
            duration_s=tuple(float(x) for x in limits) if isinstance(limits, list) else (),
        ),
        arrays=content.array_records.get(ARRAYS),
    )


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise InputError(f"a poll holds {value!r} where a whole number belongs")
    return value


def pack_status(record: Mapping[str, int | float]) -> RecordDict:
    """Return the content of a reply to a poll."""
    return RecordDict({RECORD: MetricRecord(dict(record))})


def read_status(content: RecordDict) -> dict[str, object]:
    """Return the flat record in a reply, not yet judged; empty where there is none."""
    return dict(content.metric_records.get(RECORD, {}))


def pack_name(name: str) -> RecordDict:
    """Return the content of a reply to hello."""
    return RecordDict({RECORD: ConfigRecord({"name": name})})


def read_name(content: RecordDict) -> str | None:
    """Return the name in a reply to hello, None where it is no printable text of 64 characters."""
    name = content.config_records.get(RECORD, ConfigRecord()).get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        return None
    return name


def size(content: RecordDict) -> int:
    """Bytes of the values in all records of a message."""
    return sum(
        record.count_bytes()
        for record in content.values()
        if isinstance(record, (ArrayRecord, ConfigRecord, MetricRecord))
    )


def with_settings(message: Message, key: str, settings: Mapping[str, ConfigValue]) -> Message:
    """Return a message whose ConfigRecord `key` has these settings, too."""
    shared = message.content.config_records.get(key, ConfigRecord())
    content = RecordDict(dict(message.content))
    content[key] = ConfigRecord({**shared, **settings})
    return Message(
        content,
        message.metadata.dst_node_id,
        message.metadata.message_type,
        ttl=message.metadata.ttl,
        group_id=message.metadata.group_id,
    )
