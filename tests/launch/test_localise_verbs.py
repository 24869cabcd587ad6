# SPDX-License-Identifier: MIT
"""`kofn hw localise` and `kofn hw lens` on synthetic pictures and a real broker."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from kofn_process import Kofn
from plain_broker import PlainBroker, plain_broker

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Pose, decode
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Session
from kofn.hardware.localise.camera import CameraFile, read_camera, straighten
from kofn.hardware.localise.synthetic import Scene, Studio, Truth, make_camera
from kofn.launch.doctor_lines import camera_lines
from kofn.launch.tag_sheets import place_on_page
from kofn.launch.verbs_localise import lens, localise

cv2 = pytest.importorskip("cv2", reason="opencv is not installed (extra hardware)")

FLEET = """
[all]
tag_height_m = 0.1
[robots."cart.r0"]
tag = 3
[robots.r1]
tag = 4
host = "other"
[robots.r2]
tag = 5
enabled = false
[robots.r3]
driver = "serial"
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[PlainBroker]:
    with plain_broker(tmp_path) as made:
        yield made


def write_scene(folder: Path, pictures: int) -> dict[int, Truth]:
    """Write pictures of robots 3, 4 and 5, and the files of camera and fleet."""
    scene = Studio(make_camera(), np.random.default_rng(3))
    truth = {3: Truth(0.0, 0.0, 0.0), 4: Truth(0.5, 0.0, np.pi), 5: Truth(-1.0, 0.8, 0.3)}
    shots = folder / "shots"
    shots.mkdir()
    for i in range(pictures):
        cv2.imwrite(str(shots / f"{i}.png"), scene.shoot(truth))
    (folder / "camera.toml").write_bytes(msgspec.toml.encode(make_camera()))
    (folder / "fleet.toml").write_text(FLEET)
    return truth


