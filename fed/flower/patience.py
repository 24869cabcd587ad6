# SPDX-License-Identifier: MIT
"""When a round ends where time is measured: its deadline, and what messages take.

A deadline speaks of the time that clients need themselves, with which they compare their own
measured time of a training. The server's watch also sees the wait until a node asks for work, the
start of a process and the network, for small models a thousand times as long. Polls measure that
part, as their replies cost no work. It is granted on top of each deadline: mean + 4 deviations, as
TCP waits for an answer (Jacobson, SIGCOMM 1988; RFC 6298, section 2)::

    first sample   mean = s,  spread = s / 2
    then           spread += (|mean - s| - spread) / 4,  mean += (s - mean) / 8

A round without a model by its deadline goes on until the first comes, up to `WAIT_ON` times as
long: to begin anew would be no faster. What that model took is a sample. If none comes, the next
deadline is `WAIT_ON` times as long, and so on until one does (RFC 6298, section 5.5).
"""

from __future__ import annotations

import math

GAIN, SPREAD_GAIN, DEVIATIONS = 1 / 8, 1 / 4, 4.0

#: How often its deadline a round without a model lasts at most, and how many such rounds put the
#: next deadline off.
WAIT_ON, MOST_IN_VAIN = 4.0, 6


class Patience:
    """A running estimate of how long messages take, and the deadlines that follow from it."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._spread_s = 0.0
        self._in_vain = 0

    def took(self, seconds: float) -> None:
        """Take one sample, s; what is no length of time is no sample."""
        if not (math.isfinite(seconds) and seconds >= 0):
            return
        if self._mean_s is None:
            self._mean_s, self._spread_s = seconds, seconds / 2
            return
        self._spread_s += SPREAD_GAIN * (abs(self._mean_s - seconds) - self._spread_s)
        self._mean_s += GAIN * (seconds - self._mean_s)

    def ended(self, own_s: float, first_s: float | None) -> None:
        """Learn from a round whose clients had `own_s`; None where no model came, s."""
        if first_s is None:
            self._in_vain = min(self._in_vain + 1, MOST_IN_VAIN)
            return
        self._in_vain = 0
        if first_s - own_s > self.grace_s:
            self.took(first_s - own_s)

    @property
    def grace_s(self) -> float:
        """What is granted on top of a deadline, s; 0 before the first sample."""
        return 0.0 if self._mean_s is None else self._mean_s + DEVIATIONS * self._spread_s

    def deadline_s(self, own_s: float) -> float:
        """Return when a round ends whose clients have `own_s`, s."""
        return (own_s + self.grace_s) * WAIT_ON**self._in_vain
