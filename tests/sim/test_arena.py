# SPDX-License-Identifier: MIT
"""Arenas of both shapes: zones, neighbours, settings that cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import layout_of, layout_of_header
from kofn.hardware.grid import MOVES, GridLayout
from kofn.hardware.ring import RingLayout
from kofn.sim.placement import place_robots


@given(columns=st.integers(1, 7), rows=st.integers(1, 7))
def test_neighbours_of_a_grid_are_one_cell_away_or_the_cell_itself(columns: int, rows: int) -> None:
    if columns * rows < 2:
        return
    layout = GridLayout(columns=columns, rows=rows)
    centres, table = layout.centres(), layout.neighbours()
    poses = np.column_stack([centres, np.zeros(layout.zones)])
    assert layout.zone_of(poses).tolist() == list(range(layout.zones))
    for a, move in enumerate(MOVES):
        shift = centres[table[:, a]] - centres
        moved = table[:, a] != np.arange(layout.zones)
        assert np.allclose(shift[moved], np.array(move) * layout.cell_m)
    # Whoever goes east and then west is back, unless the edge held it.
    away = table[:, 1]
    assert np.array_equal(table[away, 2][away != np.arange(layout.zones)],
                          np.arange(layout.zones)[away != np.arange(layout.zones)])  # fmt: skip


def test_robots_are_placed_apart_inside_and_out_of_obstacles() -> None:
    for layout in (
        RingLayout(obstacles=((1.5, 0.0, 0.3),)),
        GridLayout(obstacles=((0.0, 0.0, 0.4),)),
    ):
        n = min(30, layout.capacity)
        poses = place_robots(layout, n, np.random.default_rng(1))
        assert layout.inside(poses).all()
        x, y = poses[:, 0], poses[:, 1]
        apart = np.hypot(x[:, None] - x, y[:, None] - y) + 9.0 * np.eye(n)
        assert apart.min() >= 2.1 * layout.robot_radius_m
        ox, oy, radius = layout.obstacles[0]
        assert np.hypot(x - ox, y - oy).min() >= radius + layout.robot_radius_m


def test_header_of_a_log_gives_the_arena_back() -> None:
    for layout in (
        RingLayout(zones=7, obstacles=((1.5, 0.2, 0.1),)),
        GridLayout(columns=4, rows=1, walls=False),
    ):
        assert layout_of_header(layout.as_arena()) == layout
    old = {"zones": 5.0, "inner_m": 1.0, "outer_m": 2.0, "robot_radius_m": 0.1}
    assert layout_of_header(old) == RingLayout(lanes=False)
    assert layout_of_header({}) is None


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"zones": 1}, "a ring of 1 zones is too small, the least is 3"),
        ({"shape": "grid", "columns": 1, "rows": 1}, "has 1 zones, it must have 2 to 400"),
        ({"shape": "torus"}, "arena shape 'torus' is not one of ring, grid"),
        ({"shape": "grid", "zones": 4}, "has no setting 'zones'; known are cell_m, columns"),
        ({"robot_radius_m": 0.6}, "robots of radius 0.6 m do not fit"),
        ({"shape": "grid", "cell_m": 0.3}, "a cell is 0.3 m wide, two need 0.6 m"),
        ({"obstacles": [[0.0, 0.0, -1.0]]}, "a radius above 0"),
        ({"zones": 5.5}, "arena: Expected `int`"),
    ],
)
def test_impossible_arena_is_refused_in_one_sentence(
    table: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        layout_of(table)
