# SPDX-License-Identifier: MIT
"""`kofn hw localise` and `lens`: the process of the overhead camera, and its calibration."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock, MonotonicClock
from kofn.controller.link.secret_files import PUBLIC, write_atomic
from kofn.hardware.fleet_file import read_fleet
from kofn.launch import options
from kofn.launch.access_options import ANONYMOUS, Access, with_access
from kofn.launch.output import emit
from kofn.launch.signals import StopFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kofn.hardware.localise.camera import CameraFile
    from kofn.hardware.localise.localiser import Frame, TaggedRobot

_OWN = {"tag": "tag", "height_m": "tag_height_m"}


@with_access
def localise(
    camera: Annotated[Path, typer.Argument(help="The camera file, as `kofn hw lens` makes it.")],
    robots: Annotated[Path, typer.Argument(help="The fleet file; robots with a `tag` are seen.")],
    broker: options.BrokerUrl,
    source: Annotated[
        str, typer.Option(help="Number of an attached camera, a film, or a folder of pictures.")
    ] = "0",
    separation: Annotated[
        float | None,
        typer.Option(help="Least distance between robots, m; who is near waits."),
    ] = None,
    v_max: Annotated[float, typer.Option(help="No robot is faster, m/s.")] = 1.0,
    fleet: options.Fleet = "fleet",
    look: Annotated[
        bool, typer.Option("--look", help="Say which tags one picture shows, and end.")
    ] = False,
    access: Access = ANONYMOUS,
    json: options.Json = False,
) -> None:
    """See where robots are and tell their hosts, ten times a second, until stopped."""
    from kofn.hardware.localise.camera import read_camera
    from kofn.hardware.localise.localiser import Localiser

    _need_opencv()
    file, clock = read_camera(camera), MonotonicClock()
    connection = access.connect(fleet, broker)
    wearers = tagged_robots(robots)
    watcher = Localiser(
        fleet=fleet,
        robots=wearers,
        camera=file,
        transport=connection.transport(clock),
        clock=clock,
        v_max=v_max,
        separation_m=separation,
    )
    frames = _frames(source, file, clock)
    first = _first(frames, source)  # before anything is connected
    if look:
        _tell_tags(first, file, {robot.tag: robot.robot for robot in wearers}, json)
        return
    watcher.open()
    stop = StopFlag()
    try:
        watcher.see(first)
        watcher.run(frames, stop)
    finally:
        watcher.close()
    counts = dict(sorted(watcher.counters.items()))
    lines = [f"{name}: {number}" for name, number in counts.items()]
    emit({"counters": counts, "stopped_by": stop.signal or None}, lines, as_json=json)


def lens(
    pictures: Annotated[Path, typer.Argument(help="Folder of pictures of one printed sheet.")],
    numbers: Annotated[list[int], typer.Argument(help="The sheet's tags, as given to `tags`.")],
    side: Annotated[float, typer.Option(help="Side of a tag's black square, m.")],
    out: Annotated[Path, typer.Option(help="The camera file.")] = Path("camera.toml"),
    floor: Annotated[
        str | None,
        typer.Option(
            help='Floor tags as JSON: [{"id": 580, "x": -1.7, "y": -1.2}, ..]; '
            "default: those of the file that is replaced."
        ),
    ] = None,
    floor_side: Annotated[float, typer.Option(help="Side of the floor's tags, m.")] = 0.12,
    json: options.Json = False,
) -> None:
    """Find a camera's lens from tilted pictures of a sheet of `kofn hw tags`; write its file."""
    from kofn.hardware.localise.camera import CameraFile, FloorTag, read_camera
    from kofn.hardware.localise.detect import TagDetector
    from kofn.hardware.localise.lens import solve_lens
    from kofn.hardware.localise.localiser import folder_frames
    from kofn.launch.tag_sheets import sheet_corners

    _need_opencv()
    if floor is None and not out.exists():
        raise InputError(f"{out} is not there yet, so name the floor's tags: --floor")
    if floor is None:
        places, floor_side = (old := read_camera(out)).floor, old.floor_side_m
    else:
        try:
            places = msgspec.json.decode(floor.encode(), type=list[FloorTag])
        except msgspec.MsgspecError as error:
            raise InputError(f"--floor: {error}") from error
    sheet = sheet_corners(numbers, side)
    sizes, views = set(), []
    for frame in folder_frames(pictures, MonotonicClock()):
        height, width = frame.picture.shape[:2]
        sizes.add((width, height))
        views.append(TagDetector(width=width).find(frame.picture).corners)
    if len(sizes) > 1:
        raise InputError(f"the pictures of {pictures} are not of one size")
    ((width, height),) = sizes
    found = solve_lens(views, sheet, (width, height))
    try:
        made = CameraFile(
            width=width,
            height=height,
            focal_px=found.focal_px,
            centre_px=found.centre_px,
            distortion=found.distortion,
            floor=places,
            floor_side_m=floor_side,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    write_atomic(out, msgspec.toml.encode(made).decode(), PUBLIC)
    lines = [
        f"{found.views} of {len(views)} pictures; corners fit to {found.error_px:.2f} px",
        f"focal length {found.focal_px[0]:.1f} px, known to {100 * found.spread:.2f} %",
        f"written: {out}",
    ]
    emit({"path": str(out), "pictures": len(views), **found._asdict()}, lines, as_json=json)


def tagged_robots(path: Path) -> "list[TaggedRobot]":
    """Robots of a fleet file that wear a tag and are enabled.

    Raises
    ------
    InputError
        None does, or a tag or height is out of range.
    """
    from kofn.hardware.localise.localiser import TaggedRobot

    found = []
    for name, entry in sorted(read_fleet(path).items()):
        if entry.get("tag") is None or not entry.get("enabled", True):
            continue
        row = {"robot": name, "host": entry.get("host", name.rsplit(".", 1)[0])}
        row |= {key: entry.get(own) for key, own in _OWN.items() if entry.get(own) is not None}
        try:
            found.append(msgspec.convert(row, TaggedRobot))
        except (msgspec.ValidationError, InputError) as error:
            raise InputError(f"{path}: robots.{name}: {error}") from error
    if not found:
        raise InputError(f"{path}: no robot has a tag")
    return found


def first_picture(camera: Path, source: str, clock: Clock) -> "tuple[CameraFile, Frame]":
    """Return a camera's file and one picture of it; raises `InputError` or `RunError`."""
    from kofn.hardware.localise.camera import read_camera

    _need_opencv()
    file = read_camera(camera)
    frames = _frames(source, file, clock)
    return file, _first(frames, source)


def _first(frames: "Iterator[Frame]", source: str) -> "Frame":
    first = next(frames, None)
    if first is None:
        raise InputError(f"{source} has no pictures")
    return first


def _tell_tags(frame: "Frame", camera: "CameraFile", names: dict[int, str], json: bool) -> None:
    """Print how large each expected tag is in a picture; code 2 when one is missing or small."""
    from kofn.hardware.localise.tag_sizes import HINT, seen_tags

    seen = seen_tags(frame.picture, camera, names)
    lines = [f"{'ok  ' if s.ok else 'FAIL'}  tag {s.tag:<4} {s.wearer}: {s.words}" for s in seen]
    missed = not all(s.ok for s in seen)
    if missed:
        lines.append(f"hint: {HINT}")
    rows = [{"tag": s.tag, "wearer": s.wearer, "side_px": s.side_px, "ok": s.ok} for s in seen]
    emit({"ok": not missed, "tags": rows}, lines, as_json=json)
    if missed:
        raise typer.Exit(2)


def _frames(source: str, camera: "CameraFile", clock: Clock) -> "Iterator[Frame]":
    from kofn.hardware.localise.localiser import PERIOD_S, camera_frames, folder_frames

    if source.isdecimal():
        return camera_frames(int(source), camera, clock)
    path = Path(source)
    if not path.exists():
        raise InputError(f"--source {source} is no camera's number, film or folder")
    recorded = (
        folder_frames(path, clock)
        if path.is_dir()
        else camera_frames(os.fspath(path), camera, clock)
    )
    return _paced(recorded, PERIOD_S)


def _paced(frames: "Iterator[Frame]", period_s: float) -> "Iterator[Frame]":
    """Recorded pictures come by themselves; they are shown as a camera would take them."""
    for frame in frames:
        yield frame
        time.sleep(period_s)


def _need_opencv() -> None:
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise RunError("the camera needs OpenCV: install kofn[hardware]") from None
