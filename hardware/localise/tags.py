# SPDX-License-Identifier: MIT
"""Tags of family AprilTag 36h11.

A tag is 8 x 8 cells: a black border of one cell around 6 x 6 bits. Its side is the length of the
black square, border included; a white margin of one cell belongs around it. Robots wear ids from 0
on, the floor has four tags (`FLOOR_IDS`) at surveyed places.
"""

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

BoolArray = npt.NDArray[np.bool_]

CELLS = 8
FAMILY_SIZE = 587
"""Ids of the family: 0 to 586."""
FLOOR_IDS = (580, 581, 582, 583)
"""Tags on the floor, kept apart from robots' ids."""


def check_tag(number: int) -> int:
    """Return a robot's tag id, or raise `InputError` when it is none."""
    if not 0 <= number < FLOOR_IDS[0]:
        raise InputError(f"tag {number} must lie in 0..{FLOOR_IDS[0] - 1} ({FLOOR_IDS} are floor)")
    return number


def cells(number: int) -> BoolArray:
    """White cells of a tag, shape (8, 8), row 0 at its top; the border is black (False)."""
    import cv2

    family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36H11)
    image = cv2.aruco.generateImageMarker(family, number, CELLS)
    white: BoolArray = np.asarray(image) > 127
    return white
