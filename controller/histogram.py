# SPDX-License-Identifier: MIT
"""Percentiles of any number of durations in little memory: a histogram with logarithmic bins.

Bin i holds the values in (b^(i-1), b^i]; whatever is in it is taken to be 2 b^i / (b + 1), which is
wrong by at most

    (b - 1) / (b + 1) = 0.99 %    for b = 1.02.

Values below `LEAST` count as `LEAST`, above `MOST` as `MOST`; that leaves at most 1164 bins.
"""

import math
from collections import Counter

BASE = 1.02
LEAST, MOST = 1e-3, 1e7
RELATIVE_ERROR = (BASE - 1) / (BASE + 1)


class LogHistogram:
    """Counts of values on a logarithmic scale."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count one value, in whatever unit; below zero counts as zero."""
        self._bins[math.ceil(math.log(min(max(value, LEAST), MOST), BASE))] += 1

    def percentile(self, percent: float) -> float:
        """Return the least value that `percent` of all do not exceed; 0 while there is none."""
        rank = percent / 100 * self._bins.total()
        seen = 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= rank:
                return 2 * BASE**index / (BASE + 1)
        return 0.0

    def __len__(self) -> int:
        return len(self._bins)
