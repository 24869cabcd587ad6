# SPDX-License-Identifier: MIT
"""Robot models from a file: named wheels drive them, and what cannot turn is refused."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.hardware.ring import RingLayout
from kofn.sim.robots import RobotSpec
from kofn.sim.urdf import RobotModel, robot_urdf
from kofn.sim.worlds import make_world

pytestmark = pytest.mark.bullet
pytest.importorskip("pybullet", reason="needs kofn[sim]: PyBullet has no wheel for this Python")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The reference robot under other names, casters with joints of their own."""
    text = robot_urdf(RobotModel(merge_links=False))
    text = text.replace('"left_wheel"', '"port"').replace('"right_wheel"', '"starboard"')
    path = tmp_path / "mine.urdf"
    path.write_text(text)
    return path


def _spec(path: Path, left: str = "port", right: str = "starboard") -> RobotSpec:
    return RobotSpec(
        urdf=str(path),
        left_wheels=(left,),
        right_wheels=(right,),
        track_m=0.16,
        wheel_radius_m=0.035,
    )


def test_a_model_from_a_file_drives_to_the_next_zone(model: Path) -> None:
    world = make_world("bullet", 2, RingLayout(), robot=_spec(model))
    world.reset(3)
    before = world.observe().zones
    world.apply(np.array([1, 2]))
    world.advance(6.0)
    after = world.observe()
    assert after.up.all()
    assert after.zones.tolist() == ((before + np.array([1, -1])) % 5).tolist()
    world.close()


@pytest.mark.parametrize(
    ("left", "right", "sentence"),
    [
        ("port", "rudder", "has no joint 'rudder'; it has port, starboard"),
        ("starboard", "port", "on the spot where its wheels should turn it by 1.5 rad"),
        ("caster_front_mount", "caster_back_mount", "at least 0.45 rad are needed"),
    ],
)
def test_a_model_that_cannot_turn_on_the_spot_is_refused(
    model: Path, left: str, right: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        make_world("bullet", 2, RingLayout(), robot=_spec(model, left, right))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.urdf").write_text("<robot>")
    with pytest.raises(InputError, match="cannot load robot urdf"):
        make_world("bullet", 2, RingLayout(), robot=_spec(tmp_path / "broken.urdf"))


@pytest.mark.parametrize("merge_links", [False, True])
def test_links_of_a_model_from_a_file_stay_as_they_are(model: Path, merge_links: bool) -> None:
    with pytest.raises(InputError, match="merge_links is for our own robot"):
        msgspec.structs.replace(_spec(model), merge_links=merge_links)
