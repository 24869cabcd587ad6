# SPDX-License-Identifier: MIT
"""Sheets of tags for printing: PDF pages with every tag at its true size."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.hardware.localise.tags import CELLS, FAMILY_SIZE, FLOOR_IDS, cells

FloatArray = npt.NDArray[np.float64]

A4_M = (0.210, 0.297)


def write_sheets(
    path: Path, numbers: Sequence[int], *, side_m: float = 0.12, names: dict[int, str] | None = None
) -> int:
    """Write a PDF with the tags at their true size on A4 pages; return the number of pages.

    Parameters
    ----------
    path
        The PDF.
    numbers
        Tag ids, robots' or floor's.
    side_m
        Side of the black square, m.
    names
        What to write beside a tag, for instance the robot's name.

    Raises
    ------
    InputError
        No tags, an id outside of the family, or a side that does not fit the page.
    """
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    if not numbers:
        raise InputError("no tags to print")
    bad = [number for number in numbers if not 0 <= number < FAMILY_SIZE]
    if bad:
        raise InputError(f"tag {bad[0]} must lie in 0..{FAMILY_SIZE - 1}")
    per_page = tags_per_page(side_m)
    with PdfPages(path) as book:
        for page in _pages(numbers, per_page):
            figure = Figure(figsize=(A4_M[0] / 0.0254, A4_M[1] / 0.0254))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set_xlim(0, A4_M[0])
            axes.set_ylim(0, A4_M[1])
            axes.axis("off")
            for place, number in enumerate(page):
                x, y = place_on_page(place, side_m)
                _draw_tag(axes, number, x, y, side_m)
                label = (names or {}).get(number, "floor" if number in FLOOR_IDS else "")
                axes.text(
                    x, y - side_m / CELLS - 0.002, f"36h11 id {number}  {label}  "
                    f"{1000 * side_m:g} mm, this edge to the back", fontsize=6, va="top",
                )  # fmt: skip
            book.savefig(figure)
    return -(-len(numbers) // per_page)


def tags_per_page(side_m: float) -> int:
    """Return how many tags go on an A4 page; raises `InputError` when none does."""
    columns, rows = _grid(side_m) if side_m > 0.01 else (0, 0)
    if columns < 1 or rows < 1:
        raise InputError(f"tag side {side_m:g} m must be above 0.01 m and fit on A4 (0.15 m)")
    return columns * rows


def place_on_page(place: int, side_m: float) -> tuple[float, float]:
    """Lower left corner of the n-th tag of a page, m from the page's lower left corner."""
    columns, _ = _grid(side_m)
    column, row = place % columns, place // columns
    pitch = _pitch(side_m)
    x = 0.005 + column * pitch + side_m / CELLS
    return x, A4_M[1] - 0.005 - (row + 1) * pitch + 0.008 + side_m / CELLS


def sheet_corners(numbers: Sequence[int], side_m: float) -> dict[int, FloatArray]:
    """Corners of the tags of a one-page sheet, each (4, 2) m, in the detector's order.

    That order is top left, top right, bottom right, bottom left.

    Raises
    ------
    InputError
        The tags do not fit on one page.
    """
    if len(numbers) > (most := tags_per_page(side_m)):
        raise InputError(f"{len(numbers)} tags of side {side_m:g} m: a page holds {most}")
    corners = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]) * side_m
    return {
        number: corners + np.array(place_on_page(place, side_m))
        for place, number in enumerate(numbers)
    }


def _pitch(side_m: float) -> float:
    return side_m * (CELLS + 2) / CELLS + 0.008  # with its white margin and a label


def _grid(side_m: float) -> tuple[int, int]:
    columns, rows = (int((size - 0.01) // _pitch(side_m)) for size in A4_M)
    return columns, rows


def _pages(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _draw_tag(axes: object, number: int, x: float, y: float, side: float) -> None:
    """Draw a black square with white cells; (x, y) is its lower left corner, m."""
    from matplotlib.patches import Rectangle

    cell = side / CELLS
    add = axes.add_patch  # type: ignore[attr-defined]  # a matplotlib Axes
    add(Rectangle((x, y), side, side, color="black", linewidth=0))
    for row, line in enumerate(cells(number)):
        for column, white in enumerate(line):
            if white:
                corner = (x + column * cell, y + (CELLS - 1 - row) * cell)
                add(Rectangle(corner, cell, cell, color="white", linewidth=0))
