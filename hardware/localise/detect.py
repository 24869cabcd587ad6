# SPDX-License-Identifier: MIT
"""Tags in a picture: corners of each, doubled ids set apart."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]


WINDOW_PX = 15
"""Of the adaptive threshold: wider than the cells of a tag, narrower than the tag."""


class Seen(NamedTuple):
    """Corners by tag id, shape (4, 2) px each; `doubled` ids were seen twice and are not in it."""

    corners: dict[int, FloatArray]
    doubled: tuple[int, ...]


class TagDetector:
    """Finds tags of family 36h11 in grey or BGR pictures.

    OpenCV's detector with corners refined on the grey values. One window of the adaptive threshold
    instead of three, and nothing smaller than `least_px`, which is what most of the time goes into.
    """

    def __init__(self, least_px: float = 20.0, width: int = 1280) -> None:
        import cv2

        family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36H11)
        parameters = cv2.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        parameters.cornerRefinementWinSize = 4
        # Blurred cells are read more surely from more samples, and the family's distance of 11 bits
        # allows to correct four (of five); a wrong id would be somebody else's jump, and refused.
        parameters.perspectiveRemovePixelPerCell = 8
        parameters.errorCorrectionRate = 0.8
        parameters.adaptiveThreshWinSizeMin = parameters.adaptiveThreshWinSizeMax = WINDOW_PX
        parameters.minMarkerPerimeterRate = 4 * least_px / width
        self._detector: Any = cv2.aruco.ArucoDetector(family, parameters)

    def find(self, picture: Picture) -> Seen:
        """Return the tags of a picture, shape (height, width) or (height, width, 3)."""
        import cv2

        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        corners, ids, _ = self._detector.detectMarkers(grey)
        if ids is None:
            return Seen({}, ())
        numbers = [int(number) for number in np.asarray(ids).ravel()]
        count = Counter(numbers)
        found = {
            number: np.asarray(quad, dtype=np.float64).reshape(4, 2)
            for number, quad in zip(numbers, corners, strict=True)
            if count[number] == 1
        }
        return Seen(found, tuple(sorted(number for number, times in count.items() if times > 1)))
