# SPDX-License-Identifier: MIT
"""The generated robot: every link has an inertia, wheels and casters touch the same floor."""

import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.sim.urdf import (
    CASTER_GAP_M,
    CASTER_LINKS,
    LEFT_JOINT,
    RIGHT_JOINT,
    RobotModel,
    robot_urdf,
)


def _robot(model: RobotModel | None = None) -> ET.Element:
    return ET.fromstring(robot_urdf(model))  # noqa: S314  our own text


def _depths(robot: ET.Element) -> dict[str, float]:
    """Depth of the lowest point of each ball below the body's centre."""
    radius = {
        link.attrib["name"]: float(ball.attrib["radius"])
        for link in robot.iter("link")
        if (ball := link.find("collision/geometry/sphere")) is not None
    }
    depths = {}
    for joint in robot.iter("joint"):
        child, origin = joint.find("child"), joint.find("origin")
        assert child is not None
        assert origin is not None
        name = child.attrib["link"]
        depths[name] = radius[name] - float(origin.attrib["xyz"].split()[2])
    return depths


@given(
    radius=st.floats(0.03, 1.0),
    wheel=st.floats(0.2, 0.6),
    track=st.floats(0.5, 2.0),
    mass=st.floats(0.1, 50.0),
)
def test_wheels_and_casters_of_links_reach_the_same_depth(
    radius: float, wheel: float, track: float, mass: float
) -> None:
    try:
        model = RobotModel(
            radius_m=radius,
            height_m=0.8 * radius,
            mass_kg=mass,
            wheel_radius_m=wheel * radius,
            track_m=track * radius,
            merge_links=False,
        )
    except InputError:
        assume(False)
    depths = _depths(_robot(model))
    assert len(depths) == 4
    assert max(depths.values()) - min(depths.values()) < 1e-5 * radius
    assert math.isclose(depths[CASTER_LINKS[0]], model.depth_m, rel_tol=1e-4)


def test_every_link_has_a_mass_and_a_positive_inertia() -> None:
    links = [*_robot().iter("link"), *_robot(RobotModel(merge_links=False)).iter("link")]
    assert len(links) == 8
    for link in links:
        mass, inertia = link.find("inertial/mass"), link.find("inertial/inertia")
        assert mass is not None
        assert float(mass.attrib["value"]) > 0
        assert inertia is not None
        axes = [float(inertia.attrib[name]) for name in ("ixx", "iyy", "izz")]
        assert min(axes) >= 1e-5 * (1 - 1e-9)
        assert 2 * max(axes) <= sum(axes)  # what a real body can have


@given(radius=st.floats(0.03, 1.0))
def test_casters_are_shapes_of_the_body_just_above_the_floor(radius: float) -> None:
    model = RobotModel.of_radius(radius)
    robot = _robot(model)
    assert len(robot.findall("link")) == 3
    base = robot.find("link[@name='base']")
    assert base is not None
    depths = []
    for shape in base.findall("collision"):
        ball, origin = shape.find("geometry/sphere"), shape.find("origin")
        if ball is not None and origin is not None:
            drop = -float(origin.attrib["xyz"].split()[2])
            depths.append(drop + float(ball.attrib["radius"]))
    assert depths == [pytest.approx(model.depth_m - CASTER_GAP_M, rel=1e-4)] * 2


@given(radius=st.floats(0.02, 2.0))
def test_reference_robot_scales_to_any_radius(radius: float) -> None:
    model = RobotModel.of_radius(radius)
    assert math.isclose(model.depth_m, 0.65 * radius)


def test_reference_robot_has_the_documented_sizes() -> None:
    model = RobotModel()
    assert RobotModel.of_radius(0.1).mass_kg == pytest.approx(model.mass_kg)
    assert math.isclose(model.depth_m, 0.065)
    assert math.isclose(model.caster_radius_m, 0.0148)
    robot = _robot()
    assert {joint.attrib["name"] for joint in robot.iter("joint")} >= {LEFT_JOINT, RIGHT_JOINT}
    assert len(robot_urdf()) < 3000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mass_kg": 0.0}, "mass_kg = 0.0"),
        ({"track_m": 0.3}, "exceeds the body's diameter"),
        ({"wheel_radius_m": 0.02}, "no room for casters"),
        ({"height_m": 0.2}, "would touch the floor"),
    ],
)
def test_impossible_robot_is_refused_in_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        RobotModel(**change)
