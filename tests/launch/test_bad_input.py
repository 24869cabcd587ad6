# SPDX-License-Identifier: MIT
"""Bad input is one sentence and exit code 2; nothing is started and nothing is written."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.launch.entry import run
from kofn.launch.truth import Truth, read_truth, rewards


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., str]:
    """Run a command that must be refused; return its sentence."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert run(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (sentence,) = captured.err.splitlines()
        assert sentence.startswith("kofn: ")
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return call


Refused = Callable[..., str]


def tiny_game(path: Path, **keys: object) -> Path:
    tables = {
        "gamma": 0.9,
        "P_g": [[[1.0, 0.0]], [[0.0, 1.0]]],
        "r_g": [[0.0], [0.0]],
        "P_l": [[[[0.5, 0.5]], [[0.5, 0.5]]], [[[0.5, 0.5]], [[0.5, 0.5]]]],
        "r_l": [[[0.0], [0.0]], [[0.0], [0.0]]],
        **keys,
    }
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in tables.items()))
    return path


def test_rows_that_do_not_sum_to_one_name_table_row_and_sum(
    refused: Refused, tmp_path: Path
) -> None:
    rows = [[[[0.5, 0.5]], [[0.5, 0.5]]], [[[0.5, 0.5]], [[0.5, 0.25]]]]
    game = tiny_game(tmp_path / "g.toml", P_l=rows)
    sentence = refused("train", str(game), "--k", "2", "--out", "p.npz")
    assert "P_l[1, 1, 0] sums to 0.75, not 1" in sentence


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("demo", "--k", "21"), "poll size 21 exceeds fleet size 20"),
        (("demo", "--k", "0"), "poll size 0 must be at least 1"),
        (("demo", "--steps", "0"), "steps 0 must be at least 1"),
        (("demo", "--hosts", "0"), "hosts 0 must lie in 1..20"),
        (("demo", "--robots", "500", "--hosts", "1"), "500 robots do not fit"),
        (("demo", "--broker", "rabbit"), "broker 'rabbit' is none of"),
        (("demo", "--move-success", "1.5"), "move_success 1.5 is not a number from 0 to 1"),
        (
            ("train", "ring-released", "--k", "11", "--n", "10"),
            "poll size 11 exceeds fleet size 10",
        ),
        (("train", "nonsense"), "unknown game 'nonsense'"),
        (("train", "arena", "--objective", "greedy"), "unknown objective 'greedy'"),
        (("evaluate", "missing.npz"), "cannot read policy missing.npz"),
        (("up", "missing.toml"), "no scenario 'missing.toml'"),
        (("replay", "nowhere"), "run folder nowhere does not exist"),
        (("replay", "."), "is not a run folder"),
        (("dance",), "No such command 'dance'"),
        (("demo", "--robots", "many"), "--robots"),
        (("demo", "--move-success", "nan"), "move_success nan is not a number from 0 to 1"),
        (("demo", "--seed", str(2**63)), "--seed"),
        (("up", "x" * 5000), "cannot read scenario"),
    ],
)
def test_a_bad_value_is_named_with_its_limit(
    refused: Refused, arguments: tuple[str, ...], part: str
) -> None:
    assert part in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--speed", "nan", "speed nan must lie above 0"),
        ("--speed", "0", "speed 0 must lie above 0"),
        ("--speed", "inf", "speed inf must lie above 0 and be at most 1000"),
        ("--period", "nan", "period nan s must be at least 0.1"),
        ("--period", "-1", "period -1 s must be at least 0.1"),
        ("--period", "1e300", "period 1e+300 s must be at least 0.1 and below 1e+06 s"),
    ],
)
@pytest.mark.parametrize("verb", ["swarm", "robot"])
def test_a_host_refuses_a_time_that_cannot_pass(
    refused: Refused, verb: str, option: str, value: str, part: str
) -> None:
    size = ("--robots", "2") if verb == "swarm" else ()
    broker = "mqtt://127.0.0.1:1"
    assert part in refused(verb, "--host", "h", "--broker", broker, *size, option, value)


def test_an_unknown_key_of_a_scenario_is_named_with_the_known_ones(
    refused: Refused, scenario: Callable[..., Path]
) -> None:
    sentence = refused("up", str(scenario(stepz=3)))
    assert "unknown key 'stepz'" in sentence
    assert "steps" in sentence.partition("known are")[2]


def test_an_unknown_key_of_a_host_is_named_with_the_known_ones(
    refused: Refused, scenario: Callable[..., Path]
) -> None:
    sentence = refused("up", str(scenario(hosts='[[hosts]]\nname = "a"\nrobotz = 3')))
    assert "unknown key 'robotz' in [[hosts]]" in sentence
    assert "robots" in sentence.partition("known are")[2]


