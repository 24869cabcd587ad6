# SPDX-License-Identifier: MIT
"""`Reporter`: diagnostics of a host at a bounded rate, at most one event a second.

An event that must wait is kept by code with the number of its repeats and its newest text, so a
flood of bad messages costs one slot, not a queue.
"""

import logging
from collections.abc import Callable

from kofn.controller.link.messages import Event

_log = logging.getLogger(__name__)

SPACING_S = 1.0
"""Least time between two events, fleet seconds."""


class Reporter:
    """Publishes events of one host.

    Parameters
    ----------
    boot
        Identity of this boot.
    publish
        Sends one event.
    """

    def __init__(self, boot: str, publish: Callable[[Event], None]) -> None:
        self._boot, self._publish = boot, publish
        self._waiting: dict[str, tuple[int, str]] = {}
        self._quiet_until_s = float("-inf")

    def report(self, code: str, text: str, now_s: float) -> None:
        """Publish now, or count until the next one may go out."""
        n, _ = self._waiting.get(code, (0, ""))
        if n == 0:
            _log.warning("event=%s text=%s", code, text)
        self._waiting[code] = n + 1, text[:200]
        self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """Publish the event that waited longest, if one may go out now."""
        if not self._waiting or now_s < self._quiet_until_s:
            return
        code = next(iter(self._waiting))
        n, text = self._waiting.pop(code)
        self._quiet_until_s = now_s + SPACING_S
        self._publish(Event(b=self._boot, code=code, n=n, text=text))

    def due_s(self) -> float | None:
        """Fleet time of the next `flush` that publishes; None when nothing waits."""
        return self._quiet_until_s if self._waiting else None
