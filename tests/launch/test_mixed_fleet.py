# SPDX-License-Identifier: MIT
"""One fleet of hosts of all kinds without hardware: worlds, boards, drivers of real robots."""

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.record import read_decisions
from kofn.hardware.firmware_bench import find_micropython
from kofn.launch.fleet import run_scenario
from kofn.launch.scenario import HostSection, PolicySection, Scenario
from kofn.launch.scenario_file import load_scenario
from kofn.launch.truth import read_truth
from kofn.sim.film import Film


def smaller(scenario: Scenario, policy: Path) -> Scenario:
    """One or two hosts of each kind, in a ring that is crossed in two seconds."""
    names = ("sim", "board-0", "board-1", "serial-0", "ros", "vda")
    hosts = [host for host in scenario.hosts if host.name in names]
    hosts[0] = msgspec.structs.replace(hosts[0], robots=2)
    return msgspec.structs.replace(
        scenario,
        hosts=hosts,
        k=5,
        steps=4,
        policy=PolicySection(file=str(policy)),
        time=msgspec.structs.replace(scenario.time, period_s=2.0),
        arena=msgspec.structs.replace(
            scenario.arena,
            inner_m=0.3,
            outer_m=0.8,
            lane_minus_m=0.42,
            lane_park_m=0.55,
            lane_plus_m=0.68,
            robot_radius_m=0.05,
        ),
    )


def test_the_mixed_fleet_is_the_one_that_is_named() -> None:
    scenario = load_scenario("mixed_fleet")
    robots: Counter[str] = Counter()
    for host in scenario.hosts:
        robots[host.kind] += host.robots
    assert robots == {
        "swarm": 10,
        "firmware": 20,
        "fake-serial": 5,
        "fake-rosbridge": 1,
        "fake-vda5050": 2,
    }
    assert (scenario.steps, scenario.broker.tls, scenario.pace) == (200, "auto", "realtime")
    assert {host.zone for host in scenario.hosts if host.kind == "firmware"} == set(range(5))


@pytest.mark.e2e
@pytest.mark.broker
@pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH")
def test_all_kinds_take_part_and_gather_in_the_target(policy_file: Path, tmp_path: Path) -> None:
    try:
        find_micropython()
    except InputError as missing:
        pytest.skip(str(missing))
    pytest.importorskip("pybullet", reason="needs kofn[sim]: no wheel for this Python")
    pytest.importorskip("serial", reason="needs kofn[hardware]")
    pytest.importorskip("websockets", reason="needs kofn[hardware]")
    scenario = smaller(load_scenario("mixed_fleet"), policy_file).checked()
    result = run_scenario(scenario, runs=tmp_path, video=False)
    assert (result["broker"], result["robots"], result["steps"]) == ("mosquitto", 8, 4)
    kinds = result["kinds"]
    assert set(kinds) == {host.kind for host in scenario.hosts}
    for row in kinds.values():
        assert row["steps_taken"] >= 0.5  # a loaded machine may let one slip
        assert row["available"] >= 0.5
        assert row["answered"] >= row["asked"] / 2
    assert sum(row["asked"] for row in kinds.values()) >= 4 * 5
    # The policy holds one target, and robots of each kind that are elsewhere go there.
    assert sum(row["changed_zone"] for row in kinds.values()) >= 4
    folder = Path(result["run_dir"])
    truth = read_truth(folder)
    inside = (truth.zones == truth.g[:, None]).sum(axis=1)
    assert inside[-1] > inside[0]
    assert len(read_decisions(folder)) == 4
    # Every kind has poses; all but the simulated world are drawn in one arena.
    arenas = Film(folder / "hosts").at(5.0).arenas
    assert sorted((view.host, len(view.poses)) for view in arenas) == [("5 hosts", 6), ("sim", 2)]
    boxes = sorted(path.parent.name for path in (folder / "robots").glob("*/black-box-*.jsonl"))
    assert boxes == ["ros", "serial-0", "vda"]
    armed = (folder / "robots" / "serial-0").glob("*.jsonl")
    assert '"forced":true' in next(armed).read_text()  # nobody has run a self-test


def fleet(**host: object) -> Scenario:
    broker = {"tls": "auto"}
    tables = {"name": "f", "k": 1, "broker": broker, "hosts": [{"name": "h", **host}]}
    return msgspec.convert(tables, Scenario)


@pytest.mark.parametrize("kind", ["swarm", "robot", "firmware"])
def test_a_scenario_arms_nothing_but_fakes(kind: str) -> None:
    with pytest.raises(InputError, match="arm is for devices that are fakes"):
        fleet(kind=kind, arm=True).checked()


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("fake-serial", {"port": "/dev/ttyUSB0"}),
        ("fake-create2", {"port": "/dev/ttyUSB0"}),
        ("fake-rosbridge", {"url": "ws://10.0.0.7:9090"}),
        ("fake-vda5050", {"url": "mqtt://10.0.0.7"}),
    ],
)
def test_a_scenario_cannot_point_an_armed_driver_at_a_real_device(
    kind: str, setting: dict[str, str]
) -> None:
    with pytest.raises(InputError, match=r"says where a device is; that of a fake is made for it"):
        fleet(kind=kind, arm=True, settings=setting).checked()


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ({"kind": "fake-serial", "robots": 2}, "has 1 robot, not 2"),
        ({"kind": "fake-serial", "settings": {"colour": 1}}, "colour"),
        ({"kind": "fake-vda5050", "settings": {"colour": 1}}, "unknown field `colour`"),
        ({"kind": "firmware", "settings": {"colour": 1}}, "has no driver to set"),
    ],
)
def test_a_fake_that_cannot_be_is_one_sentence(host: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        fleet(**host).checked()


def test_fakes_run_at_speed_one_and_vehicles_need_certificates() -> None:
    fast = msgspec.structs.replace(
        fleet(kind="fake-serial"),
        time=msgspec.convert({"speed": 2.0}, type(Scenario(hosts=[]).time)),
    )
    with pytest.raises(InputError, match="runs at speed 1, not 2"):
        fast.checked()
    plain = Scenario(hosts=[HostSection(name="h", kind="fake-vda5050")], k=1)
    with pytest.raises(InputError, match=r"set broker.tls = 'auto'"):
        plain.checked()


@pytest.mark.parametrize(
    ("broker", "sentence"),
    [
        ({"signed": True}, r"broker.signed needs the message keys .* broker.tls"),
        ({"signed": True, "tls": "auto"}, "host 'h' is a board, whose firmware does not sign"),
    ],
)
def test_messages_are_signed_where_everybody_has_a_key(
    broker: dict[str, object], sentence: str
) -> None:
    section = msgspec.convert(broker, type(Scenario(hosts=[]).broker))
    signed = Scenario(hosts=[HostSection(name="h", kind="firmware")], k=1, broker=section)
    with pytest.raises(InputError, match=sentence):
        signed.checked()
