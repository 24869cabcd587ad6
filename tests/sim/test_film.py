# SPDX-License-Identifier: MIT
"""The film: what it shows at each time, where things are in a picture, and torn logs."""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.link.hostlog import Header, HostLog, Poses, StepTaken
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout, sector_centres
from kofn.sim import video
from kofn.sim.film import ArenaView, Film, Moment, Scene

pytest.importorskip("PIL", reason="needs kofn[sim]")

from PIL import Image, ImageColor

from kofn.sim import draw
from kofn.sim.side_by_side import Panel, write_comparison
from kofn.sim.still import write_still

OPTION_S = 2.0
LAYOUT = RingLayout()


def _place(zone: int, radius: float = 1.5) -> tuple[float, float, float]:
    angle = float(sector_centres(LAYOUT)[zone])
    return radius * math.cos(angle), radius * math.sin(angle), angle


def _write_host(
    folder: Path, host: str, *, start_s: float = 0.0, skip: frozenset[int] = frozenset()
) -> Path:
    """Two robots and three steps: robot 0 stays in zone 0, robot 1 goes 1, 2, 3; targets 0 0 2."""
    path = folder / "hosts" / f"{host}.jsonl"
    with HostLog(path) as log:
        log.write(
            Header(
                host=host,
                robots=[f"{host}.r0", f"{host}.r1"],
                arena=LAYOUT.as_arena(),
                option_s=OPTION_S,
                seed=1,
                backend="bullet",
                versions={},
            )
        )
        log.write(Poses(time_s=start_s, p=[_place(0), _place(1)]))
        now_s = start_s
        for t, target in enumerate((0, 0, 2)):
            if t in skip:
                continue
            step = StepTaken(ep=1, t=t, g=target, u=0, time_s=now_s, z=[0, 1 + t], a=[0, 1])
            log.write(step)
            log.write(Poses(time_s=now_s + 1.0, p=[_place(0), _place(1 + t)]))
            log.write(Poses(time_s=now_s + 2.0, p=[_place(0), _place(2 + t)]))
            now_s += OPTION_S
    return path


def test_film_time_follows_the_steps_whatever_the_hosts_clocks_say(tmp_path: Path) -> None:
    _write_host(tmp_path, "h0")
    _write_host(tmp_path, "h1", start_s=500.0)
    film = Film(tmp_path / "hosts")
    assert film.duration_s == 6.0
    assert film.targets == [0, 0, 2]
    for time_s in (0.0, 1.0, 2.5, 5.9):
        first, second = film.at(time_s).arenas
        assert np.allclose(first.poses, second.poses)
    assert np.allclose(film.at(1.0).arenas[0].poses[1], _place(1))
    assert np.allclose(film.at(2.0 - 1e-9).arenas[0].poses[1], _place(2))


def test_share_counts_robots_in_the_target_zone_now(tmp_path: Path) -> None:
    _write_host(tmp_path, "h0")
    film = Film(tmp_path / "hosts")
    assert film.at(0.5).counted == (1, 2)
    assert film.at(4.0).share == 0.0
    moment = film.at(0.5)
    away = replace(moment.arenas[0], up=np.array([True, False]))
    assert replace(moment, arenas=(away,)).counted == (1, 1)


def test_polled_robots_are_those_of_the_step_shown(tmp_path: Path) -> None:
    _write_host(tmp_path, "h0")
    film = Film(tmp_path / "hosts", {1: {"h0.r1", "elsewhere"}})
    assert film.at(1.0).arenas[0].polled.tolist() == [False, False]
    assert film.at(3.0).arenas[0].polled.tolist() == [False, True]


def test_host_that_missed_a_step_stands_still_and_is_not_counted(tmp_path: Path) -> None:
    _write_host(tmp_path, "h0")
    _write_host(tmp_path, "h1", skip=frozenset({1}))
    film = Film(tmp_path / "hosts")
    moment = film.at(3.0)
    assert [view.silent for view in moment.arenas] == [False, True]
    assert moment.counted == (1, 2)
    assert np.allclose(film.at(2.1).arenas[1].poses, film.at(3.9).arenas[1].poses)


