# SPDX-License-Identifier: MIT
"""Zones, walls and validation of the ring layout."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.hardware.ring import RingLayout, in_ring, sector_centres, zone_of


def _at(radius: float, angle: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[radius * math.cos(angle), radius * math.sin(angle), 0.0]])


@given(zones=st.integers(3, 12), radius=st.floats(1.01, 1.99))
def test_centre_of_each_sector_is_in_its_zone(zones: int, radius: float) -> None:
    layout = RingLayout(zones=zones)
    poses = np.concatenate([_at(radius, angle) for angle in sector_centres(layout)])
    assert zone_of(layout, poses).tolist() == list(range(zones))


@given(angle=st.floats(-50.0, 50.0), zones=st.integers(3, 12))
def test_every_pose_has_a_zone_of_the_ring(angle: float, zones: int) -> None:
    assert 0 <= zone_of(RingLayout(zones=zones), _at(1.5, angle))[0] < zones


def test_zones_count_counter_clockwise_from_the_x_axis() -> None:
    layout = RingLayout()
    assert zone_of(layout, _at(1.5, 0.01))[0] == 0
    assert zone_of(layout, _at(1.5, -0.01))[0] == 4
    assert zone_of(layout, np.array([[1.5, -1e-300, 0.0]]))[0] == 4
    assert zone_of(layout, _at(1.5, layout.sector_rad + 0.01))[0] == 1


def test_pose_that_is_not_finite_has_no_zone_and_is_not_in_the_ring() -> None:
    poses = np.array([[math.nan, 1.0, 0.0], [math.inf, 0.0, 0.0]])
    assert zone_of(RingLayout(), poses).tolist() == [-1, -1]
    assert not in_ring(RingLayout(), poses).any()


def test_only_poses_between_the_walls_are_in_the_ring() -> None:
    poses = np.concatenate([_at(r, 1.0) for r in (0.99, 1.01, 1.99, 2.01)])
    assert in_ring(RingLayout(), poses).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"zones": 2}, "2 zones"),
        ({"inner_m": 2.5}, "outer_m = 2.0 m must be above inner_m = 2.5 m"),
        ({"outer_m": math.nan}, "outer_m = nan"),
        ({"robot_radius_m": 0.5}, "do not fit"),
        ({"lane_plus_m": 1.95}, "lane_plus_m = 1.95 m must lie in 1.1..1.9 m"),
        ({"lane_minus_m": 1.6}, "ordered"),
    ],
)
def test_impossible_ring_is_refused_in_one_sentence(
    change: dict[str, float], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        RingLayout(**change)  # type: ignore[arg-type]


def test_lanes_are_not_looked_at_when_the_rule_is_off() -> None:
    assert RingLayout(outer_m=1.5, lanes=False).middle_m == 1.25


def test_capacity_grows_with_the_ring() -> None:
    rings = [RingLayout(outer_m=outer, lanes=False) for outer in (1.4, 2.0, 3.0)]
    assert all(a.capacity < b.capacity for a, b in pairwise(rings))
    assert rings[1].capacity > 50
