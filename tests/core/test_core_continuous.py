# SPDX-License-Identifier: MIT
from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kofn.controller.core import InputError, Policy
from kofn.controller.core.continuous import TableDispatcher, learn_continuous, play_continuous
from kofn.controller.core.tracking import binned


def test_the_seed_decides_the_episodes_and_long_plays_are_split() -> None:
    model = binned(5, 5, 3, samples=20)
    dispatcher = TableDispatcher(Policy.uniform(model.game, 2), 2)
    first, again, other = (
        play_continuous(model, dispatcher, k=2, n=150_000, horizon=2, episodes=3, seed=seed).returns
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.unique(first).size == 3


def test_learning_on_coarse_bins_beats_a_table_of_uniform_agents() -> None:
    model = binned(20, 20, 11, samples=100)
    said: list[str] = []
    solution = learn_continuous(
        model, k=5, n=200, rounds=2, episodes=60, progress=lambda *a: said.append(str(a))
    )
    learned = play_continuous(model, solution.dispatcher, k=5, n=200, episodes=60, seed=9)
    lazy = play_continuous(
        model, TableDispatcher(Policy.uniform(model.game, 1), 5), k=5, n=200, episodes=60
    )
    assert learned.mean > 165
    assert lazy.mean < 110
    assert solution.history[0].accepted
    assert len(said) == len(solution.history)


def test_bad_plays_are_refused() -> None:
    model = binned(5, 5, 3, samples=20)
    dispatcher = TableDispatcher(Policy.uniform(model.game, 2), 2)
    for given, message in (
        ({"k": 0}, "poll size 0"),
        ({"k": 501}, "poll size 501 exceeds fleet size 500"),
        ({"k": 2, "n": -1}, "fleet size -1"),
        ({"k": 2, "episodes": 0}, "episodes 0"),
        ({"k": 2, "horizon": 0}, "horizon 0"),
        ({"k": 2, "seed": -4}, "seed -4"),
    ):
        with pytest.raises(InputError, match=message):
            play_continuous(model, dispatcher, **given)
    with pytest.raises(InputError, match="rounds 0"):
        learn_continuous(model, k=2, rounds=0)
    with pytest.raises(InputError, match="poll size 501 exceeds"):
        learn_continuous(model, k=501)


def test_the_benchmark_beats_its_published_returns_even_when_quick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "bench_continuous.py"
    spec = importlib.util.spec_from_file_location("bench_continuous", path)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    arguments = [str(path), "--quick", "--json", "--ks", "10", "--episodes", "150"]
    monkeypatch.setattr(sys, "argv", arguments)
    bench.main()
    result = json.loads(capsys.readouterr().out)
    assert abs(result["references"]["majority"]["mean"] - 178) < 8
    assert abs(result["references"]["single look"]["mean"] - 174) < 8
    (row,) = result["rows"]
    assert (row["k"], row["published"]) == (10, 135.5)
    assert row["learned"] > 178
    assert row["table"] > 168
