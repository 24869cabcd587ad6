# SPDX-License-Identifier: MIT
"""Settings, epochs and random streams."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.epoch import next_epoch
from kofn.controller.playing import PERMUTED, sample_order
from kofn.controller.streams import Streams

GOOD: dict[str, Any] = {"fleet": "f", "k": 5, "steps": 10, "robots": 20}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 0}, "poll size 0 must be at least 1"),
        ({"k": 12, "robots": 10}, "poll size 12 exceeds fleet size 10"),
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"robots": 0}, "robots 0 must be at least 1"),
        ({"period_s": 0.0}, "period_s 0.0 must lie above 0 and below 1000000 s"),
        ({"wait_s": float("nan")}, "wait_s nan must lie above 0 and below 1000000 s"),
        ({"poll_ttl_s": -1.0}, "poll_ttl_s -1.0 must lie above 0 and below 1000000 s"),
        ({"seed": -1}, "seed -1 must lie in 0..2^63-1"),
        ({"memory": 0.5}, "memory 0.5 must lie in 1..1e9 pseudo-counts"),
        ({"m_min": 6}, "m_min 6 must lie in 0..5, the poll size"),
        ({"waves": 3}, "waves 3 must be 1 or 2"),
        ({"known_max_age": -1}, "known_max_age -1 must lie in 0..1000"),
        ({"known_max_age": 1001}, "known_max_age 1001 must lie in 0..1000"),
        ({"fill": "best"}, "fill 'best' must be one of ('topup-first', 'known-first')"),
        ({"known_ageing": "x"}, "known_ageing 'x' must be one of ('model', 'as-seen')"),
        ({"estimator": "x"}, "estimator 'x' must be one of ('plain', 'weighted')"),
        ({"name": "a/b"}, "run name 'a/b' must be"),
        ({"fleet": "a b"}, "fleet name 'a b' must be"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_sentence(
    change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        ControllerConfig(**(GOOD | change))
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_defaults_follow_the_pace_and_the_poll_size() -> None:
    config = ControllerConfig(**GOOD)
    assert (config.poll_ttl("lockstep"), config.poll_ttl("realtime")) == (2.0, 3.0)
    assert [config.fresh_needed(asked) for asked in (1, 2, 4, 5)] == [1, 1, 2, 3]
    assert (config.hold_ms, config.step_ttl_ms) == (18_000, 12_000)


@pytest.mark.parametrize("memory", ["auto", "none", 15, 7.5])
def test_settings_are_read_from_a_table(memory: float | str) -> None:
    config = msgspec.convert(GOOD | {"memory": memory}, ControllerConfig)
    assert config.memory == memory
    with pytest.raises(msgspec.ValidationError, match="unknown field `kk`"):
        msgspec.convert(GOOD | {"kk": 1}, ControllerConfig)


def test_epoch_rises_at_each_start_and_is_persisted_before_use(tmp_path: Path) -> None:
    counter = tmp_path / "new" / "epoch"
    assert [next_epoch(counter) for _ in range(3)] == [1, 2, 3]
    assert counter.read_text() == "3\n"
    assert list(counter.parent.iterdir()) == [counter]


def test_controllers_that_start_at_once_get_epochs_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        epochs = list(pool.map(lambda _: next_epoch(tmp_path / "epochs"), range(80)))
    assert sorted(epochs) == list(range(1, 81))


@pytest.mark.parametrize("content", [b"", b"-1", b"7.5", b"seven", b"\xff", b"9" * 30])
def test_epoch_file_that_is_no_counter_is_refused(tmp_path: Path, content: bytes) -> None:
    counter = tmp_path / "epoch"
    counter.write_bytes(content)
    with pytest.raises(InputError, match="epoch counter"):
        next_epoch(counter)
    assert counter.read_bytes() == content


def test_epoch_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be read and written"):
        next_epoch(tmp_path / "file" / "epoch")


def test_a_sample_of_a_large_fleet_is_as_random_as_the_first_of_a_permutation() -> None:
    n, size, draws = PERMUTED + 1, 4, 4000
    seen = np.array([sample_order(np.random.default_rng(t), n, size) for t in range(draws)])
    assert all(len(set(row)) == size for row in seen.tolist())
    tenths = np.stack([np.bincount(place * 10 // n, minlength=10) for place in seen.T])
    assert np.all(np.abs(tenths - draws / 10) < 5 * np.sqrt(draws * 0.09))  # whatever the place
    ahead = (seen[:, 0] < seen[:, 1]).mean()
    assert abs(ahead - 0.5) < 5 * 0.5 / np.sqrt(draws)
    small = sample_order(np.random.default_rng(3), PERMUTED, 40)
    assert small == np.random.default_rng(3).permutation(PERMUTED)[:40].tolist()
    assert sorted(sample_order(np.random.default_rng(3), 7, 40)) == list(range(7))


def test_streams_are_apart_by_name_and_step_and_repeat() -> None:
    draws = {
        (seed, name, t): Streams(seed).at(name, t).random()
        for seed in (1, 2)
        for name in ("sample", "target")
        for t in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert Streams(1).at("sample", 1).random() == draws[1, "sample", 1]