def test_a_folder_of_pictures_becomes_poses_at_a_real_broker(
    kofn: Kofn, broker: PlainBroker, tmp_path: Path
) -> None:
    truth = write_scene(tmp_path, 3)
    listener = MqttTransport(broker.url, MonotonicClock())
    listener.open(Session("ear", [("kofn1/f/pose/+", 0)], lambda _c: None, lambda _c: ()))
    try:
        done = kofn.run(
            "hw", "localise", str(tmp_path / "camera.toml"), str(tmp_path / "fleet.toml"),
            "--broker", broker.url, "--fleet", "f", "--source", str(tmp_path / "shots"), "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        heard: dict[str, Any] = {}
        while (message := listener.receive(1.0)) is not None and len(heard) < 2:
            heard[message.topic] = decode(Pose, message.payload).r
    finally:
        listener.close([])
    assert sorted(heard) == ["kofn1/f/pose/cart", "kofn1/f/pose/other"]
    (row,) = heard["kofn1/f/pose/cart"]
    assert row.id == "cart.r0"
    assert np.hypot(row.x - truth[3].x, row.y - truth[3].y) < 0.01
    counters = json.loads(done.stdout)["counters"]
    assert counters["pictures"] == 3
    assert counters["fixes"] == 6  # r2 is disabled, r3 wears no tag


def test_one_look_says_which_tags_are_seen_and_how_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(tmp_path, 1)
    files = {"camera": tmp_path / "camera.toml", "robots": tmp_path / "fleet.toml"}
    see = partial(localise, **files, broker="mqtt://127.0.0.1:1", source=str(tmp_path / "shots"))
    see(look=True, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert {row["wearer"] for row in told["tags"]} == {"floor", "cart.r0", "r1"}
    # 12 cm, 3.5 m below a camera of 1024 px focal length.
    assert all(30 < row["side_px"] < 42 for row in told["tags"])
    shots = str(tmp_path / "shots")
    seen = camera_lines(files["camera"], files["robots"], shots)
    assert [line.ok for line in seen] == [True] * len(seen)
    assert {line.seen.split(":")[0] for line in seen[1:]} == {"floor", "cart.r0", "r1"}
    files["robots"].write_text("[robots.r9]\ntag = 9\n")
    *_, missing = camera_lines(files["camera"], files["robots"], shots)
    assert (missing.name, missing.ok, missing.seen) == ("tag 9", False, "r9: not seen")
    assert "larger tags" in missing.hint
    (nothing,) = camera_lines(tmp_path / "none.toml", None, shots)
    assert not nothing.ok
    with pytest.raises(typer.Exit) as ended:
        see(look=True)
    assert ended.value.exit_code == 2
    assert "FAIL  tag 9    r9: not seen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"source": "nowhere"}, "no camera's number, film or folder"),
        ({"separation": "-1"}, "separation_m = -1 must lie above 0"),
        ({"fleet_file": "[robots.r1]\ndriver = 'serial'\n"}, "no robot has a tag"),
        ({"fleet_file": "[robots.r1]\ntag = 580\n"}, "robots.r1: tag 580 must lie in 0..579"),
        ({"fleet_file": "[robots.r1]\ntag = 'x'\n"}, "robots.r1: .*int"),
        ({"camera": "width = 'x'"}, "camera file .*width"),
    ],
)
def test_what_cannot_be_localised_is_one_sentence(
    tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    cv2.imwrite(str(shots / "0.png"), np.zeros((960, 1280), dtype=np.uint8))
    camera, fleet = tmp_path / "camera.toml", tmp_path / "fleet.toml"
    camera.write_bytes(msgspec.toml.encode(make_camera()))
    camera.write_text(change.get("camera", camera.read_text()))
    fleet.write_text(change.get("fleet_file", FLEET))
    with pytest.raises(InputError, match=sentence) as caught:
        localise(
            camera=camera,
            robots=fleet,
            broker="mqtt://127.0.0.1:1",
            source=change.get("source", str(shots)),
            separation=float(change.get("separation", "0.3")),
        )
    assert "\n" not in str(caught.value)


class SheetStudio(Studio):
    """A camera that is held over a printed page, tilted at will."""

    def hold(self, generator: np.random.Generator) -> None:
        """Take another view."""
        a, b, c = generator.uniform(-0.5, 0.5, 3)
        down = np.diag([1.0, -1.0, -1.0])
        turn, _ = cv2.Rodrigues(np.array([a, b, c]))
        self._R = turn @ down
        # A third of a metre above a point near the page, so that it is seen all over the picture.
        aim = np.array([0.105, 0.148, 0.0])
        aim[:2] += generator.uniform(-0.1, 0.1, 2)
        self.place = aim - 0.36 * self._R[:, 2]


def rays(camera: CameraFile) -> np.ndarray:
    """Where pixels of most of the picture look, shape (n, 2), on a plane at distance 1."""
    x, y = np.meshgrid(np.linspace(160, 1120, 9), np.linspace(120, 840, 7))
    straight = straighten(camera, np.column_stack([x.ravel(), y.ravel()]))
    seen: np.ndarray = (straight - np.array(camera.centre_px)) / np.array(camera.focal_px)
    return seen


def test_the_lens_is_found_from_tilted_pictures_of_a_printed_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side, numbers = 0.04, list(range(12))
    shots = tmp_path / "sheet"
    shots.mkdir()
    scene = SheetStudio(make_camera(distortion=-0.1), np.random.default_rng(0))
    for i in range(10):
        scene.hold(np.random.default_rng(i))
        robots = {}
        for place, number in enumerate(numbers):
            x, y = place_on_page(place, side)
            robots[number] = Truth(x + side / 2, y + side / 2, np.pi / 2)
        picture = scene.shoot(robots, Scene(side_m=side, height_m=0.0, noise=2.0))
        cv2.imwrite(str(shots / f"{i}.png"), picture)
    out = tmp_path / "camera.toml"
    floor = json.dumps([msgspec.to_builtins(tag) for tag in make_camera().floor])
    find = partial(lens, shots, numbers, side, out)
    with pytest.raises(InputError, match="name the floor's tags"):
        find()
    find(floor=floor, json=True)
    assert json.loads(capsys.readouterr().out)["error_px"] < 0.7
    found, true = read_camera(out), make_camera(distortion=-0.1)
    assert found.floor == true.floor
    # Not its numbers, which stand in for each other, but the rays that it makes of pixels.
    apart = rays(found) - rays(true)
    assert found.focal_px[0] == pytest.approx(true.focal_px[0], rel=0.02)
    assert np.abs(apart - apart.mean(axis=0)).max() < 0.003  # 3 px; the mean is a turned camera
    for extra in list(shots.glob("*.png"))[4:]:
        extra.unlink()
    with pytest.raises(InputError, match="at least 5 are needed"):
        find()  # with the floor of the file that is there
    assert read_camera(out) == found
