# SPDX-License-Identifier: MIT
"""A polite stop: SIGINT and SIGTERM set a flag that loops ask for between two messages."""

import signal
from types import FrameType


class StopFlag:
    """True once SIGINT or SIGTERM has arrived; calling it asks.

    The signal's name is kept for the message ("Ctrl-C" or "SIGTERM"); a second signal changes
    nothing, so that closing is not interrupted.
    """

    def __init__(self) -> None:
        self.signal: str = ""

    def install(self) -> "StopFlag":
        """Take over both signals from now on."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or ("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    def __call__(self) -> bool:
        """Whether to stop."""
        return bool(self.signal)
