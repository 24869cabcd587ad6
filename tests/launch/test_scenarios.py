# SPDX-License-Identifier: MIT
"""Scenario files: what is read is what is run."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kofn_process import Kofn

from kofn.controller.core.errors import InputError
from kofn.hardware.firmware_bench import find_micropython
from kofn.hardware.grid import GridLayout
from kofn.launch.fleet import run_scenario
from kofn.launch.parts import Connection
from kofn.launch.preparing import build_game, load_policy
from kofn.launch.runner import processes
from kofn.launch.scenario import GameSection, HostSection
from kofn.launch.scenario_file import load_scenario, scenario_folder, scenario_names
from kofn.launch.swarm_host import (
    MoreHost,
    SwarmConfig,
    make_swarm,
    read_more,
    run_swarms,
)
from kofn.launch.truth import read_truth
from kofn.launch.verifying import verify
from kofn.sim.faults import Fault
from kofn.sim.motion import MotionKernel


@pytest.mark.parametrize("name", scenario_names())
def test_each_scenario_of_ours_loads_and_names_a_game(name: str) -> None:
    scenario = load_scenario(name)
    assert build_game(scenario.game).n_local == scenario.arena.zones
    assert 1 <= scenario.k <= scenario.robots


@pytest.mark.bullet
@pytest.mark.parametrize("name", scenario_names())
def test_the_worlds_of_each_scenario_hold_their_robots_and_move_them(name: str) -> None:
    pytest.importorskip("pybullet", reason="needs kofn[sim]: PyBullet has no wheel for this Python")
    scenario = load_scenario(name)
    kinds = {host.world: host for host in scenario.hosts if host.kind == "swarm"}
    for host in kinds.values():
        config = SwarmConfig(
            host=host.name, robots=host.robots, world=host.world, layout=scenario.arena
        )
        world = make_swarm(config)
        world.reset(scenario.seed)
        before = world.observe()
        world.apply(np.ones(host.robots, dtype=np.int64))
        world.advance(6.0 if host.world == "finite" else 0.5)
        after = world.observe()
        assert after.up.all()
        moved = after.zones if after.poses is None else after.poses
        assert not np.array_equal(moved, before.zones if before.poses is None else before.poses)
        world.close()


def test_the_demo_scenario_is_twenty_robots_in_two_processes_polling_five() -> None:
    scenario = load_scenario("ring20")
    assert [host.robots for host in scenario.hosts] == [10, 10]
    assert (scenario.robots, scenario.k, scenario.steps) == (20, 5, 40)
    assert scenario.control
    assert scenario.pace == "lockstep"


def test_one_robot_makes_the_run_real_time() -> None:
    assert load_scenario("mixed").pace == "realtime"


def test_parameters_reach_the_game() -> None:
    game = build_game(GameSection(parameters={"move_success": 0.4}))
    assert game.P_l[0, 2, 1, 3] == pytest.approx(0.4)


def test_simulated_hosts_that_name_a_process_share_it(scenario: Callable[..., Path]) -> None:
    hosts = load_scenario("tenthousand").hosts
    assert [[host.name for host in process] for process in processes(hosts)] == [
        [f"{side}-{i}" for i in range(5)] for side in ("left", "right")
    ]
    mixed = [
        HostSection(name="p"),
        HostSection(name="a", process="p"),
        HostSection(name="b"),
        HostSection(name="c", process="p"),
    ]
    assert [[host.name for host in process] for process in processes(mixed)] == [
        ["p"],
        ["a", "c"],
        ["b"],
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ('[[hosts]]\nname = "r"\nkind = "robot"\nprocess = "p"', "process of its own"),
        ('[[hosts]]\nname = "r"\nprocess = "p"\n[[faults]]\nkind = "dead"\nrobots = 1', "faults"),
    ],
)
def test_who_cannot_share_a_process_is_told(
    scenario: Callable[..., Path], more: str, sentence: str
) -> None:
    path = scenario()
    path.write_text(f"{path.read_text()}\n{more}\n")
    with pytest.raises(InputError, match=sentence):
        load_scenario(str(path))


def test_a_byte_order_mark_does_not_matter(scenario: Callable[..., Path]) -> None:
    path = scenario()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_scenario(str(path)).k == 2


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_the_mixed_scenario_runs_and_learns_its_own_policy(kofn: Kofn) -> None:
    result = kofn.json("up", "mixed", "--steps", "4", "--no-video")
    assert (result["robots"], result["steps"]) == (8, 4)
    assert result["replies_used"] > 0


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("crowded30", marks=pytest.mark.slow),
        pytest.param("thousand", marks=pytest.mark.slow),
        "million",
        "tenthousand",
    ],
)
def test_scenario_runs_from_the_broker_to_the_report(
    kofn: Kofn, policy_file: Path, tmp_path: Path, name: str
) -> None:
    text = (scenario_folder() / f"{name}.toml").read_text()
    for line in ("control = true", "parameters = { move_success = 0.8 }"):
        text = text.replace(line, "")
    text = text.replace("robots = 500000", "robots = 11000").replace(
        "robots = 1000\n", "robots = 40\n"
    )
    (tmp_path / "short.toml").write_text(f'{text}\n[policy]\nfile = "{policy_file}"\n')
    result = kofn.json("up", "short.toml", "--steps", "2", "--no-video")
    scenario = load_scenario(name)
    assert result["steps"] == 2
    assert scenario.k <= result["replies_used"] <= 2 * scenario.k
    assert 0 <= result["mean_share_in_target_last10"] <= 1
    assert result["mean_reward"] is not None
    assert ("calibrated" in result) == (name == "thousand")
    assert (kofn.home / result["run_dir"] / "report.png").exists()


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_a_run_with_faults_replays_bit_by_bit_and_a_changed_command_is_noticed(
    kofn: Kofn, policy_file: Path, tmp_path: Path
) -> None:
    text = (scenario_folder() / "faulty20.toml").read_text()
    for old, new in (("control = true", ""), ("at = 10", "at = 1"), ("p = 0.2", "p = 0.5")):
        text = text.replace(old, new)
    text += '\n[[faults]]\nkind = "battery"\ncapacity_s = 4.0\n'  # goes flat in mid-option
    (tmp_path / "short.toml").write_text(f'{text}\n[policy]\nfile = "{policy_file}"\n')
    run = kofn.home / kofn.json("up", "short.toml", "--steps", "3", "--no-video")["run_dir"]
    logs = sorted((run / "hosts").glob("*.jsonl"))
    rows = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    kinds = [row["kind"] for row in rows if row["row"] == "incident"]
    assert kinds.count("dead") == 3
    assert "answer_lost" in kinds
    assert any(row.get("text") == "has an empty battery" for row in rows)
    told = kofn.json("replay", str(run), "--verify", "--workers", "2")
    assert told["exact"]
    assert [host["steps"] for host in told["hosts"]] == [3, 3]
    assert told["hosts"] == [msgspec.to_builtins(check) for check in verify(run, workers=1)]

    film = kofn.json("plot", str(run), str(run), "--film", "both.gif", "--render", "3d")
    assert [Path(name).name for name in film["written"]] == ["both.gif", "still.png", "still.png"]
    assert (kofn.home / "both.gif").stat().st_size > 10_000

    changed = logs[0].read_text().splitlines(keepends=True)
    at = [i for i, line in enumerate(changed) if '"step"' in line][1]
    step = json.loads(changed[at])
    step["a"] = [(action + 1) % 3 for action in step["a"]]
    changed[at] = json.dumps(step) + "\n"
    logs[0].write_text("".join(changed))
    again = kofn.run("replay", str(run), "--verify")
    assert again.returncode == 1
    assert "at step 2 (world time 12 s) the exact state is another one" in again.stderr


def test_a_table_for_the_grid_is_checked_before_anything_starts(
    scenario: Callable[..., Path],
) -> None:
    path = scenario()
    text = path.read_text()
    path.write_text(text + '[arena]\nshape = "grid"\ncolumns = 3\nrows = 2\n')
    with pytest.raises(InputError, match="has 5 zones, the arena has 6"):
        load_policy(load_scenario(str(path)))
    path.write_text(text + '[arena]\nshape = "grid"\ncolumns = 5\nrows = 1\n')
    with pytest.raises(InputError, match="3 local actions, robots of a grid have 5"):
        load_policy(load_scenario(str(path)))


def test_the_grid_game_moves_robots_as_a_grid_of_that_size_does() -> None:
    game = build_game(GameSection(name="grid", parameters={"columns": 3.0, "rows": 2.0}))
    layout = GridLayout(columns=3, rows=2)
    assert (game.n_local, game.n_local_actions) == (layout.zones, layout.n_actions)
    likeliest = game.P_l[0].argmax(axis=-1)
    assert np.array_equal(likeliest, layout.neighbours())
    assert np.allclose(game.P_l.sum(axis=-1), 1.0)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("[arena]\nzones = 1", "a ring of 1 zones is too small, the least is 3"),
        ("[arena]\nlanes = false\nrobot_radius_m = 0.4", "3 robots do not fit, this ring"),
        ("[robot]\nposition_noise_m = -0.1", "position_noise_m = -0.1 must be finite and at least"),
        ("[robot]\nspeed_mps = 0.0", "speed_mps = 0.0 must be finite and above 0"),
        ("[robot]\nurdf = 'no.urdf'", "needs robot track_m too"),
        ("[arena]\ncolour = 'red'", "a ring arena has no setting 'colour'; known are"),
    ],
)
def test_impossible_arena_or_robot_is_one_sentence(
    scenario: Callable[..., Path], lines: str, sentence: str
) -> None:
    path = scenario()
    path.write_text(f"{path.read_text()}{lines}\n")
    with pytest.raises(InputError, match=sentence) as refused:
        load_scenario(str(path))
    assert "\n" not in str(refused.value)


def test_options_that_worlds_cannot_play_are_refused_before_anything_starts(
    scenario: Callable[..., Path],
) -> None:
    path = scenario()
    path.write_text(f"{path.read_text()}[time]\nperiod_s = 1.25\n")
    with pytest.raises(InputError, match=r"period_s = 1.25 s is not a multiple of the tick"):
        load_scenario(str(path))


def test_a_finite_world_takes_the_kernel_of_a_file_and_refuses_one_for_another_arena(
    kofn: Kofn, scenario: Callable[..., Path], tmp_path: Path
) -> None:
    MotionKernel(np.full((7, 3, 7), 1 / 7)).save(tmp_path / "seven.npz")
    finite = '[[hosts]]\nname = "a"\nrobots = 9\nworld = "finite"\n'
    refused = kofn.run("up", str(scenario(f'{finite}kernel = "seven.npz"')))
    assert refused.returncode == 2
    assert "seven.npz has 7 zones and 3 actions, the arena 5 and 3" in refused.stderr
    assert not (kofn.home / "runs").exists()


def test_a_window_where_there_is_no_display_is_one_sentence(
    kofn: Kofn, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pybullet", reason="needs kofn[sim]: PyBullet has no wheel for this Python")
    monkeypatch.delenv("DISPLAY", raising=False)
    broker = ("--broker", "mqtt://127.0.0.1:1")
    done = kofn.run("swarm", "--gui", "--host", "a", "--robots", "2", *broker)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kofn: there is no display for a window")


def test_unknown_world_is_named_with_the_known_ones(scenario: Callable[..., Path]) -> None:
    path = scenario('[[hosts]]\nname = "a"\nrobots = 3\nworld = "gazebo"')
    with pytest.raises(InputError, match=r"'gazebo'.*bullet, kinematic, finite"):
        load_scenario(str(path))


@pytest.mark.e2e
@pytest.mark.bullet
@pytest.mark.broker
def test_options_replace_what_the_file_says(kofn: Kofn, scenario: Callable[..., Path]) -> None:
    options = ("--steps", "2", "--seed", "9", "--fidelity", "high", "--no-video")
    result = kofn.json("up", str(scenario()), *options)
    assert result["steps"] == 2
    config = (kofn.home / result["run_dir"] / "config.toml").read_text()
    assert "seed = 9" in config
    assert config.count('fidelity = "high"') == 2


@pytest.mark.e2e
@pytest.mark.slow  # the mixed fleet's boards run by default (test_mixed_fleet.py)
def test_boards_take_part_beside_simulated_robots(tmp_path: Path) -> None:
    try:
        find_micropython()
    except InputError as missing:
        pytest.skip(str(missing))
    scenario = load_scenario("boards")
    few = [host for host in scenario.hosts if host.name in ("sim-0", "board-0", "board-1")]
    few[0] = msgspec.structs.replace(few[0], robots=2, world="kinematic")
    pace = msgspec.structs.replace(scenario.time, speed=4.0)
    scenario = msgspec.structs.replace(scenario, hosts=few, k=2, steps=4, time=pace, video=False)
    result = run_scenario(scenario.checked(), runs=tmp_path)
    assert result["steps"] == 4
    truth = read_truth(Path(result["run_dir"]))
    assert len(truth.robots) == 4


def test_hosts_that_cannot_share_a_process_are_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    first = Connection(fleet="f", url="mqtt://127.0.0.1:1"), SwarmConfig(host="a", robots=2)
    for change, sentence in (
        ({"host": "a"}, "names of their own"),
        ({"host": "b", "speed": 2.0}, "one speed"),
        ({"host": "b", "faults": (Fault(kind="dead", robots=1),)}, "process of its own"),
    ):
        other = msgspec.structs.replace(first[1], **change)
        with pytest.raises(InputError, match=sentence):
            run_swarms([first, (first[0], other)])
    path = tmp_path / "more.json"
    for text, sentence in (
        (b"{", "not a list of hosts"),
        (b'[{"host": "b"}]', "robots"),
        (b'[{"host": "b", "robots": 3, "pace": "realtime"}]', "pace"),
    ):
        path.write_bytes(text)
        with pytest.raises(InputError, match=sentence):
            read_more(path)
    with pytest.raises(InputError, match="cannot read"):
        read_more(tmp_path / "none.json")
    path.write_bytes(b'[{"host": "b", "robots": 3, "log": "b.jsonl"}]')
    (more,) = read_more(path)
    assert more == MoreHost(host="b", robots=3, log="b.jsonl")
    assert more.config(first[1]).log == Path("b.jsonl")
    finite = msgspec.structs.replace(first[1], world="finite", kernel="arena")
    config = more.config(finite)
    assert (config.host, config.robots, config.world, config.kernel) == ("b", 3, "finite", "arena")
    named = MoreHost(host="b", robots=3, world="kinematic", fidelity="high", kernel="k.npz")
    config = named.config(finite)
    assert (config.world, config.fidelity, config.kernel) == ("kinematic", "high", "k.npz")
