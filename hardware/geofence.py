# SPDX-License-Identifier: MIT
"""`Fence`: where a robot may be: inside a polygon, and not in a keep-out.

Inside is strictly inside, by the crossing number of a ray to the right; a point on an edge is out.

| symbol | name | shape | unit |
|---|---|---|---|
| p | points | (n, 2) | m |
| - | polygon: corners in order, closed by itself | (m, 2) | m |
"""

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Polygon = list[tuple[float, float]]

ON_EDGE_M = 1e-9
BEYOND_M = 0.1
"""How far behind an edge the way back ends."""


class Fence:
    """A polygon to stay in and others to stay out of.

    Parameters
    ----------
    inside
        Corners of the allowed area; None allows the whole plane.
    keep_out
        Corners of each forbidden area.

    Raises
    ------
    InputError
        A polygon has fewer than three corners, or a corner that is no number.
    """

    def __init__(
        self, inside: Polygon | None = None, keep_out: list[Polygon] | None = None
    ) -> None:
        self._inside = None if inside is None else _corners("geofence", inside)
        self._keep_out = [_corners("keep_out", area) for area in keep_out or []]

    def allows(self, points: FloatArray) -> BoolArray:
        """Whether each point (n, 2) may be stood on; a point that is no number may not."""
        allowed: BoolArray = np.all(np.isfinite(points), axis=1)
        if self._inside is not None:
            interior, edge = _where(self._inside, points)
            allowed &= interior & ~edge
        for area in self._keep_out:
            interior, edge = _where(area, points)
            allowed &= ~(interior | edge)
        return allowed

    def way_back(self, point: tuple[float, float]) -> tuple[float, float]:
        """Vector from a point outside to the nearest place a little beyond the edge it crossed.

        (0, 0) where no edge is crossed. Following it again and again leads inside: the nearest edge
        point is on the border of what is allowed.
        """
        at = np.array([point])
        areas = [(area, False) for area in self._keep_out]
        if self._inside is not None:
            areas.append((self._inside, True))
        for corners, inside in areas:
            interior, edge = _where(corners, at)
            wrong = (not interior[0] or edge[0]) if inside else (interior[0] or edge[0])
            if wrong:
                offset, share, along = _from_edges(corners, at)
                gaps = offset - share[:, :, None] * along
                way = -gaps[0, int(np.linalg.norm(gaps[0], axis=1).argmin())]
                length = float(np.linalg.norm(way))
                if length <= ON_EDGE_M:
                    way, length = corners.mean(axis=0) - at[0], 1.0
                    way = way if inside else -way
                stretched = way * (1.0 + BEYOND_M / length)
                return float(stretched[0]), float(stretched[1])
        return 0.0, 0.0


def _corners(name: str, polygon: Polygon) -> FloatArray:
    corners = np.asarray(polygon, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
        raise InputError(f"{name} needs at least 3 corners [x, y], not {len(polygon)}")
    if not np.all(np.isfinite(corners)):
        raise InputError(f"{name} has a corner that is not finite")
    return corners


def _where(corners: FloatArray, points: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Whether each point is in the interior by crossings, and whether it is on an edge."""
    start, end = corners, np.roll(corners, -1, axis=0)
    x, y = points[:, :1], points[:, 1:]
    straddles = (start[:, 1] > y) != (end[:, 1] > y)
    rise = np.where(start[:, 1] == end[:, 1], 1.0, end[:, 1] - start[:, 1])
    crossing_x = start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    interior = (straddles & (x < crossing_x)).sum(axis=1) % 2 == 1
    offset, share, along = _from_edges(corners, points)
    gap = np.linalg.norm(offset - share[:, :, None] * along, axis=2)
    return interior, gap.min(axis=1) <= ON_EDGE_M


def _from_edges(
    corners: FloatArray, points: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Offset of each point from each edge's start, share along the edge of the nearest, edges."""
    along = np.roll(corners, -1, axis=0) - corners
    length2 = np.maximum((along**2).sum(axis=1), ON_EDGE_M**2)
    offset = points[:, None, :] - corners
    share = np.clip((offset * along).sum(axis=2) / length2, 0.0, 1.0)
    return offset, share, along
