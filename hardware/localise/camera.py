# SPDX-License-Identifier: MIT
"""An overhead camera: lens, and the homography between its picture and the floor.

A floor point (X, Y) is seen at pixel p ~ H (X, Y, 1) once the lens is corrected. H comes from four
or more floor tags at surveyed places. With the camera matrix K, H = K [r1 r2 t] up to scale gives
the camera's place C = -R' t; a tag at height h whose ray meets the floor at q is really at

    q + (C_xy - q) h / C_z

| symbol | name | shape | unit |
|---|---|---|---|
| K | matrix | (3, 3) | px |
| H | homography, floor to picture | (3, 3) | - |
| C | place | (3,) | m |
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]

MAX_REPROJECTION_PX = 2.0
"""Floor tags that fit worse than this were moved, or the lens is wrong."""
MAX_SKEW = 0.02
"""The same for r1 and r2, which a camera sees at right angles and of equal length: four tags alone
fit a homography nearly always, also with one of them 20 cm off."""


class FloorTag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Centre of a floor tag in the arena's frame, m; its edges lie along the axes."""

    id: Annotated[int, Meta(ge=0)]
    x: float
    y: float


class CameraFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about one camera: `camera.toml`.

    Attributes
    ----------
    width, height
        Picture, px.
    focal_px, centre_px
        Camera matrix.
    distortion
        Coefficients k1, k2, p1, p2, k3 of OpenCV's lens model; zeros for none.
    floor
        The tags on the floor, at least four.
    floor_side_m
        Their side.
    """

    width: Annotated[int, Meta(ge=64, le=10_000)]
    height: Annotated[int, Meta(ge=64, le=10_000)]
    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    floor: list[FloorTag]
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    floor_side_m: Annotated[float, Meta(gt=0.01, le=1)] = 0.12

    def __post_init__(self) -> None:
        if min(self.focal_px) <= 0:
            raise InputError(f"camera focal_px = {self.focal_px} must be above 0")
        ids = [tag.id for tag in self.floor]
        if len(set(ids)) < 4 or len(set(ids)) < len(ids):
            raise InputError(f"camera floor names tags {ids}: at least four different ones")

    @property
    def matrix(self) -> FloatArray:
        """Camera matrix K, shape (3, 3)."""
        return np.array(
            [
                [self.focal_px[0], 0.0, self.centre_px[0]],
                [0.0, self.focal_px[1], self.centre_px[1]],
                [0.0, 0.0, 1.0],
            ]
        )


def read_camera(path: Path) -> CameraFile:
    """Read a `camera.toml`.

    Raises
    ------
    InputError
        It is not there, not TOML, or a value is out of range; the sentence names it.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=CameraFile)
    except OSError as error:
        raise InputError(f"cannot read camera file {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"camera file {path}: {error}") from error


class FloorView(msgspec.Struct, frozen=True):
    """The floor as seen by a camera now: its homography and the camera's place."""

    H: FloatArray
    place: FloatArray
    error_px: float

    def on_floor(self, points: FloatArray, height_m: float = 0.0) -> FloatArray:
        """Arena coordinates of corrected pixels, shape (n, 2), of points `height_m` high."""
        flat = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.linalg.inv(self.H).T
        q: FloatArray = flat[:, :2] / flat[:, 2:]
        there: FloatArray = q + (self.place[:2] - q) * (height_m / self.place[2])
        return there


def straighten(camera: CameraFile, pixels: FloatArray) -> FloatArray:
    """Correct the lens at pixels of shape (n, 2); the camera matrix is kept."""
    import cv2

    if not any(camera.distortion):
        return pixels
    K = camera.matrix
    out: Any = cv2.undistortPoints(
        pixels.reshape(-1, 1, 2), K, np.array(camera.distortion), None, None, K
    )
    straight: FloatArray = np.asarray(out, dtype=np.float64).reshape(-1, 2)
    return straight


def see_floor(camera: CameraFile, corners: dict[int, FloatArray]) -> FloorView | None:
    """Return the view of the floor; None when fewer than four of its tags are seen, or do not fit.

    Parameters
    ----------
    camera
        The camera.
    corners
        Corrected corners of the seen tags by id, each of shape (4, 2), in the detector's order:
        top left, top right, bottom right, bottom left.
    """
    import cv2

    half = camera.floor_side_m / 2
    offsets = np.array([[-half, half], [half, half], [half, -half], [-half, -half]])
    seen = [tag for tag in camera.floor if tag.id in corners]
    if len(seen) < 4:
        return None
    floor = np.concatenate([np.array([tag.x, tag.y]) + offsets for tag in seen])
    pixels = np.concatenate([corners[tag.id] for tag in seen])
    found: Any = cv2.findHomography(floor, pixels)[0]
    if found is None:
        return None
    H = np.asarray(found, dtype=np.float64)
    back = np.concatenate([floor, np.ones((len(floor), 1))], axis=1) @ H.T
    error = float(np.sqrt(np.mean(np.sum((back[:, :2] / back[:, 2:] - pixels) ** 2, axis=1))))
    M = np.linalg.inv(camera.matrix) @ H
    if error > MAX_REPROJECTION_PX or _skew(M) > MAX_SKEW:
        return None
    return FloorView(H, _place(M), error)


def _skew(M: FloatArray) -> float:
    """How far the images of the floor's axes are from a right angle and from equal length."""
    one, two = float(np.linalg.norm(M[:, 0])), float(np.linalg.norm(M[:, 1]))
    return max(abs(float(M[:, 0] @ M[:, 1])) / (one * two), abs(1.0 - one / two))


def _place(M: FloatArray) -> FloatArray:
    """Camera's place from M = [r1 r2 t] up to scale, by the nearest rotation."""
    M = 2 * M / (np.linalg.norm(M[:, 0]) + np.linalg.norm(M[:, 1]))
    if M[2, 2] < 0:  # the floor is in front of the camera
        M = -M
    U, _, Vt = np.linalg.svd(np.stack([M[:, 0], M[:, 1], np.cross(M[:, 0], M[:, 1])], axis=1))
    R = U @ np.diag([1.0, 1.0, float(np.linalg.det(U @ Vt))]) @ Vt
    place: FloatArray = -R.T @ M[:, 2]
    return place
