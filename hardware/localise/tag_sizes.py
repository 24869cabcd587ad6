# SPDX-License-Identifier: MIT
"""How large the tags are in a picture, and whether that is large enough to read them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from kofn.hardware.localise.camera import CameraFile
from kofn.hardware.localise.detect import Picture, TagDetector

LEAST_SIDE_PX = 30.0
"""Side of a tag that is read surely."""
HINT = f"{LEAST_SIDE_PX:g} px a side are needed: larger tags, or a lower, sharper camera"


class SeenTag(NamedTuple):
    """A tag that a picture should show: its wearer ("floor"), and its side; None: not seen."""

    tag: int
    wearer: str
    side_px: float | None
    ok: bool
    words: str


def seen_tags(picture: Picture, camera: CameraFile, names: Mapping[int, str]) -> list[SeenTag]:
    """How large each expected tag is in a picture; `names` is who wears which."""
    seen = TagDetector(width=camera.width).find(picture)
    rows = []
    for tag, name in {**dict.fromkeys((t.id for t in camera.floor), "floor"), **names}.items():
        quad = seen.corners.get(tag)
        side_px = None if quad is None else float(np.linalg.norm(np.roll(quad, 1, 0) - quad) / 2)
        ok = side_px is not None and side_px >= LEAST_SIDE_PX
        what = "seen twice" if tag in seen.doubled else "not seen"
        words = what if side_px is None else f"{side_px:.0f} px a side"
        rows.append(SeenTag(tag, name, side_px, ok, words))
    return rows
