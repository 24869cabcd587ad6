# SPDX-License-Identifier: MIT
"""Sending messages and waiting for replies, with a deadline and a number that is enough.

Flower's `send_and_receive` waits for all or for the timeout and does not tell when a reply came.
A reply that comes later is never collected.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import Message
    from flwr.serverapp import Grid

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class Clock(Protocol):
    """Seconds that only go forward, and waiting."""

    def monotonic(self) -> float:
        """Return the time, s."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class RealClock:
    """The machine's."""

    def monotonic(self) -> float:
        """Return the time, s."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Reply(NamedTuple):
    """A reply, the node it is from, and how long after sending the server had it, s."""

    message: Message
    node_id: int
    seconds: float


def collect(
    grid: Grid,
    messages: Iterable[Message],
    *,
    timeout_s: float,
    deadline_s: float | None = None,
    keep: int | None = None,
    clock: Clock,
) -> list[Reply]:
    """Send messages and return the replies of one pass.

    Parameters
    ----------
    timeout_s : float
        The pass ends after so long in any case, s.
    deadline_s : float, optional
        It ends after so long if a reply without an error has come by then, s, and otherwise with
        the first one: to begin anew would be no faster than to wait on.
    keep : int, optional
        It ends once so many replies without an error have come.
    clock : Clock
    """
    sent = clock.monotonic()
    messages = list(messages)
    # The order is kept; an id that is missing is a message that could not be sent. The sender of a
    # reply is not relied upon: Flower makes up error replies for nodes that have gone.
    ids = list(grid.push_messages(messages)) if messages else []
    to = {key: m.metadata.dst_node_id for key, m in zip(ids, messages, strict=False) if key}
    waiting = set(to)
    replies: list[Reply] = []
    good = 0
    pause = FIRST_PAUSE_S
    end = sent + timeout_s
    early = end if deadline_s is None else min(end, sent + deadline_s)
    while waiting:
        now = clock.monotonic()
        for message in grid.pull_messages(sorted(waiting)):
            key = message.metadata.reply_to_message_id
            if key not in waiting:
                continue
            waiting.discard(key)
            good += not message.has_error()
            replies.append(Reply(message, to[key], now - sent))
        left = (early if good or now < early else end) - now
        if not waiting or left <= 0 or (keep is not None and good >= keep):
            break
        clock.sleep(min(pause, left))
        pause = min(1.5 * pause, LONGEST_PAUSE_S)
    return replies
