# SPDX-License-Identifier: MIT
"""Does the chance to answer depend on where a robot is? Answer rates by last-known zone.

A robot that is silent does not say where it is, but its last answer says where it was. Of the
robots of the first wave whose zone was known before they were asked, this counts those asked and
those heard in time, by that zone; "not available" is an answer of its own kind and not counted at
all. A chi-square test asks whether the rates differ by more than chance.

One test at a time would cry wolf sooner or later, so tests are spaced: each time the number of
robots counted has doubled, from 200 to 25 600, after which counting begins anew (a loss that sets
in late is then seen within one such window); an alarm is repeated once per window at most. At the
default level of 1e-4 a loss that is random raises it in less than one window of a thousand. Robots
behind one host that fall silent together are not independent; where a host's robots are also in one
zone, the alarm is still right that the poll misses a zone.
"""

from kofn.controller.chi_square import independence_p_value

FIRST_TEST = 200
WINDOW = 25_600
LEVEL = 1e-4


class LossWatch:
    """Counts by zone, and the alarm.

    Parameters
    ----------
    n_zones
        Zones are 0..n_zones-1.
    level
        The alarm is raised by a p-value below this.
    """

    def __init__(self, n_zones: int, level: float = LEVEL) -> None:
        self.asked = [0] * n_zones
        """Robots asked whose last-known zone was this one, shape (n_zones,), whole run."""
        self.heard = [0] * n_zones
        """Those of them that answered in time."""
        self.alarm = False
        """Whether loss was found to depend on the zone, at any time of the run."""
        self._level = level
        self._window_asked = [0] * n_zones
        self._window_heard = [0] * n_zones
        self._total = 0
        self._next_test = FIRST_TEST
        self._said = False

    def add(self, zone: int, *, heard: bool) -> None:
        """Count one robot that was last known in `zone` and has been asked."""
        self.asked[zone] += 1
        self.heard[zone] += heard
        self._window_asked[zone] += 1
        self._window_heard[zone] += heard
        self._total += 1

    def test(self) -> float | None:
        """Test if it is time to; return the p-value when it raises the alarm, else None."""
        if self._total < self._next_test:
            return None
        p_value = independence_p_value(self._window_asked, self._window_heard)
        found = p_value is not None and p_value < self._level
        while self._next_test <= self._total:
            self._next_test *= 2
        if found and not self._said:
            self.alarm = self._said = True
        else:
            p_value = None
        if self._total >= WINDOW:
            self._window_asked = [0] * len(self.asked)
            self._window_heard = [0] * len(self.asked)
            self._total, self._next_test, self._said = 0, FIRST_TEST, False
        return p_value

    @property
    def p_value(self) -> float | None:
        """P-value of equal rates over the whole run; None while there is too little to test."""
        return independence_p_value(self.asked, self.heard)

    @property
    def rates(self) -> list[float | None]:
        """Share heard per last-known zone; None where nobody was asked."""
        pairs = zip(self.asked, self.heard, strict=True)
        return [heard / asked if asked else None for asked, heard in pairs]
