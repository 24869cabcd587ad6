# SPDX-License-Identifier: MIT
"""One poll: ask clients, wait no longer than allowed, keep the answers that are sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import Message

from kofn.fed.flower import wire
from kofn.fed.flower.collecting import Clock, collect
from kofn.fed.flower.timekeeping import seen
from kofn.fed.flower.updates import why

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import ArrayRecord
    from flwr.serverapp import Grid

    from kofn.fed.flower.round_log import RoundRecord
    from kofn.fed.flower.timekeeping import Timekeeper
    from kofn.fed.selectors import PollRequest, Status
    from kofn.fed.status import Intake


def poll(
    grid: Grid,
    request: PollRequest,
    online: Mapping[str, int],
    arrays: ArrayRecord,
    record: RoundRecord,
    *,
    model_bytes: int,
    intake: Intake,
    timekeeper: Timekeeper,
    timeout_s: float,
    clock: Clock,
) -> list[Status]:
    """Return the sound answers that came in time, and note in `record` what it took.

    Parameters
    ----------
    online : mapping of str to int
        Node ids of the clients that are online; nobody else gets a message.
    arrays, model_bytes : ArrayRecord, int
        The model, for polls that need it, and its size.
    """
    record.what = request.what
    if request.what == "nothing" or not request.clients:
        return []
    record.polled = [name for name in request.clients if name in online]
    content = wire.pack_poll(request, record.round, arrays)
    by_id = {online[name]: name for name in record.polled}
    began = clock.monotonic()
    replies = collect(
        grid,
        [Message(content, node_id, wire.STATUS) for node_id in by_id],
        timeout_s=timeout_s,
        clock=clock,
    )
    came = {by_id[r.node_id]: r for r in replies if not r.message.has_error()}
    record.poll_failed = {
        by_id[r.node_id]: why(r.message) for r in replies if r.message.has_error()
    }
    passed = timekeeper.poll(
        request,
        seen(
            record.polled,
            {name: reply.seconds for name, reply in came.items()},
            clock.monotonic() - began,
            down=len(by_id) * wire.size(content),
            up=sum(wire.size(reply.message.content) for reply in came.values()),
        ),
        server_round=record.round,
        model_bytes=model_bytes,
    )
    before = intake.dropped.total()
    taken = [
        intake.take(name, wire.read_status(came[name].message.content))
        for name in passed.arrived
        if name in came
    ]
    good = [status for status in taken if status is not None]
    record.status_dropped = intake.dropped.total() - before
    if request.what == "status":
        record.bins = {status.name: status.bin for status in good}
    record.poll_s = passed.seconds
    record.bytes_poll_down, record.bytes_poll_up = passed.down, passed.up
    return good