@pytest.mark.parametrize(
    ("hosts", "part"),
    [
        ('[[hosts]]\nname = "a/b"\nrobots = 3', "host name 'a/b' must be"),
        ('[[hosts]]\nname = "controller"\nrobots = 3', "host name 'controller' is reserved"),
        ('[[hosts]]\nname = "a"\nrobots = 3\n[[hosts]]\nname = "a"\nrobots = 3', "is used twice"),
        ('[[hosts]]\nname = "a"\nrobots = 0', ">= 1"),
        ('[[hosts]]\nname = "a"\nkind = "robot"\nrobots = 2', "has 1 robot, not 2"),
        ('[[hosts]]\nname = "a"\nkind = "robot"\nzone = 5', "zones 0 to 4"),
    ],
)
def test_impossible_hosts_are_refused(
    refused: Refused, scenario: Callable[..., Path], hosts: str, part: str
) -> None:
    assert part in refused("up", str(scenario(hosts=hosts, k=1)))


@pytest.mark.parametrize(
    ("tables", "part"),
    [
        ("[time]\nperiod_s = nan", "period nan s must be at least 0.1"),
        ("[time]\nspeed = inf\npace = 'realtime'", "speed inf must lie above 0"),
        ("[game]\nparameters = { zones = 5.5 }", "'zones' of the game is 5.5, not a whole number"),
        (
            "[game]\nparameters = { zones = 1e15 }",
            "zones 1000000000000000 is not a whole number from 3 to 200",
        ),
        ("[game]\nname = 'ring.toml'\nparameters = { a = 1.0 }", "takes no parameters"),
        ("[game]\nparameters = { a = 1.0 }", "no parameter 'a'; known are zones"),
    ],
)
def test_impossible_tables_are_refused(
    refused: Refused, scenario: Callable[..., Path], tables: str, part: str
) -> None:
    path = scenario()
    path.write_text(path.read_text() + tables + "\n")
    assert part in refused("up", str(path))


def test_a_driver_that_is_not_installed_is_refused_before_anything_starts(
    refused: Refused, scenario: Callable[..., Path]
) -> None:
    hosts = '[[hosts]]\nname = "a"\nkind = "robot"\ndriver = "nope"'
    assert "no driver is called 'nope'" in refused("up", str(scenario(hosts=hosts, k=1)))


def test_a_run_name_of_dots_is_refused(refused: Refused, scenario: Callable[..., Path]) -> None:
    assert "must hold more than dots" in refused("up", str(scenario(name="..")))


def test_a_port_in_use_is_named(refused: Refused, scenario: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = scenario().read_text().replace("[policy]", f"[broker]\nport = {port}\n[policy]")
        scenario().write_text(text)
        assert f"port {port}" in refused("up", "small.toml")


def test_a_truncated_policy_is_refused(refused: Refused, policy_file: Path, tmp_path: Path) -> None:
    data = policy_file.read_bytes()
    (tmp_path / "half.npz").write_bytes(data[: len(data) // 2])
    assert "half.npz is not a kofn policy, or is truncated or damaged" in refused(
        "evaluate", "half.npz"
    )


def test_a_policy_for_another_game_is_refused(
    refused: Refused, scenario: Callable[..., Path], tmp_path: Path
) -> None:
    Policy.uniform(arena(move_success=0.5), 5).save(tmp_path / "other.npz")
    text = scenario().read_text()
    path = scenario()
    path.write_text(
        "\n".join(
            f'file = "{tmp_path / "other.npz"}"' if line.startswith("file") else line
            for line in text.splitlines()
        )
    )
    assert "the policy was made for game arena" in refused("up", str(path))


def test_a_game_with_other_zones_than_the_arena_is_refused(
    refused: Refused, scenario: Callable[..., Path]
) -> None:
    path = scenario()
    text = path.read_text().partition("[policy]")[0]
    path.write_text(
        text + '[game]\nparameters = { zones = 4 }\n[[hosts]]\nname = "a"\nrobots = 3\n'
    )
    assert "has 4 zones, the arena has 5" in refused("up", str(path))


def test_a_poll_larger_than_the_fleet_is_refused_by_evaluate(
    refused: Refused, policy_file: Path
) -> None:
    assert "poll size 9 exceeds fleet size 4" in refused(
        "evaluate", str(policy_file), "--n", "4", "--k", "9"
    )


def test_nan_in_a_table_is_named(refused: Refused, tmp_path: Path) -> None:
    game = tiny_game(tmp_path / "g.toml")
    game.write_text(game.read_text().replace("r_g = [[0.0]", "r_g = [[nan]"))
    assert "r_g[0, 0] is nan" in refused("train", str(game), "--k", "2")


def test_logs_that_the_game_does_not_have_states_for_are_refused() -> None:
    one = np.zeros(1, dtype=np.int64)
    four_zones = arena(zones=4)
    truth = Truth(one, one, one, np.array([[4]]), np.array([[0]]), ("a.r0",))
    with pytest.raises(InputError, match="zone 4, game 'arena' has 4 of them"):
        rewards(truth, four_zones)


def test_a_host_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts" / "a.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot read host log .*a\.jsonl"):
        read_truth(tmp_path)
