# SPDX-License-Identifier: MIT
"""`kofn sweep` and `kofn bench`: what they print and write, go on with, and refuse."""

import importlib.util
import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kofn_process import Kofn, wait_for

from kofn.controller.core.presets import arena, load_game
from kofn.launch import sweep_figures
from kofn.launch.entry import run
from kofn.launch.sweep_figures import panels
from kofn.launch.sweep_results import PUBLISHED, Episode, Played, Row, Sweep
from kofn.launch.sweeping import MOST_STATES, settings_of
from kofn.launch.training import Learning

TINY = (
    "tiny.toml", "--n", "12", "--grid", "4", "--rounds", "1", "--restarts", "1", "--rollouts", "50"
)  # fmt: skip
STEPS = 6
FIGURES = {"reward.png", "runtime.png", "mode_accuracy.png", "zones.png"}

Printed = dict[str, Any]
Call = Callable[..., Printed]


@pytest.fixture(autouse=True)
def tiny_game(tmp_path: Path) -> None:
    """Put a game that is learned in a moment into the folder where commands run."""
    game = arena(zones=3, horizon=STEPS)
    tables = {name: getattr(game, name).tolist() for name in ("P_g", "r_g", "P_l", "r_l")}
    settings = {"name": "tiny", "gamma": game.gamma, "horizon": STEPS, **tables}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """Run a command in an empty folder; return what it prints as JSON."""
    monkeypatch.chdir(tmp_path)

    def printed(*arguments: str) -> Printed:
        assert run([*arguments, "--json"]) == 0
        result: Printed = json.loads(capsys.readouterr().out)
        return result

    return printed


def needs_ray() -> None:
    # Looked for, not imported: its warnings would be errors in this process.
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")


def timeless(folder: Path) -> Printed:
    """What a sweep's folder holds, without wall times."""
    result: Printed = json.loads((folder / "results.json").read_text())
    for row in result["rows"]:
        assert row.pop("train_s") > 0
        assert row.pop("sweep_s") > 0
    return result


