# SPDX-License-Identifier: MIT
"""A polite stop: SIGINT and SIGTERM set a flag that loops ask for between two messages."""

import signal
from types import FrameType


class StopFlag:
    """True once SIGINT or SIGTERM has arrived; calling it asks.

    The first question takes both signals over. Until then they raise as everywhere else, so that a
    wait for the broker, during which nobody asks, is broken off at once. The signal's name is kept
    for the message ("Ctrl-C" or "SIGTERM"); a second signal changes nothing, so that closing is not
    interrupted.
    """

    def __init__(self) -> None:
        self.signal: str = ""
        self._installed = False

    def __call__(self) -> bool:
        """Whether to stop; asked by the main thread."""
        if not self._installed:
            self._installed = True
            signal.signal(signal.SIGINT, self._on_signal)
            signal.signal(signal.SIGTERM, self._on_signal)
        return bool(self.signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or ("Ctrl-C" if number == signal.SIGINT else "SIGTERM")