def test_hosts_that_are_no_simulated_world_are_drawn_in_one_arena(tmp_path: Path) -> None:
    for host, backend in (("sim", "bullet"), ("board", "firmware"), ("edge", "vda5050")):
        path = _write_host(tmp_path, host, skip=frozenset({1} if host == "edge" else ()))
        path.write_text(path.read_text().replace('"bullet"', f'"{backend}"'))
    moment = Film(tmp_path / "hosts").at(3.0)
    together, alone = moment.arenas
    assert (together.host, len(together.poses), alone.host) == ("2 hosts", 4, "sim")
    assert together.up.tolist() == [True, True, False, False]  # the edge missed the step
    assert moment.counted == (2, 4)


def test_torn_log_of_a_killed_host_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    _write_host(tmp_path, "h0")
    path = _write_host(tmp_path, "h1")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.7 * len(whole))])
    film = Film(tmp_path / "hosts")
    assert len(film.at(5.5).arenas) == 2
    path.write_bytes(whole[: int(0.7 * len(whole))] + b"\x00torn\n")
    assert len(Film(tmp_path / "hosts").at(5.5).arenas) == 2


def test_logs_without_poses_are_no_film(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    with pytest.raises(InputError, match="no log"):
        Film(tmp_path / "hosts")
    (tmp_path / "hosts" / "h0.jsonl").write_bytes(b"")
    assert video.write_video(tmp_path) is None


def _moment(
    robots: list[tuple[float, float, float]], *, arenas: int = 1, polled: bool = False
) -> Moment:
    n = len(robots)
    view = ArenaView(
        host="h0",
        layout=LAYOUT,
        poses=np.array(robots),
        actions=np.ones(n, dtype=np.int64),
        up=np.ones(n, dtype=np.bool_),
        polled=np.full(n, polled),
    )
    return Moment(3.0, 1, 2, (view,) * arenas)


def _colour(image: Image.Image, cell: draw.Cell, x_m: float, y_m: float) -> tuple[int, ...]:
    x, y = cell.pixel(x_m, y_m)
    pixel = image.getpixel((round(x), round(y)))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("arenas", [1, 2, 5])
def test_sectors_and_robots_are_where_the_arena_has_them(
    monkeypatch: pytest.MonkeyPatch, arenas: int
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    moment = _moment([_place(4)], arenas=arenas)
    image = draw.draw_frame(Scene("title", 10.0), moment)
    assert image.size == (1280, 720)
    cells = draw.cells([LAYOUT] * arenas)
    assert len({(cell.x, cell.y) for cell in cells}) == arenas
    for cell in cells:
        for zone in range(4):
            x, y, _ = _place(zone)
            expected = draw.TARGET_FILL if zone == 2 else draw.FLOOR
            assert _colour(image, cell, x, y) == ImageColor.getrgb(expected)
        x, y, yaw = _place(4)
        beside = x - 0.05 * math.sin(yaw), y + 0.05 * math.cos(yaw)
        assert _colour(image, cell, *beside) == ImageColor.getrgb(draw.PLUS)


def test_polled_robot_has_a_ring_and_an_unavailable_one_is_white() -> None:
    scene = Scene("title", 10.0)
    cell = draw.cells([LAYOUT])[0]
    x, y, _ = _place(0)
    for polled in (False, True):
        image = draw.draw_frame(scene, _moment([_place(0)], polled=polled))
        ring = _colour(image, cell, x + 0.145, y) == ImageColor.getrgb(draw.POLLED)
        assert ring is polled
    moment = _moment([(x, y, 0.0)])
    down = replace(moment.arenas[0], up=np.array([False]))
    image = draw.draw_frame(scene, replace(moment, arenas=(down,)))
    assert _colour(image, cell, x - 0.04, y) == ImageColor.getrgb(draw.DOWN)


def test_pose_that_is_not_finite_is_left_out() -> None:
    scene = Scene("title", 10.0)
    empty = draw.draw_frame(scene, _moment([(math.nan, 0.0, 0.0)]))
    there = draw.draw_frame(scene, _moment([_place(0)]))
    assert np.asarray(empty).shape == np.asarray(there).shape
    assert not np.array_equal(np.asarray(empty), np.asarray(there))


def test_mp4_has_the_length_and_size_that_were_asked_for(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2", reason="needs kofn[sim]")
    pytest.importorskip("imageio_ffmpeg", reason="needs kofn[sim]")
    _write_host(tmp_path, "h0")
    path = video.write_video(tmp_path, polled={0: {"h0.r1"}}, title="three steps", film_s=2.0)
    assert path == tmp_path / "video.mp4"
    with imageio.get_reader(path) as reader:
        about = reader.get_meta_data()
    assert about["size"] == (1280, 720)
    assert about["duration"] == pytest.approx(2.0 + video.TAIL_S, abs=0.2)


def test_missing_pillow_is_no_film_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "kofn.sim.draw")
    monkeypatch.delattr("kofn.sim.draw")
    monkeypatch.setitem(sys.modules, "PIL", None)
    _write_host(tmp_path, "h0")
    assert video.write_video(tmp_path) is None
    assert "kofn[sim]" in caplog.text


def test_film_that_cannot_be_written_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("imageio.v2.get_writer", full_disk)
    _write_host(tmp_path, "h0")
    assert video.write_video(tmp_path) is None
    assert "No space left" in caplog.text


def test_gif_is_written_where_there_is_no_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "has_ffmpeg", lambda: False)
    _write_host(tmp_path, "h0")
    path = video.write_video(tmp_path, film_s=2.0)
    assert path == tmp_path / "video.gif"
    with Image.open(path) as image:
        assert image.size == (640, 360)
        assert getattr(image, "n_frames", 1) >= 10


def test_runs_side_by_side_share_one_clock_and_a_short_one_stands_at_its_end(
    tmp_path: Path,
) -> None:
    for name, skip in (("long", frozenset[int]()), ("short", frozenset({1, 2}))):
        _write_host(tmp_path / name, "h0", skip=skip)
    panels = [Panel(tmp_path / name, name) for name in ("long", "short")]
    path = write_comparison(panels, tmp_path / "both.gif", film_s=2.0)
    assert path is not None
    with Image.open(path) as film:
        assert film.size == (960, 272)
        frames = [np.asarray(film.convert("RGB")).astype(int) for _ in _seek(film)]
    left, right = [[frame[:, side] for frame in frames] for side in (slice(480), slice(480, None))]
    # A GIF's colours flicker a little from one picture to the next.
    changes = [
        sum(int((np.abs(a - b) > 64).sum()) > 20 for a, b in pairwise(half))
        for half in (left, right)
    ]
    assert changes[0] > changes[1] > 0


def test_a_grid_is_drawn_cell_by_cell_with_a_colour_for_each_direction() -> None:
    layout = GridLayout(columns=3, rows=2)
    centres = np.column_stack([layout.centres()[:5], np.zeros(5)])
    view = ArenaView(
        host="g",
        layout=layout,
        poses=centres,
        actions=np.arange(5),
        up=np.ones(5, dtype=np.bool_),
        polled=np.zeros(5, dtype=np.bool_),
    )
    image = draw.draw_frame(Scene("t", 10.0), Moment(0.0, 0, 5, (view,)))
    (cell,) = draw.cells([layout])
    shift = 0.06 * cell.scale  # beside the nose
    for i, (x, y, _) in enumerate(centres.tolist()):
        px, py = cell.pixel(x, y)
        seen = image.getpixel((round(px - shift), round(py)))
        assert seen == ImageColor.getrgb(draw.ACTION_COLOURS[i])
    px, py = cell.pixel(*layout.centres()[5])
    assert image.getpixel((round(px), round(py))) == ImageColor.getrgb(draw.TARGET_FILL)


def _seek(film: Image.Image) -> Iterator[int]:
    for i in range(getattr(film, "n_frames", 1)):
        film.seek(i)
        yield i


@pytest.mark.parametrize(
    ("count", "name", "sentence"),
    [(0, "a.gif", "a film of 0 runs"), (1, "a.avi", "must end in .mp4 or .gif")],
)
def test_impossible_comparison_is_refused(
    tmp_path: Path, count: int, name: str, sentence: str
) -> None:
    _write_host(tmp_path, "h0")
    with pytest.raises(InputError, match=sentence):
        write_comparison([Panel(tmp_path, "x")] * count, tmp_path / name)


@pytest.mark.bullet
def test_a_picture_in_three_dimensions_shows_the_target_and_needs_no_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pybullet", reason="needs kofn[sim]")
    monkeypatch.delenv("DISPLAY", raising=False)
    _write_host(tmp_path, "h0")
    with Image.open(write_still(tmp_path)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (540, 960, 3)
    green = (pixels[:, :, 1] > pixels[:, :, 0] + 20) & (pixels[:, :, 1] > pixels[:, :, 2] + 20)
    # A fifth of the ring's floor, seen from the side.
    assert 0.01 < green.mean() < 0.2