def test_a_sweep_prints_rows_and_leaves_results_table_and_figures(call: Call) -> None:
    printed = call("sweep", *TINY, "--ks", "3,1")
    folder = Path("runs/sweep-tiny")
    assert printed["out"] == str(folder)
    assert {path.name for path in folder.iterdir()} == {"results.json", "table.md"} | FIGURES
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in FIGURES)
    assert [row["k"] for row in printed["rows"]] == [1, 3]
    for row in printed["rows"]:
        assert row["published"] is None
        assert (row["grid"], row["states"]) == (4, 3 * {1: 3, 3: 10}[row["k"]])
        for mode in ("memoryless", "belief"):
            low, high = row[mode]["ci"]
            assert low < row[mode]["mean"] < high
            assert 0 < row[mode]["mode_accuracy"] <= 1
        assert row["memoryless"]["memory"] == row["k"]
    lines = (folder / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["k", "---", "1", "3"]
    saved = json.loads((folder / "results.json").read_text())
    episode = saved["rows"][0]["belief"]["episode"]
    assert len(episode["s_g"]) == len(episode["shares"]) == STEPS
    assert all(sum(shares) == pytest.approx(1, abs=1e-5) for shares in episode["shares"])


def test_the_row_of_a_k_is_what_train_and_evaluate_give(call: Call) -> None:
    (row,) = call("sweep", *TINY, "--ks", "3", "--seed", "5")["rows"]
    trained = call(
        "train", *TINY[:-2], "--k", "3", "--seed", "5", "--out", "p.npz"
    )  # fmt: skip
    assert trained["sha256"] == row["sha256"]
    played = call(
        "evaluate", "p.npz", "--n", "12", "--k", "3", "--rollouts", "50", "--seed", "5"
    )  # fmt: skip
    assert played["mean"] == row["belief"]["mean"]
    assert played["ci"] == row["belief"]["ci"]


def test_a_sweep_given_again_computes_only_what_is_missing(call: Call) -> None:
    first = call("sweep", *TINY, "--ks", "1", "--out", "s")
    both = call("sweep", *TINY, "--ks", "1,2", "--out", "s")
    assert both["rows"][0] == first["rows"][0]  # wall times too: it was not computed again
    assert [row["k"] for row in both["rows"]] == [1, 2]
    fresh = call("sweep", *TINY, "--ks", "1", "--out", "s", "--fresh")
    assert [row["k"] for row in fresh["rows"]] == [1]
    assert fresh["rows"][0]["train_s"] != first["rows"][0]["train_s"]


def test_a_sweep_that_is_stopped_keeps_its_rows_and_goes_on(kofn: Kofn) -> None:
    ks = "1,2,3,4,5,6"
    process = kofn.start("sweep", *TINY, "--ks", ks, "--out", "s")
    results = kofn.home / "s" / "results.json"
    wait_for(results.exists, "the first row", timeout_s=100)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "kofn: stopped by SIGTERM"
    kept = json.loads(results.read_text())["rows"]
    assert 1 <= len(kept) < 6
    rows = kofn.json("sweep", *TINY, "--ks", ks, "--out", "s")["rows"]
    assert [row["k"] for row in rows] == list(range(1, 7))
    assert [row["train_s"] for row in rows[: len(kept)]] == [row["train_s"] for row in kept]


@pytest.mark.slow  # ray takes its half a minute to start
def test_ray_and_this_machine_give_the_same_results(kofn: Kofn) -> None:
    needs_ray()
    for engine in ("local", "ray"):
        kofn.json("sweep", *TINY, "--ks", "1,4", "--engine", engine, "--out", engine)
    assert timeless(kofn.home / "ray") == timeless(kofn.home / "local")


def test_a_cluster_that_is_not_there_is_named_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_ray()
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    assert run(["sweep", *TINY, "--ks", "1", "--engine", "ray"]) == 1
    assert f"no Ray cluster answers at RAY_ADDRESS {address}" in capsys.readouterr().err


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., str]:
    """Run a command that must be refused before anything is written; return its sentence."""
    monkeypatch.chdir(tmp_path)

    def sentence(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert run(arguments) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert captured.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        return str(line)

    return sentence


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--ks", "1,x"), "--ks '1,x' is not a list of whole numbers"),
        (("--ks", ""), "--ks '' is not a list"),
        (("--ks", "0,2"), "poll size 0 is not a whole number of at least 1"),
        (("--ks", "1,13"), "poll size 13 exceeds fleet size 12"),
        (("--engine", "dask", "--ks", "1"), "unknown engine 'dask'; known are local, ray"),
        (("--objective", "greedy", "--ks", "1"), "unknown objective 'greedy'"),
        (("--rollouts", "1", "--ks", "1"), "--rollouts 1 must lie in 2.."),
        (("--horizon", "0", "--ks", "1"), "horizon 0"),
        (("--n", "0", "--ks", "1"), "fleet size 0"),
        (("--restarts", "0", "--ks", "1"), "restarts 0 is not a whole number from 1 to"),
        (("--grid", "9000", "--ks", "1"), "a grid of 9000 agents"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_sentence(
    refused: Callable[..., str], options: tuple[str, ...], part: str
) -> None:
    assert part in refused("sweep", *TINY, *options)


def test_a_folder_of_another_sweep_is_refused(call: Call, refused: Callable[..., str]) -> None:
    call("sweep", *TINY, "--ks", "1", "--out", "s")
    sentence = refused("sweep", *TINY, "--ks", "2", "--out", "s", "--seed", "7", "--n", "13")
    assert "s holds a sweep with other settings: n 12, not 13; seed 0, not 7" in sentence


def test_a_damaged_results_file_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "results.json").write_text('{"rows": [')
    assert "does not hold the results of a sweep" in refused(
        "sweep", *TINY, "--ks", "1", "--out", "s"
    )


@pytest.mark.parametrize(
    ("library", "options", "part"),
    [
        ("ray", ("--engine", "ray"), "pip install 'kofn[ray]'"),
        ("matplotlib", (), "pip install 'kofn[report]'"),
    ],
)
def test_a_missing_library_is_named_with_the_way_to_install_it(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    options: tuple[str, ...],
    part: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert part in refused("sweep", *TINY, "--ks", "1", *options)


@pytest.mark.parametrize(
    ("game", "n", "horizon", "expected"),
    [
        ("ring-released", 1000, None, PUBLISHED),
        ("ring-released", 1000, 40, {}),
        ("ring-released", 500, None, {}),
        ("ring-current", 1000, None, {}),
    ],
)
def test_published_returns_stand_only_beside_the_setting_they_were_published_for(
    game: str, n: int, horizon: int | None, expected: dict[int, float]
) -> None:
    settings = settings_of(
        load_game(game), n=n, horizon=horizon, rollouts=2, seed=0, learning=Learning()
    )
    assert Sweep(settings=settings, rows=[]).published == expected


def test_figures_show_every_mean_with_its_interval_and_every_episode() -> None:
    game = load_game("ring-released")
    settings = settings_of(game, n=1000, horizon=None, rollouts=9, seed=0, learning=Learning())

    def played(mean: float) -> Played:
        episode = Episode(s_g=[0, 4], shares=[[0.6, 0.1, 0.1, 0.1, 0.1]] * 2)
        ci = mean - 1.96, mean + 1.96
        return Played(mean=mean, stderr=1, ci=ci, mode_accuracy=0.5, memory=9, episode=episode)

    rows = [
        Row(
            k=k,
            grid=9,
            start="",
            sha256="",
            memoryless=played(90 + k),
            belief=played(200 - k),
            train_s=1,
            sweep_s=None if k > 2 else 1e-3,
            states=9,
        )
        for k in (1, 2, 5)
    ]
    found = Sweep(settings=settings, rows=rows)
    (ax,) = sweep_figures.reward(found).axes
    low, high = ax.get_ylim()
    assert low < 83.3  # the published curve
    assert high > 201
    left, right = ax.get_xlim()
    assert left < 1
    assert right > 50
    assert len(ax.get_lines()) >= 3
    (ax,) = sweep_figures.runtime(found).axes
    assert [np.size(line.get_xdata()) for line in ax.get_lines()] == [3, 2]
    maps = [ax for ax in sweep_figures.zones(found).axes if ax.images]
    assert len(maps) == 2 * 3
    assert all(len(ax.get_lines()) == 1 for ax in maps)


def test_four_ks_at_most_are_shown_as_heat_maps() -> None:
    assert panels(1) == [0]
    assert panels(3) == [0, 1, 2]
    assert panels(7) == [0, 2, 4, 6]


def test_a_grid_too_large_to_time_is_left_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_STATES > 5 * 316_251  # k = 50 on five zones is timed
    monkeypatch.setattr("kofn.launch.sweeping.MOST_STATES", 12)
    rows = call("sweep", *TINY, "--ks", "1,2")["rows"]
    assert rows[0]["sweep_s"] > 0
    assert rows[1]["sweep_s"] is None


def test_bench_core_measures_every_part(call: Call) -> None:
    printed = call("bench", "core", "--quick")
    assert printed["suite"] == "core"
    assert "threads" in printed["machine"]
    names = " ".join(row["name"] for row in printed["rows"])
    for part in ("operator", "sweep", "g_learn", "rollout", "decision"):
        assert part in names
    assert all(0 < row["median_s"] <= row["max_s"] < 10 for row in printed["rows"])


def test_an_unknown_bench_names_the_known_ones(refused: Callable[..., str]) -> None:
    assert "unknown suite 'gpu'; known are bias, link, sim, core" in refused("bench", "gpu")
