# SPDX-License-Identifier: MIT
"""One picture of a swarm seen from above: arenas side by side, header, legend, share over time.

Pillow only: no display and no GPU. Everything that does not move is drawn once per target and
kept; robots are sprites drawn four times larger and reduced, so edges are smooth. Picture axes: x
to the right, world y up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout, sector_centres
from kofn.sim.film import ArenaView, Moment, Scene

WIDTH, HEIGHT = 1280, 720
HEADER = 96
FOOTER = 172
LEGEND = 290
SMOOTH = 2
"""Fixed parts are drawn so many times larger and reduced."""
MIN_LETTERED_CORE = 45
"""Radius of an arena's core in pixels below which it bears no words."""

INK, FAINT, PAPER = "#1a1a1a", "#5f6368", "#ffffff"
FLOOR, WALL, CORE = "#f1f3f4", "#9aa0a6", "#e3e5e8"
TARGET_FILL, TARGET_EDGE = "#c3ead6", "#00845c"
POLLED = "#c2006b"
STAY, PLUS, MINUS, DOWN = "#7d8288", "#e08a00", "#0067b1", "#ffffff"
NORTH, SOUTH = "#7b3fa0", "#8a5a2b"
ACTION_COLOURS = {0: STAY, 1: PLUS, 2: MINUS, 3: NORTH, 4: SOUTH, -1: STAY}
_HEADINGS = 72
GRID_WORDS = 56
"""Pixels kept free for the line of words below a grid, and as many above."""


