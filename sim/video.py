# SPDX-License-Identifier: MIT
"""`write_video`: a film of a run, drawn from the logs that its hosts kept.

A run's hosts are shown side by side. The film lasts about 36 s whatever the run's length (never
slower than the robots). MP4 through the encoder that imageio-ffmpeg brings; a GIF without it.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.sim.film import Film

Picture = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

FILM_S = 36.0
FPS = 20
GIF_FPS = 5
_MP4: dict[str, object] = {
    "codec": "libx264",
    "quality": None,
    "macro_block_size": 16,
    "output_params": ["-preset", "veryfast", "-crf", "24", "-movflags", "+faststart"],
    "ffmpeg_log_level": "error",
}
_GIF: dict[str, object] = {"mode": "I", "loop": 0}
TAIL_S = 1.5
"""How long the last picture stands, so that a viewer sees how the run ended."""


def write_video(
    folder: Path,
    *,
    polled: Mapping[int, set[str]] | None = None,
    title: str = "",
    film_s: float = FILM_S,
) -> Path | None:
    """Draw `folder/hosts/*.jsonl` into `folder/video.mp4` (or `video.gif`).

    Parameters
    ----------
    folder
        Folder of a run.
    polled
        Step t -> names of the robots that the controller asked in it; they get a ring.
    title
        First line of the picture; default the folder's name.
    film_s
        Length to aim at, seconds.

    Returns
    -------
    Path | None
        The film, or None (and a line in the log that says why) when no host logged poses, Pillow or
        imageio are not installed, or the film could not be written.
    """
    try:
        import imageio.v2  # noqa: F401  said now, not after minutes of drawing

        from kofn.sim.draw import draw_frame
    except ImportError as reason:
        _log.warning("film=none reason=%s, it comes with kofn[sim]", reason)
        return None
    try:
        film = Film(folder / "hosts", polled)
    except InputError as reason:
        _log.info("film=none reason=%s", reason)
        return None
    encoder = has_ffmpeg()
    speed = max(1.0, film.duration_s / film_s)
    times = frame_times(film.duration_s, speed, FPS if encoder else GIF_FPS)
    scene = film.scene(title or folder.name, sorted(set(times)), speed)
    pictures = (np.asarray(draw_frame(scene, film.at(time_s))) for time_s in times)
    return encode(folder / ("video.mp4" if encoder else "video.gif"), pictures)


def frame_times(duration_s: float, speed: float, fps: int) -> list[float]:
    """Film times of the pictures of a film; the last one stands for a while."""
    # The last picture belongs to the last step, not to one that never came.
    count = max(2, round(duration_s / speed * fps))
    times: list[float] = np.linspace(0.0, duration_s - 1e-6, count).tolist()
    return times + [times[-1]] * round(TAIL_S * fps)


def encode(path: Path, pictures: Iterable[Picture]) -> Path | None:
    """Write pictures (height, width, 3) as MP4, or as a smaller GIF by the name's ending.

    None, and a line in the log, when it cannot be written: a film is an extra, and a full disk or a
    broken encoder must not fail a run.
    """
    import imageio.v2 as imageio

    gif = path.suffix == ".gif"
    # Any: imageio's writers are typed by a base class without their methods.
    open_writer: Any = imageio.get_writer
    options = _GIF | {"duration": 1000 / GIF_FPS} if gif else _MP4 | {"fps": FPS}
    try:
        with open_writer(path, **options) as writer:
            for picture in pictures:
                writer.append_data(picture[::2, ::2] if gif else picture)
    except OSError as reason:
        _log.warning("film=none reason=%s", reason)
        path.unlink(missing_ok=True)
        return None
    return path


def has_ffmpeg() -> bool:
    """Whether films can be MP4."""
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True
