# SPDX-License-Identifier: MIT
"""`Watchdog`: looks at the safety timers in a thread that waits for nothing else.

Each 10 ms: `look`, and where motors may be turning that must not, first ask the driver's own event
loop to stop them, and 15 ms later stop them from this thread, for the loop is blocked.
"""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)

BEAT_WALL_S = 0.01
PATIENCE_BEATS = 2


class Watchdog:
    """A thread with one job.

    Parameters
    ----------
    look
        Looks at the timers once.
    offends
        Whether motors may be turning that must not.
    ask, force
        Ask the driver's loop to stop; stop from this thread.
    name
        Of the thread.
    """

    def __init__(
        self,
        look: Callable[[], None],
        offends: Callable[[], bool],
        ask: Callable[[], None],
        force: Callable[[], None],
        *,
        name: str,
    ) -> None:
        self._look, self._offends, self._ask, self._force = look, offends, ask, force
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name)
        self.forced = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; idempotent."""
        self._end.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        beats = 0
        while not self._end.wait(BEAT_WALL_S):
            try:
                self._look()
                if not self._offends():
                    beats = 0
                    continue
                beats += 1
                self._ask()
                if beats > PATIENCE_BEATS:
                    self.forced += 1
                    self._force()
            except Exception:  # noqa: BLE001
                # Whatever went wrong, the next beat looks again: this thread must not end.
                _log.exception("watchdog")
