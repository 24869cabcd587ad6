# SPDX-License-Identifier: MIT
"""Pictures of a fleet as an overhead camera would take them, for tests without a camera.

A pinhole camera with the lens model of OpenCV looks down on a grey floor with tags; the picture is
drawn at twice the size, blurred, reduced, and noise is added. Not modelled: glare, shadows, rolling
shutter, uneven light, paper that is not flat.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.hardware.localise.camera import CameraFile, FloorTag
from kofn.hardware.localise.tags import CELLS, FLOOR_IDS, cells

FloatArray = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

SCALE = 2
"""Pictures are drawn that many times larger and then reduced."""
FLOOR_M = (4.0, 3.0)


class Truth(NamedTuple):
    """True pose of a robot in the picture: m, m, rad."""

    x: float
    y: float
    yaw: float


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """What spoils the picture: grey levels of noise, blur and defocus in px, hidden tags.

    `hidden` are ids that something covers in part; `doubled` an id that is shown a second time.
    """

    noise: float = 4.0
    blur_px: float = 0.6
    hidden: tuple[int, ...] = ()
    doubled: int | None = None
    side_m: float = 0.12
    height_m: float = 0.10


def make_camera(*, distortion: float = 0.0, width: int = 1280, height: int = 960) -> CameraFile:
    """Return the file of a camera over a floor of 4 x 3 m; `distortion` is k1 of its lens."""
    focal = 0.80 * width
    corners = [(-1.7, -1.2), (1.7, -1.2), (1.7, 1.2), (-1.7, 1.2)]
    floor = [
        FloorTag(id=number, x=x, y=y) for number, (x, y) in zip(FLOOR_IDS, corners, strict=True)
    ]
    return CameraFile(
        width=width,
        height=height,
        focal_px=(focal, focal),
        centre_px=(width / 2 - 0.5, height / 2 - 0.5),
        distortion=(distortion, 0.0, 0.0, 0.0, 0.0),
        floor=floor,
    )


class Studio:
    """Draws pictures of one camera, held at a place over the floor and tilted a little.

    Parameters
    ----------
    camera
        The lens and the floor tags.
    generator
        Place, tilt, robots and noise.
    """

    def __init__(self, camera: CameraFile, generator: np.random.Generator) -> None:
        self._camera, self._generator = camera, generator
        self.place = np.array([*generator.uniform(-0.05, 0.05, 2), generator.uniform(3.55, 3.7)])
        tilt = generator.uniform(-0.02, 0.02, 2)
        turn = generator.uniform(-0.05, 0.05)
        # Looking down: the camera's x to the right, its y towards -Y of the arena, z to the floor.
        down = np.diag([1.0, -1.0, -1.0])
        self._R = _rotation(tilt[0], tilt[1], turn) @ down
        self._maps = self._lens()

    def scatter(self, numbers: list[int], gap_m: float = 0.30) -> dict[int, Truth]:
        """Put robots at random, apart from each other and from the floor tags."""
        taken = [np.array([tag.x, tag.y]) for tag in self._camera.floor]
        truth = {}
        for number in numbers:
            while True:
                spot = self._generator.uniform(-1, 1, 2) * (np.array(FLOOR_M) / 2 - 0.2)
                if all(np.hypot(*(spot - other)) >= gap_m for other in taken):
                    break
            taken.append(spot)
            yaw = float(self._generator.uniform(-np.pi, np.pi))
            truth[number] = Truth(float(spot[0]), float(spot[1]), yaw)
        return truth

    def shoot(self, robots: Mapping[int, Truth], scene: Scene | None = None) -> Picture:
        """Draw the picture, grey levels of shape (height, width)."""
        import cv2

        scene = scene if scene is not None else Scene()
        camera = self._camera
        size = (camera.width * SCALE, camera.height * SCALE)
        canvas: Any = np.full(size[::-1], 150, dtype=np.uint8)
        for tag in camera.floor:
            self._paste(canvas, tag.id, Truth(tag.x, tag.y, np.pi / 2), camera.floor_side_m, 0.0)
        for number, truth in robots.items():
            self._paste(canvas, number, truth, scene.side_m, scene.height_m)
            if number in scene.hidden:
                self._cover(canvas, truth, scene)
        if scene.doubled is not None:
            self._paste(canvas, scene.doubled, Truth(0.0, 0.0, 1.0), scene.side_m, scene.height_m)
        if self._maps is not None:
            canvas = cv2.remap(canvas, *self._maps, cv2.INTER_LINEAR, borderValue=150)
        if scene.blur_px > 0:
            canvas = cv2.GaussianBlur(canvas, (0, 0), scene.blur_px * SCALE)
        picture = cv2.resize(canvas, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        noisy = picture + self._generator.normal(0.0, scene.noise, picture.shape)
        shot: Picture = np.clip(noisy, 0, 255).astype(np.uint8)
        return shot

    def project(self, points: FloatArray) -> FloatArray:
        """Corrected pixels of arena points, shape (n, 3) -> (n, 2)."""
        seen = (points - self.place) @ self._R @ self._camera.matrix.T
        pixels: FloatArray = seen[:, :2] / seen[:, 2:]
        return pixels

    def _quad(self, truth: Truth, side: float, height: float) -> FloatArray:
        """Pixels of a square's corners, top left first, clockwise as seen from above."""
        half = side / 2
        # The top edge points forward: right of it is -y of the robot's frame.
        local = np.array([[half, half], [half, -half], [-half, -half], [-half, half]])
        cos, sin = np.cos(truth.yaw), np.sin(truth.yaw)
        turned = local @ np.array([[cos, sin], [-sin, cos]])
        points = np.column_stack([turned + np.array([truth.x, truth.y]), np.full(4, height)])
        return self.project(points)

    def _paste(self, canvas: Any, number: int, truth: Truth, side: float, height: float) -> None:
        import cv2

        per = 8
        texture = np.full(((CELLS + 2) * per,) * 2, 255, dtype=np.uint8)
        white = np.kron(cells(number), np.ones((per, per), dtype=bool))
        texture[per:-per, per:-per] = np.where(white, 245, 12)
        quad = (self._quad(truth, side * (CELLS + 2) / CELLS, height) + 0.5) * SCALE - 0.5
        low = np.floor(quad.min(axis=0)).astype(int) - 2
        high = np.ceil(quad.max(axis=0)).astype(int) + 3
        low = np.maximum(low, 0)
        high = np.minimum(high, [canvas.shape[1], canvas.shape[0]])
        if (high <= low).any():
            return
        edge = (CELLS + 2) * per
        corners = np.array([[0, 0], [edge, 0], [edge, edge], [0, edge]], dtype=np.float32) - 0.5
        transform = cv2.getPerspectiveTransform(corners, (quad - low).astype(np.float32))
        box = tuple(int(value) for value in high - low)
        patch = cv2.warpPerspective(texture, transform, box, flags=cv2.INTER_AREA)
        mask = cv2.warpPerspective(np.full_like(texture, 255), transform, box)
        part = canvas[low[1] : high[1], low[0] : high[0]]
        part[:] = np.where(mask > 127, patch, part)

    def _cover(self, canvas: Any, truth: Truth, scene: Scene) -> None:
        """Lay a cable over the middle of a tag."""
        import cv2

        quad = (self._quad(truth, scene.side_m, scene.height_m) + 0.5) * SCALE - 0.5
        start, end = (quad[0] + quad[1]) / 2, (quad[2] + quad[3]) / 2
        width = max(3, int(0.02 * np.hypot(*(start - end)) / scene.side_m))
        points = [tuple(int(value) for value in point) for point in (start, end)]
        cv2.line(canvas, points[0], points[1], 90, width)

    def _lens(self) -> tuple[Any, Any] | None:
        """Where each pixel of the distorted picture is in the straight one, at drawing size."""
        import cv2

        camera = self._camera
        if not any(camera.distortion):
            return None
        K = camera.matrix
        x, y = np.meshgrid(np.arange(camera.width * SCALE), np.arange(camera.height * SCALE))
        pixels = (np.stack([x, y], axis=-1).reshape(-1, 1, 2) + 0.5) / SCALE - 0.5
        straight: Any = cv2.undistortPoints(
            pixels.astype(np.float64), K, np.array(camera.distortion), None, None, K
        )
        places = ((np.asarray(straight) + 0.5) * SCALE - 0.5).reshape(*x.shape, 2)
        return places[..., 0].astype(np.float32), places[..., 1].astype(np.float32)


def _rotation(x: float, y: float, z: float) -> FloatArray:
    """Turn by x, then y, then z about the arena's axes."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: FloatArray = about_z @ about_y @ about_x
    return turned
