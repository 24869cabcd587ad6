# SPDX-License-Identifier: MIT
"""`write_comparison`: several runs in one film, each in a panel of its own, on one clock.

Each panel is the picture of its run's own film. All start together; a run that is shorter stands at
its end. Two panels are beside each other, three and four in two rows, and so on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from kofn.controller.core.errors import InputError
from kofn.sim.draw import HEIGHT, WIDTH, draw_frame
from kofn.sim.film import Film
from kofn.sim.video import FILM_S, FPS, GIF_FPS, Picture, encode, frame_times

MAX_PANELS = 9
MAX_WIDTH = 1920


@dataclass(frozen=True, slots=True)
class Panel:
    """One run: its folder, a title, and which robots were polled at each step."""

    folder: Path
    title: str
    polled: Mapping[int, set[str]] = field(default_factory=dict)


def write_comparison(panels: Sequence[Panel], path: Path, *, film_s: float = FILM_S) -> Path | None:
    """Draw runs side by side into `path`, a `.mp4` or `.gif`.

    Returns
    -------
    Path | None
        The film, or None (and a line in the log) when it could not be written.

    Raises
    ------
    InputError
        No panel or more than nine, a run without poses, or another kind of file.
    """
    if not 1 <= len(panels) <= MAX_PANELS:
        raise InputError(f"a film of {len(panels)} runs, it takes 1 to {MAX_PANELS}")
    if path.suffix not in {".mp4", ".gif"}:
        raise InputError(f"film {path} must end in .mp4 or .gif")
    films = [Film(panel.folder / "hosts", panel.polled) for panel in panels]
    longest_s = max(film.duration_s for film in films)
    speed = max(1.0, longest_s / film_s)
    times = frame_times(longest_s, speed, FPS if path.suffix == ".mp4" else GIF_FPS)
    scenes = [
        film.scene(panel.title, [min(t, film.duration_s - 1e-6) for t in sorted(set(times))], speed)
        for film, panel in zip(films, panels, strict=True)
    ]
    columns = math.ceil(math.sqrt(len(panels)))
    rows = math.ceil(len(panels) / columns)
    width = min(WIDTH, MAX_WIDTH // columns)
    height = round(width * HEIGHT / WIDTH)
    # Multiples of 16: what the encoder asks for.
    size = (16 * math.ceil(columns * width / 16), 16 * math.ceil(rows * height / 16))

    def picture(time_s: float) -> Picture:
        sheet = Image.new("RGB", size, "#ffffff")
        for i, (film, scene) in enumerate(zip(films, scenes, strict=True)):
            frame = draw_frame(scene, film.at(min(time_s, film.duration_s - 1e-6)))
            small = frame.resize((width, height), Image.Resampling.BILINEAR)
            sheet.paste(small, (i % columns * width, i // columns * height))
        return np.asarray(sheet)

    return encode(path, (picture(time_s) for time_s in times))