@dataclass(frozen=True, slots=True)
class Cell:
    """Place of an arena in the picture: centre in pixels, and pixels per metre."""

    x: float
    y: float
    scale: float

    def pixel(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Pixel of a point of the arena."""
        return self.x + self.scale * x_m, self.y - self.scale * y_m


def cells(layouts: Sequence[Layout]) -> list[Cell]:
    """Places of the arenas: the grid that makes them largest."""
    width, height, count = WIDTH - LEGEND, HEIGHT - HEADER - FOOTER, len(layouts)
    columns = max(range(1, count + 1), key=lambda c: min(width / c, height / math.ceil(count / c)))
    across, down = width / columns, height / math.ceil(count / columns)
    return [
        Cell(
            x=(i % columns + 0.5) * across,
            y=HEADER + (i // columns + 0.5) * down,
            scale=min(0.5 * across - 6, 0.5 * down - 6) / layout.outer_m
            if isinstance(layout, RingLayout)
            else _grid_scale(layout, across - 12, down - 12),
        )
        for i, layout in enumerate(layouts)
    ]


def draw_frame(scene: Scene, moment: Moment) -> Image.Image:
    """Draw one moment; an RGB image of 1280 x 720 pixels."""
    places = cells([view.layout for view in moment.arenas])
    key = (moment.target, tuple((view.host, view.layout, view.silent) for view in moment.arenas))
    still = scene.stills.get(key)
    if still is None:
        still = scene.stills[key] = _still(scene, moment, places)
    image = still.copy()
    for view, cell in zip(moment.arenas, places, strict=True):
        _draw_robots(image, view, cell)
    draw = ImageDraw.Draw(image)
    _draw_counts(draw, moment, places)
    _draw_header(draw, moment)
    _draw_progress(draw, scene, moment)
    return image


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _still(scene: Scene, moment: Moment, places: Sequence[Cell]) -> Image.Image:
    big = Image.new("RGB", (WIDTH * SMOOTH, HEIGHT * SMOOTH), PAPER)
    pen = ImageDraw.Draw(big)
    for view, cell in zip(moment.arenas, places, strict=True):
        _draw_arena(pen, view, cell, moment.target)
    image = big.reduce(SMOOTH)
    draw = ImageDraw.Draw(image)
    for view, cell in zip(moment.arenas, places, strict=True):
        _label_zones(draw, view, cell, moment.target)
    draw.text((24, 12), scene.title, INK, _font(30))
    if scene.speed is not None:
        note = f"film runs {scene.speed:.0f}x faster than the robots"
        draw.text((WIDTH - 24, 66), note, FAINT, _font(20), anchor="ra")
    _draw_legend(image, draw, grid=isinstance(moment.arenas[0].layout, GridLayout))
    _draw_axes(draw, scene)
    return image


def _box(cell: Cell, radius_m: float, factor: int) -> list[float]:
    r = cell.scale * radius_m
    return [factor * v for v in (cell.x - r, cell.y - r, cell.x + r, cell.y + r)]


def _grid_scale(layout: GridLayout, width: float, height: float) -> float:
    _, _, width_m, height_m = layout.bounds_m
    # Below the grid there is a line of words.
    return min(width / width_m, (height - GRID_WORDS) / height_m)


def _draw_arena(pen: Any, view: ArenaView, cell: Cell, target: int) -> None:
    if isinstance(view.layout, GridLayout):
        _draw_grid(pen, view.layout, cell, -1 if view.silent else target)
    else:
        _draw_ring(pen, view, view.layout, cell, target)
    for x, y, radius in view.layout.obstacles:
        px, py = (SMOOTH * v for v in cell.pixel(x, y))
        r = SMOOTH * cell.scale * radius
        pen.ellipse([px - r, py - r, px + r, py + r], fill=WALL)


def _draw_grid(pen: Any, layout: GridLayout, cell: Cell, target: int) -> None:
    half = 0.5 * layout.cell_m
    centres = layout.centres().tolist()

    def square(x: float, y: float) -> list[float]:
        left, top = cell.pixel(x - half, y + half)
        right, bottom = cell.pixel(x + half, y - half)
        return [SMOOTH * v for v in (left, top, right, bottom)]

    for x, y in centres:
        pen.rectangle(square(x, y), fill=FLOOR, outline="#c4c7ca", width=2 * SMOOTH)
    _, _, width, height = layout.bounds_m
    left, top = cell.pixel(-0.5 * width, 0.5 * height)
    right, bottom = cell.pixel(0.5 * width, -0.5 * height)
    edge = [SMOOTH * v for v in (left, top, right, bottom)]
    pen.rectangle(edge, outline=WALL, width=3 * SMOOTH)
    if target >= 0:
        pen.rectangle(square(*centres[target]), fill=TARGET_FILL, outline=TARGET_EDGE,
                      width=5 * SMOOTH)  # fmt: skip


def _draw_ring(pen: Any, view: ArenaView, layout: RingLayout, cell: Cell, target: int) -> None:
    pen.ellipse(_box(cell, layout.outer_m, SMOOTH), fill=FLOOR)
    sector = math.degrees(layout.sector_rad)
    if not view.silent:
        # Pillow's angles run clockwise from the x axis.
        pen.pieslice(
            _box(cell, layout.outer_m, SMOOTH),
            -(target + 1) * sector,
            -target * sector,
            fill=TARGET_FILL,
        )
    for j in range(layout.zones):
        angle = j * layout.sector_rad
        edge = (math.cos(angle), math.sin(angle))
        at_target = not view.silent and (j - target) % layout.zones in {0, 1}
        pen.line(
            [
                tuple(SMOOTH * v for v in cell.pixel(r * edge[0], r * edge[1]))
                for r in (layout.inner_m, layout.outer_m)
            ],
            fill=TARGET_EDGE if at_target else "#c4c7ca",
            width=SMOOTH * (4 if at_target else 2),
        )
    pen.ellipse(_box(cell, layout.inner_m, SMOOTH), fill=CORE)
    for radius in (layout.inner_m, layout.outer_m):
        pen.ellipse(_box(cell, radius, SMOOTH), outline=WALL, width=3 * SMOOTH)
        if not view.silent:
            pen.arc(
                _box(cell, radius, SMOOTH),
                -(target + 1) * sector,
                -target * sector,
                fill=TARGET_EDGE,
                width=5 * SMOOTH,
            )


def _lettering(view: ArenaView, cell: Cell) -> float:
    """Size of an arena's words relative to the largest, by its core; 0 when none are readable."""
    if isinstance(view.layout, GridLayout):
        edge = cell.scale * view.layout.cell_m
        return min(1.0, edge / 120) if edge >= MIN_LETTERED_CORE else 0.0
    core = cell.scale * view.layout.inner_m
    return min(1.0, core / 105) if core >= MIN_LETTERED_CORE else 0.0


def _label_zones(draw: Any, view: ArenaView, cell: Cell, target: int) -> None:
    size = _lettering(view, cell)
    if not size:
        return
    for j, (x, y) in enumerate(_label_places(view.layout)):
        place = cell.pixel(x, y)
        here = j == target and not view.silent
        font = _font(round((28 if here else 22) * size))
        draw.text(place, str(j), TARGET_EDGE if here else FAINT, font, anchor="mm")


def _label_places(layout: Layout) -> list[tuple[float, float]]:
    """Where the number of each zone is written, m: at a ring's core, in a cell's corner."""
    if isinstance(layout, GridLayout):
        shift = 0.36 * layout.cell_m
        return [(x - shift, y + shift) for x, y in layout.centres().tolist()]
    radius = 0.82 * layout.inner_m
    angles = sector_centres(layout).tolist()
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _draw_counts(draw: Any, moment: Moment, places: Sequence[Cell]) -> None:
    for view, cell in zip(moment.arenas, places, strict=True):
        size = _lettering(view, cell)
        if not size:
            continue
        small, large = _font(round(20 * size)), _font(round(26 * size))
        inside = f"{int(view.in_target(moment.target).sum())} of {int(view.up.sum())}"
        if isinstance(view.layout, GridLayout):
            _, bottom = cell.pixel(0.0, -0.5 * view.layout.bounds_m[3])
            words = "silent" if view.silent else f"{inside} in target"
            draw.text((cell.x, bottom + 14), f"{view.host}: {words}", FAINT, small, anchor="mm")
            continue
        draw.text((cell.x, cell.y - 30 * size), view.host, FAINT, small, anchor="mm")
        text = "silent" if view.silent else inside
        draw.text((cell.x, cell.y), text, INK, large, anchor="mm")
        if not view.silent:
            draw.text((cell.x, cell.y + 28 * size), "in target", FAINT, small, anchor="mm")


def _draw_robots(image: Image.Image, view: ArenaView, cell: Cell) -> None:
    radius = max(3, round(cell.scale * view.layout.robot_radius_m))
    # Polled robots last: a neighbour must not cover their ring.
    for i in np.argsort(view.polled, kind="stable").tolist():
        x, y, yaw = view.poses[i].tolist()
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(yaw)):
            continue
        up = bool(view.up[i])
        colour = ACTION_COLOURS.get(int(view.actions[i]), STAY) if up else DOWN
        heading = round(yaw / (2 * math.pi) * _HEADINGS) % _HEADINGS
        sprite = _robot(radius, colour, heading, bool(view.polled[i]))
        px, py = cell.pixel(x, y)
        half = sprite.width / 2
        image.paste(sprite, (round(px - half), round(py - half)), sprite)


