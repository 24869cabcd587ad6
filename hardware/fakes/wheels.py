# SPDX-License-Identifier: MIT
"""`Wheels`: two wheels that turn as told, at once and without slip."""

import threading
import time


class Wheels:
    """Speeds of two rims (m/s) and the ways they have made (m); every change is stamped.

    Attributes
    ----------
    changes
        (monotonic time in s, left, right) of each change of speed.
    """

    def __init__(self) -> None:
        self.left = self.right = 0.0
        self.left_m = self.right_m = 0.0
        self._since_s = time.monotonic()
        self.changes: list[tuple[float, float, float]] = []
        self.lock = threading.Lock()

    def set(self, left: float, right: float) -> None:
        """Turn with these speeds from now on."""
        with self.lock:
            self._roll()
            if (left, right) != (self.left, self.right):
                self.changes.append((self._since_s, left, right))
            self.left, self.right = left, right

    def ways(self) -> tuple[float, float]:
        """Return the ways of both rims until now, m."""
        with self.lock:
            self._roll()
            return self.left_m, self.right_m

    def _roll(self) -> None:
        now_s = time.monotonic()
        dt_s, self._since_s = now_s - self._since_s, now_s
        self.left_m += self.left * dt_s
        self.right_m += self.right * dt_s

    @property
    def still(self) -> bool:
        """Whether neither turns."""
        return self.left == 0 and self.right == 0
