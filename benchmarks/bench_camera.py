# SPDX-License-Identifier: MIT
"""Overhead camera on synthetic pictures: missed robots, errors, time a picture.

`python benchmarks/bench_camera.py [--views 200]`; 20 robots with 12 cm tags on 4 x 3 m, 1280 x 960.
The peer in the same run is the detector with OpenCV's default settings.
"""

import argparse
import time
from typing import Any

import cv2
import numpy as np
from measuring import machine

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


def measure(name: str, distortion: float, scene: Scene, views: int) -> None:
    camera = make_camera(distortion=distortion)
    for title, detector in (("ours", TagDetector()), ("OpenCV defaults", Defaults())):
        missed, lost, errors, turns, times = 0, 0, [], [], []
        for seed in range(views):
            studio = Studio(camera, np.random.default_rng(seed))
            truth = studio.scatter(ROBOTS)
            picture = studio.shoot(truth, scene)
            tracker = Tracker(camera, dict.fromkeys(ROBOTS, scene.height_m), 1.0)
            start = time.perf_counter()
            seen: Seen = detector.find(picture)
            fixes = tracker.see(seen, 0.0)
            times.append(1000 * (time.perf_counter() - start))
            lost += tracker.view is None
            missed += len(ROBOTS) - len(fixes)
            for i, fix in fixes.items():
                errors.append(100 * np.hypot(fix.x - truth[i].x, fix.y - truth[i].y))
                turns.append(np.degrees(abs(np.angle(np.exp(1j * (fix.yaw - truth[i].yaw))))))
        total = views * len(ROBOTS)
        error = f"{np.median(errors):.2f} / {max(errors):.2f}" if errors else "-"
        turn = f"{np.median(turns):.1f} / {max(turns):.1f}" if turns else "-"
        print(
            f"| {name} | {title} | {missed} of {total} ({100 * missed / total:.1f} %) | {lost} | "
            f"{error} | {turn} | {np.median(times):.0f} / {np.percentile(times, 99):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=200)
    views = parser.parse_args().views
    print(machine())
    print(
        "| picture | detector | robots missed | floor not seen | error cm median / max | ", end=""
    )
    print("angle deg | ms median / p99 |\n|---|---|---|---|---|---|---|")
    for case in CASES:
        measure(*case, views)


if __name__ == "__main__":
    main()
