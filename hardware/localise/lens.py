# SPDX-License-Identifier: MIT
"""A camera's matrix and distortion from pictures of a printed sheet of tags (Zhang 2000).

The sheet is flat and its tags lie at known places, so each picture of it, tilted another way, gives
equations for the same lens; OpenCV's `calibrateCameraExtended` solves them and says how sure it is.
The coefficient k3 is left out: beyond the corners that were seen it is free to bend anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]

LEAST_VIEWS = 5
LEAST_TAGS = 4
LEAST_COVER = 0.7
"""Share of the picture, each way, in which corners were seen; the lens is not known elsewhere."""
MAX_ERROR_PX = 1.0
MAX_SPREAD = 0.01
"""Standard deviation of the focal length over itself; flat, equally held sheets leave it open."""


class Lens(NamedTuple):
    """What `CameraFile` holds of a lens, and how well it fits the pictures."""

    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    distortion: tuple[float, float, float, float, float]
    error_px: float
    spread: float
    views: int


def solve_lens(
    views: Sequence[Mapping[int, FloatArray]],
    sheet: Mapping[int, FloatArray],
    size_px: tuple[int, int],
) -> Lens:
    """Find the lens from tags seen on a sheet.

    Parameters
    ----------
    views
        Corners by tag id of each picture, shape (4, 2) px, as `TagDetector` gives them.
    sheet
        Where these corners are on the paper, shape (4, 2) m.
    size_px
        Width and height of the pictures.

    Raises
    ------
    InputError
        Too few pictures or tags, they do not fit one sheet, or they leave the focal length open.
    """
    import cv2

    objects, images = [], []
    for corners in views:
        known = sorted(set(corners) & set(sheet))
        if len(known) >= LEAST_TAGS:
            flat = np.concatenate([sheet[number] for number in known])
            objects.append(np.column_stack([flat, np.zeros(len(flat))]).astype(np.float32))
            images.append(np.concatenate([corners[n] for n in known]).astype(np.float32))
    if len(objects) < LEAST_VIEWS:
        raise InputError(
            f"{len(objects)} of {len(views)} pictures show {LEAST_TAGS} tags of the sheet, "
            f"at least {LEAST_VIEWS} are needed"
        )
    seen = np.ptp(np.concatenate(images), axis=0) / np.array(size_px)
    if seen.min() < LEAST_COVER:
        raise InputError(
            f"tags were seen in {100 * seen[0]:.0f} % of the picture's width and "
            f"{100 * seen[1]:.0f} % of its height, {100 * LEAST_COVER:.0f} % is needed: hold the "
            "sheet into the corners, too"
        )
    # Overloads of OpenCV's stubs do not know that matrices to start from may be left out.
    solve: Any = cv2.calibrateCameraExtended
    error_px, K, lens, _, _, deviation, _, _ = solve(
        objects, images, size_px, None, None, flags=cv2.CALIB_FIX_K3
    )
    spread = float(deviation[0, 0] / K[0, 0])
    if error_px > MAX_ERROR_PX:
        raise InputError(
            f"corners are {error_px:.1f} px off, more than {MAX_ERROR_PX:g} px: was the sheet "
            "flat, and printed at the stated size?"
        )
    if not spread <= MAX_SPREAD:
        raise InputError(
            f"the focal length is known to {100 * spread:.0f} % only, {100 * MAX_SPREAD:g} % is "
            "needed: tilt the sheet differently in each picture, and let it fill the picture"
        )
    k = [float(value) for value in np.ravel(lens)[:5]]
    return Lens(
        (float(K[0, 0]), float(K[1, 1])),
        (float(K[0, 2]), float(K[1, 2])),
        (k[0], k[1], k[2], k[3], k[4]),
        float(error_px),
        spread,
        len(objects),
    )
