# SPDX-License-Identifier: MIT
"""`write_still`: one picture of a run in three dimensions, by TinyRenderer: no display, no GPU.

Robots and arena are put up as the bullet world does it, at the poses of the log, and looked at from
the side. TinyRenderer smooths no edges; a picture takes some tenths of a second.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout, sector_centres
from kofn.sim.bullet import MAX_ROBOTS, BulletWorld
from kofn.sim.film import ArenaView, Film
from kofn.sim.quiet import quiet_stdout

WIDTH, HEIGHT = 960, 540
FLOOR, TARGET, WALL = (0.93, 0.94, 0.95, 1.0), (0.60, 0.84, 0.71, 1.0), (0.62, 0.65, 0.68, 1.0)
IN_TARGET, ELSEWHERE, DOWN = (0.0, 0.52, 0.36, 1.0), (0.88, 0.54, 0.0, 1.0), (0.9, 0.9, 0.9, 1.0)
ARC_STEP_RAD = math.radians(6.0)


def write_still(folder: Path, time_s: float | None = None) -> Path:
    """Draw the first host of a run at film time `time_s` (default: the end) into `still.png`.

    Raises
    ------
    InputError
        No host logged poses, or it has more robots than a bullet world.
    RunError
        PyBullet or Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise RunError("a picture needs Pillow, which comes with kofn[sim]") from error
    film = Film(folder / "hosts")
    moment = film.at(film.duration_s - 1e-6 if time_s is None else time_s)
    picture = _render(moment.arenas[0], moment.target)
    path = folder / "still.png"
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def _render(view: ArenaView, target: int) -> Any:
    n = len(view.poses)
    if n > MAX_ROBOTS:
        raise InputError(f"a picture of {n} robots, at most {MAX_ROBOTS} are drawn")
    world = BulletWorld(n, view.layout)
    try:
        poses = np.where(np.isfinite(view.poses), view.poses, 0.0)
        world._build(poses)  # noqa: SLF001  a reset would place the robots itself
        pb, client = world._pb, world._client  # noqa: SLF001
        with quiet_stdout():
            _paint(pb, client, world, view, target)
            picture = _look(pb, client, view.layout)
    finally:
        world.close()
    return picture


def _paint(pb: Any, client: int | None, world: BulletWorld, view: ArenaView, target: int) -> None:
    robots = world._bodies  # noqa: SLF001
    for body in range(pb.getNumBodies(physicsClientId=client)):
        if body not in robots:
            pb.changeVisualShape(body, -1, rgbaColor=WALL, physicsClientId=client)
    inside = view.in_target(target)
    for i, body in enumerate(robots):
        colour = DOWN if not view.up[i] else IN_TARGET if inside[i] else ELSEWHERE
        pb.changeVisualShape(body, -1, rgbaColor=colour, physicsClientId=client)
    for x, y, half_x, half_y, yaw, at_target in _tiles(view.layout, target):
        shape = pb.createVisualShape(
            pb.GEOM_BOX,
            halfExtents=[half_x, half_y, 0.002],
            rgbaColor=TARGET if at_target else FLOOR,
            physicsClientId=client,
        )
        turn = [0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]
        pb.createMultiBody(0.0, -1, shape, [x, y, 0.002], turn, physicsClientId=client)


def _tiles(layout: Layout, target: int) -> list[tuple[float, float, float, float, float, bool]]:
    """Boxes that make the floor: x, y, half sizes, turn, and whether it is the target's."""
    if isinstance(layout, GridLayout):
        half = 0.48 * layout.cell_m
        centres = layout.centres().tolist()
        return [(x, y, half, half, 0.0, zone == target) for zone, (x, y) in enumerate(centres)]
    return _arcs(layout, target)


def _arcs(layout: RingLayout, target: int) -> list[tuple[float, float, float, float, float, bool]]:
    middle, half = 0.5 * (layout.inner_m + layout.outer_m), 0.5 * (layout.outer_m - layout.inner_m)
    steps = max(1, round(layout.sector_rad / ARC_STEP_RAD))
    step = layout.sector_rad / steps
    width = layout.outer_m * math.tan(0.5 * step)
    tiles = []
    for zone, centre in enumerate(sector_centres(layout).tolist()):
        for j in range(steps):
            angle = centre - 0.5 * layout.sector_rad + (j + 0.5) * step
            x, y = middle * math.cos(angle), middle * math.sin(angle)
            tiles.append((x, y, half, width, angle, zone == target))
    return tiles


def _look(pb: Any, client: int | None, layout: Layout) -> Any:
    reach = layout.reach_m
    eye = [0.0, -1.9 * reach, 1.7 * reach]
    view = pb.computeViewMatrix(eye, [0.0, -0.1 * reach, 0.0], [0.0, 0.0, 1.0])
    lens = pb.computeProjectionMatrixFOV(45.0, WIDTH / HEIGHT, 0.1, 10.0 * reach)
    _, _, pixels, _, _ = pb.getCameraImage(
        WIDTH,
        HEIGHT,
        view,
        lens,
        lightDirection=[0.6 * reach, -reach, 2.0 * reach],
        shadow=0,  # its edge would lie across the arena
        renderer=pb.ER_TINY_RENDERER,
        physicsClientId=client,
    )
    return np.asarray(pixels, dtype=np.uint8).reshape(HEIGHT, WIDTH, 4)[:, :, :3]
