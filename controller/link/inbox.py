# SPDX-License-Identifier: MIT
"""The bounded queue between the thread that receives and the loop that works.

At most `limit` unread messages: the oldest makes room and is counted as dropped. Of a topic in
`newest_only` one unread message is kept: a newer one takes its place at the end of the queue and
the old one is counted as superseded (steps are complete, so the next repairs a lost one).
"""

from collections import OrderedDict
from itertools import count
from threading import Condition

from kofn.controller.link.transport import Inbound


class Inbox:
    """A thread-safe bounded queue of messages.

    Parameters
    ----------
    limit
        Unread messages kept, at least 1.
    newest_only
        Topics of which only the newest unread message is kept.
    """

    def __init__(self, limit: int, newest_only: frozenset[str] = frozenset()) -> None:
        if limit < 1:
            raise ValueError(f"queue limit {limit} must be at least 1")
        self._limit = limit
        self._newest_only = newest_only
        self._unread: OrderedDict[str | int, Inbound] = OrderedDict()
        self._serial = count()
        self._changed = Condition()
        self.received = 0
        self.dropped = 0
        self.superseded = 0

    def put(self, message: Inbound) -> None:
        """Append a message; never blocks."""
        with self._changed:
            self.received += 1
            newest_only = message.topic in self._newest_only
            key: str | int = message.topic if newest_only else next(self._serial)
            if self._unread.pop(key, None) is not None:
                self.superseded += 1
            elif len(self._unread) >= self._limit:
                self._unread.popitem(last=False)
                self.dropped += 1
            self._unread[key] = message
            self._changed.notify()

    def take(self, timeout_s: float = 0.0) -> Inbound | None:
        """Return the oldest unread message, waiting at most `timeout_s` wall seconds for one."""
        with self._changed:
            if not self._unread and timeout_s > 0:
                self._changed.wait_for(lambda: bool(self._unread), timeout_s)
            return self._unread.popitem(last=False)[1] if self._unread else None

    def take_all(self) -> list[Inbound]:
        """Return all unread messages, oldest first."""
        with self._changed:
            unread = list(self._unread.values())
            self._unread.clear()
            return unread

    def __len__(self) -> int:
        return len(self._unread)