@lru_cache(maxsize=4096)
def _robot(radius: int, colour: str, heading: int, polled: bool) -> Image.Image:
    """Draw a robot as a transparent sprite: disc with a nose in its heading, a ring if polled."""
    zoom = 4
    half = math.ceil(1.7 * radius) + 1
    image = Image.new("RGBA", (2 * half * zoom, 2 * half * zoom), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)
    centre, r = half * zoom, radius * zoom

    def disc(size: float, **style: Any) -> None:
        draw.ellipse([centre - size, centre - size, centre + size, centre + size], **style)

    if polled:
        disc(1.65 * r, fill=POLLED)
        disc(1.25 * r, fill=PAPER)
    disc(r, fill=colour, outline=INK, width=max(zoom, round(0.1 * r)))
    angle = 2 * math.pi * heading / _HEADINGS
    tip = (centre + 0.95 * r * math.cos(angle), centre - 0.95 * r * math.sin(angle))
    nose = INK if colour == DOWN else PAPER
    draw.line([(centre, centre), tip], fill=nose, width=round(0.32 * r))
    return image.resize((2 * half, 2 * half), Image.Resampling.BOX)


_WAYS: dict[bool, tuple[tuple[str, str], ...]] = {
    False: ((PLUS, "going to zone + 1"), (MINUS, "going to zone - 1")),
    True: (
        (PLUS, "going east"),
        (MINUS, "going west"),
        (NORTH, "going north"),
        (SOUTH, "going south"),
    ),
}
"""Colour and words of the actions that move, in a ring and (True) in a grid."""


