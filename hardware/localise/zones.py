# SPDX-License-Identifier: MIT
"""Zone with hysteresis: a robot changes zone when it is clearly beyond the border, twice in a row.

Near a border noise of millimetres would make a standing robot jump between two zones, and each jump
would look like a transition of the model.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MARGIN_M = 0.05
POSES = 2


class ZoneHysteresis:
    """Zones of n robots between poses.

    Parameters
    ----------
    zone_of
        Zones of poses of shape (n, 3), -1 where unknown.
    n
        Robots.
    margin_m
        How far beyond the border a robot has to be; looked at in eight directions.
    """

    def __init__(
        self, zone_of: Callable[[FloatArray], IntArray], n: int, margin_m: float = MARGIN_M
    ) -> None:
        self._zone_of, self._margin = zone_of, margin_m
        self.zones: IntArray = np.full(n, -1, dtype=np.int64)
        self._times = np.zeros(n, dtype=np.int64)

    def see(self, poses: FloatArray) -> IntArray:
        """Take poses, shape (n, 3), not finite where unknown; return the zones, shape (n,).

        A robot without a pose has no zone, and the next pose gives it one at once.
        """
        now = self._zone_of(poses)
        beyond = (now >= 0) & (now != self.zones) & self._clear(poses, now)
        self._times = np.where(beyond, self._times + 1, 0)
        change = (self.zones < 0) | (now < 0) | (self._times >= POSES)
        self._times[change] = 0
        self.zones = np.where(change, now, self.zones)
        return self.zones

    def _clear(self, poses: FloatArray, now: IntArray) -> npt.NDArray[np.bool_]:
        """Whether the old zone is further away than the margin, in every direction."""
        clear = np.ones(len(poses), dtype=bool)
        for angle in np.arange(8) * (np.pi / 4):
            moved = poses.copy()
            moved[:, 0] += self._margin * np.cos(angle)
            moved[:, 1] += self._margin * np.sin(angle)
            clear &= self._zone_of(moved) != self.zones
        return clear & (now >= 0)
