# SPDX-License-Identifier: MIT
"""One line per class of refusal and minute, however many messages are refused.

The first refusal of a class gives a line at once; those of the minute after it are counted by host
and come with the next line. So an attacker can neither fill the disk nor push others out of sight.

Pure: `note` and `overdue` return lines, the caller logs them.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kofn.controller.link.clock import Clock

WINDOW_S = 60.0
MAX_CLASSES = 64
MAX_HOSTS = 256
NAMED_HOSTS = 5
MAX_DETAIL = 200


def one_line(text: str) -> str:
    """Text from the wire for a log: no line feeds or control characters, at most 200 characters."""
    shown = text[: MAX_DETAIL + 1]
    cut = shown[:MAX_DETAIL] + ".." if len(shown) > MAX_DETAIL else shown
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def some(names: Iterable[str]) -> str:
    """Names for a sentence: the first five of them, and how many more there are."""
    every = list(names)
    named = ", ".join(every[:NAMED_HOSTS])
    return f"{named} and {len(every) - NAMED_HOSTS} more" if len(every) > NAMED_HOSTS else named


@dataclass(slots=True)
class _Window:
    """The minute after a line of one class."""

    until_s: float
    silent: Counter[str] = field(default_factory=Counter)
    others: int = 0

    def count(self, host: str) -> None:
        if host in self.silent or len(self.silent) < MAX_HOSTS:
            self.silent[host] += 1
        else:
            self.others += 1

    def tail(self) -> str:
        """What was not logged, for the end of the next line."""
        total = self.silent.total() + self.others
        if not total:
            return ""
        named = ",".join(f"{host}:{n}" for host, n in self.silent.most_common(NAMED_HOSTS))
        hosts = len(self.silent) + (1 if self.others else 0)
        return f" unlogged={total} hosts={hosts} most={named}"


class AuditLog:
    """Decides which refusals become a line.

    Parameters
    ----------
    clock
        Fleet seconds.
    window_s
        At most one line per class and so many fleet seconds.
    """

    def __init__(self, clock: Clock, window_s: float = WINDOW_S) -> None:
        self._clock = clock
        self._window_s = window_s
        self._windows: dict[str, _Window] = {}

    def note(self, reason: str, host: str, detail: str = "") -> str | None:
        """Return the line for a refusal, or None when it is only counted.

        Parameters
        ----------
        reason
            Class of the refusal, one word of ours ("malformed", "foreign", ..).
        host
            Name in the topic, as it came.
        detail
            What exactly; may hold text from the wire.
        """
        now_s = self._clock.now()
        host = one_line(host)
        if reason not in self._windows and len(self._windows) >= MAX_CLASSES:
            reason = "other"
        window = self._windows.get(reason)
        if window is not None and now_s < window.until_s:
            window.count(host)
            return None
        tail = window.tail() if window is not None else ""
        self._windows[reason] = _Window(now_s + self._window_s)
        said = f' detail="{one_line(detail)}"' if detail else ""
        return f"refused class={reason} host={host}{said}{tail}"

    def overdue(self) -> list[str]:
        """Return lines for what was counted in minutes that are over; call it now and then."""
        now_s = self._clock.now()
        lines = []
        for reason, window in list(self._windows.items()):
            if now_s < window.until_s:
                continue
            if tail := window.tail():
                lines.append(f"refused class={reason}{tail}")
            del self._windows[reason]
        return lines