def _draw_legend(image: Image.Image, draw: Any, *, grid: bool) -> None:
    left, top, row = WIDTH - LEGEND + 20, HEADER + 14, 46
    draw.text((left, top), "Seen from above", INK, _font(22))
    draw.rectangle([left, top + 44, left + 34, top + 68], fill=TARGET_FILL, outline=TARGET_EDGE,
                   width=3)  # fmt: skip
    draw.text((left + 50, top + 56), "target zone", INK, _font(22), anchor="lm")
    entries = (
        *((colour, False, words) for colour, words in _WAYS[grid]),
        (STAY, False, "staying"),
        (STAY, True, "ring: polled this step"),
        (DOWN, False, "not available"),
    )
    for i, (colour, polled, text) in enumerate(entries):
        y = top + 56 + (i + 1) * row
        sprite = _robot(12, colour, _HEADINGS // 8, polled)
        image.paste(sprite, (round(left + 17 - sprite.width / 2), round(y - sprite.height / 2)),
                    sprite)  # fmt: skip
        draw.text((left + 50, y), text, INK, _font(22), anchor="lm")
    y = top + 56 + (len(entries) + 1) * row
    digits = "digits in a corner: zones" if grid else "digits at the core: zones"
    for line in ("white nose: heading", digits):
        draw.text((left, y), line, FAINT, _font(20), anchor="lm")
        y += 28


def _draw_header(draw: Any, moment: Moment) -> None:
    inside, total = moment.counted
    text = f"time {moment.time_s:3.0f} s     step {moment.step}     target: zone {moment.target}"
    draw.text((24, 56), text, INK, _font(26))
    share = f"in target zone: {inside} of {total} = {100 * moment.share:.0f} %"
    draw.text((WIDTH - 24, 12), share, TARGET_EDGE, _font(30), anchor="ra")


def _strip() -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the share-over-time strip, pixels."""
    return 110, HEIGHT - FOOTER + 66, WIDTH - 30, HEIGHT - 34


def _x_of(scene: Scene, time_s: float) -> float:
    left, _, right, _ = _strip()
    return left + (right - left) * min(1.0, time_s / max(scene.duration_s, 1e-9))


def _draw_axes(draw: Any, scene: Scene) -> None:
    left, top, right, bottom = _strip()
    draw.text((24, top - 60), "Share of robots in the target zone over time", INK, _font(20))
    draw.text((left - 8, top - 20), "target:", TARGET_EDGE, _font(18), anchor="rm")
    draw.rectangle([left, top, right, bottom], fill=FLOOR)
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line([left, y, right, y], fill="#c4c7ca", width=1)
        draw.text((left - 8, y), f"{100 * share:.0f} %", FAINT, _font(18), anchor="rm")
    for time_s, _ in scene.changes:
        x = _x_of(scene, time_s)
        draw.line([x, top, x, bottom], fill=TARGET_EDGE, width=1)
    _label_changes(draw, scene)
    for time_s in np.linspace(0.0, scene.duration_s, 7):
        anchor = "rm" if time_s == scene.duration_s else "mm"
        place = (_x_of(scene, time_s), bottom + 16)
        draw.text(place, f"{time_s:.0f} s", FAINT, _font(18), anchor=anchor)


def _label_changes(draw: Any, scene: Scene) -> None:
    """Write each target above the strip where it begins, if there is room for the words."""
    _, top, right, _ = _strip()
    starts = [_x_of(scene, time_s) for time_s, _ in scene.changes] + [float(right)]
    for i, (_, zone) in enumerate(scene.changes):
        room = starts[i + 1] - starts[i]
        if room > 24:
            text = f"zone {zone}" if room > 70 else str(zone)
            draw.text((starts[i] + 3, top - 20), text, TARGET_EDGE, _font(18), anchor="lm")


def _draw_progress(draw: Any, scene: Scene, moment: Moment) -> None:
    _, top, _, bottom = _strip()
    past = [(t, share) for t, share in scene.curve if t <= moment.time_s]
    past.append((moment.time_s, moment.share))
    line = [(_x_of(scene, t), bottom - share * (bottom - top)) for t, share in past]
    if len(line) > 1:
        draw.line(line, fill=TARGET_EDGE, width=3)
    x, y = line[-1]
    draw.line([x, top, x, bottom], fill=INK, width=1)
    draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=TARGET_EDGE, outline=INK)
