# SPDX-License-Identifier: MIT
"""Overhead camera on synthetic pictures: missed robots, errors, time a picture.

`python benchmarks/bench_camera.py [--views 200] [--case clear]`; 20 robots with 12 cm tags on
4 x 3 m, 1280 x 960 pixels.
The peer in the same run is the detector with OpenCV's default settings.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from measuring import Row, parser, report

from kofn.hardware.localise.detect import Seen, TagDetector
from kofn.hardware.localise.synthetic import Scene, Studio, make_camera
from kofn.hardware.localise.tracking import Tracker

ROBOTS = list(range(20))
CASES = [
    ("clear", 0.0, Scene()),
    ("noise 15", 0.0, Scene(noise=15.0)),
    ("lens k1 -0.1, blur 1 px", -0.1, Scene(blur_px=1.0)),
    ("lens k1 -0.25, blur 1.3 px, noise 8", -0.25, Scene(blur_px=1.3, noise=8.0)),
    ("blur 2 px, noise 25", 0.0, Scene(blur_px=2.0, noise=25.0)),
]


class Defaults(TagDetector):
    """The peer: the same family, OpenCV's settings."""

    def __init__(self) -> None:
        super().__init__()
        family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36H11)
        self._detector: Any = cv2.aruco.ArucoDetector(family, cv2.aruco.DetectorParameters())


def measure(name: str, distortion: float, scene: Scene, views: int) -> list[Row]:
    """Return a row for each detector, which see the same pictures in turns."""
    camera = make_camera(distortion=distortion)
    detectors = {"ours": TagDetector(), "OpenCV defaults": Defaults()}
    found = {title: Sums() for title in detectors}
    for seed in range(views):
        studio = Studio(camera, np.random.default_rng(seed))
        truth = studio.scatter(ROBOTS)
        picture = studio.shoot(truth, scene)
        for title, detector in detectors.items():
            tracker = Tracker(camera, dict.fromkeys(ROBOTS, scene.height_m), 1.0)
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            seen: Seen = detector.find(picture)
            fixes = tracker.see(seen, 0.0)
            sums = found[title]
            sums.cpu_ms.append(1000 * (time.process_time() - cpu_s))
            sums.wall_ms.append(1000 * (time.perf_counter() - wall_s))
            sums.lost += tracker.view is None
            sums.missed += len(ROBOTS) - len(fixes)
            for i, fix in fixes.items():
                sums.cm.append(100 * float(np.hypot(fix.x - truth[i].x, fix.y - truth[i].y)))
                turn = np.angle(np.exp(1j * (fix.yaw - truth[i].yaw)))
                sums.degrees.append(float(np.degrees(abs(turn))))
    total = views * len(ROBOTS)
    return [sums.row(name, title, total) for title, sums in found.items()]


@dataclass
class Sums:
    """What one detector made of one kind of picture."""

    missed: int = 0
    lost: int = 0
    cm: list[float] = field(default_factory=list)
    degrees: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def row(self, name: str, title: str, total: int) -> Row:
        """Return the figures; None for errors where nothing was found."""
        return {
            "picture": name,
            "detector": title,
            "missed": self.missed,
            "of": total,
            "floor not seen": self.lost,
            "cm p50": float(np.median(self.cm)) if self.cm else None,
            "cm max": max(self.cm, default=None),
            "deg p50": float(np.median(self.degrees)) if self.degrees else None,
            "deg max": max(self.degrees, default=None),
            "ms p50": float(np.median(self.wall_ms)),
            "ms p99": float(np.percentile(self.wall_ms, 99)),
            "cpu ms p50": float(np.median(self.cpu_ms)),
        }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--views", type=int, default=200, help="pictures of each kind")
    names = [name for name, *_ in CASES]
    options.add_argument("--case", action="append", choices=names, help="a kind; default: all")
    arguments = options.parse_args()
    views = 5 if arguments.quick else arguments.views
    rows = [
        row
        for case in CASES
        if arguments.case is None or case[0] in arguments.case
        for row in measure(*case, views)
    ]
    report("overhead camera, 20 robots", rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
