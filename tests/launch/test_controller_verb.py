# SPDX-License-Identifier: MIT
"""`kofn controller`: its options, and one that goes on where another one was killed."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from kofn_process import Kofn, wait_for

from kofn.controller.config import ControllerConfig
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.messages import RobotRange
from kofn.controller.record import RunFolder, read_decisions, read_run
from kofn.launch.entry import run
from kofn.launch.parts import write_credentials
from kofn.launch.scenario import PollingSection

POLLING_PAGE = Path(__file__).resolve().parents[2] / "docs" / "polling.md"
STEPS = 40
WIRE = ("--broker", "mqtt://127.0.0.1:1")
NEW_RUN = ("--policy", "p.npz", "--k", "2", "--robots", "4", "--steps", "3")


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Callable[[str], list[str]]]:
    """Return the options with which `controller` and host `a` reach a broker of our own."""
    names = {"controller": "controller", "a": "host"}
    users = [BrokerUser(name, f"secret-{name}", role) for name, role in names.items()]  # type: ignore[arg-type]
    for user in users:
        write_credentials(tmp_path / f"{user.name}.json", user.name, user.password)
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as broker:
        yield lambda name: [
            *("--broker", broker.url, "--mqtt", broker.protocol),
            *("--credentials", str(tmp_path / f"{name}.json")),
        ]


def decided(folder: Path) -> int:
    return len(read_decisions(folder)) if (folder / "run.mcap").exists() else 0


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_a_killed_controller_is_replaced_and_the_run_finishes(
    kofn: Kofn, wire: Callable[[str], list[str]], policy_file: Path, tmp_path: Path
) -> None:
    allowed = AllowList.of("f", {"a": RobotRange(prefix="a.r", count=4)})
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(allowed.to_toml())
    kofn.start("swarm", *wire("a"), "--fleet", "f", "--host", "a", "--robots", "4")
    settings = ("--fleet", "f", "--k", "2", "--robots", "4", "--steps", str(STEPS), "--seed", "5")
    polling = ("--polling", '{"fill": "known-first"}')
    first = kofn.start(
        "controller", *wire("controller"), *settings, *polling, "--policy", str(policy_file),
        "--hosts", str(hosts),
    )  # fmt: skip
    runs = tmp_path / "runs"
    (folder,) = wait_for(lambda: list(runs.glob("*-f")), "the run folder")
    wait_for(lambda: decided(folder) >= 5, "five steps")
    os.kill(first.pid, signal.SIGKILL)
    killed_ns = time.time_ns()
    done = kofn.json(
        "controller", *wire("controller"), "--resume", str(folder), "--hosts", str(hosts)
    )
    before, again = read_decisions(folder), tmp_path / done["run_dir"]
    after = read_decisions(again)
    assert done["completed"]
    assert done["resumed_from"] == folder.name
    assert [d.t for d in before + after] == list(range(STEPS))
    assert {d.ep for d in before} == {1}
    assert {d.ep for d in after} == {2}
    assert done["first_step"] == len(before)
    settings_kept = [RunFolder(path).read_config()["controller"] for path in (folder, again)]
    assert settings_kept[0] == settings_kept[1]
    assert settings_kept[0]["fill"] == "known-first"
    assert done["unlisted"] == done["overflow"] == done["quarantined_hosts"] == 0
    step_ns = next(entry.time_ns for entry in read_run(again) if entry.kind == "step")
    steering_s = (step_ns - killed_ns) / 1e9
    sys.stdout.write(f"from kill -9 to the first new step: {steering_s:.2f} s\n")
    assert 0 < steering_s < 60


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((*WIRE, "--k", "2"), "--policy, --robots, --steps: needed unless a run is resumed"),
        ((*WIRE, "--resume", "r", "--k", "2", "--seed", "0"), "--k, --seed cannot be given with"),
        ((*WIRE, "--resume", "r"), "run folder r does not exist"),
        ((*WIRE, *NEW_RUN, "--polling", '{"fil": 1}'), "--polling: Object contains unknown field"),
        ((*WIRE, *NEW_RUN, "--polling", '{"m_min": 3}'), "m_min 3 must lie in 0..2, the poll size"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(
    options: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["controller", *options]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert part in sentence
    assert not list(tmp_path.iterdir())


def test_the_allow_list_of_another_fleet_is_refused(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    policy_file: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.toml").write_text(AllowList.of("plant", {}).to_toml())
    options = (*NEW_RUN, "--policy", str(policy_file), "--hosts", "hosts.toml")
    assert run(["controller", *WIRE, *options]) == 2
    assert "that of fleet 'plant', not of 'fleet'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["hosts.toml"]


def test_a_scenario_polls_by_default_as_the_controller_does() -> None:
    config = msgspec.to_builtins(ControllerConfig(fleet="f", k=1, steps=1, robots=1))
    polling = msgspec.to_builtins(PollingSection())
    assert polling == {key: config[key] for key in polling}
    documented = re.findall(r"^\| `(\w+)` \|", POLLING_PAGE.read_text(), re.MULTILINE)
    assert documented == list(polling)


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_a_scenario_says_how_to_poll_and_who_may_speak(
    kofn: Kofn, scenario: Callable[..., Path]
) -> None:
    hosts = '[polling]\nwaves = 1\nm_min = 2\n[[hosts]]\nname = "a"\nrobots = 6'
    result = kofn.json("up", str(scenario(hosts)), "--no-video")
    folder = RunFolder(kofn.home / result["run_dir"])
    config, summary = folder.read_config()["controller"], folder.read_summary()
    assert (config["waves"], config["m_min"]) == (1, 2)
    assert summary is not None
    assert summary["unlisted"] == summary["overflow"] == 0
