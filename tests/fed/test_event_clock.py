# SPDX-License-Identifier: MIT
"""Simulated time: what arrives, when a round ends, what is charged, and traces from files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.fed.clock import NOTICE_S, STATUS_QUERY, STATUS_REPLY, EventClock, Passed
from kofn.fed.devices import (
    Device,
    Fleet,
    Online,
    TraceSettings,
    read_fleet,
    synthetic_devices,
)
from kofn.fed.selectors import PollRequest

if TYPE_CHECKING:
    from pathlib import Path


def fleet(seconds: dict[str, float], offline_at: dict[str, float] | None = None) -> Fleet:
    """Clients that need so many seconds for one sample and one epoch, and nothing to send."""
    gone = offline_at or {}
    return Fleet(
        {
            name: Device(ms_per_sample=1000 * s, kbps=1e12, up_kbps=1e12, rtt_ms=0)
            for name, s in seconds.items()
        },
        {name: Online([0.0], [gone.get(name, math.inf)]) for name in seconds},
        jitter=0.0,
        seed=0,
    )


def train(clock: EventClock, names: str, **kwargs: float) -> Passed:
    return clock.train(
        list(names),
        samples=dict.fromkeys(names, 1),
        epochs=dict.fromkeys(names, 1),
        model_bytes=1000,
        server_round=1,
        **kwargs,  # type: ignore[arg-type]
    )


def test_a_round_ends_with_the_last_arrival() -> None:
    clock = EventClock(fleet({"a": 5, "b": 2, "c": 9}))
    passed = train(clock, "abc")
    assert list(passed.arrived) == ["b", "a", "c"]
    assert clock.now == pytest.approx(9)


def test_a_round_ends_at_the_deadline_and_counts_who_arrived_until_then() -> None:
    clock = EventClock(fleet({"a": 5, "b": 2, "c": 9}))
    passed = train(clock, "abc", deadline_s=5.001)
    assert passed.arrived == pytest.approx({"b": 2, "a": 5})
    assert passed.waited == pytest.approx({"c": 5.001})
    assert clock.now == pytest.approx(5.001)
    assert (passed.down, passed.up) == (3000, 2000)


def test_with_over_commitment_the_first_ones_count() -> None:
    clock = EventClock(fleet({"a": 5, "b": 2, "c": 9}))
    passed = train(clock, "abc", keep=2)
    assert list(passed.arrived) == ["b", "a"]
    assert clock.now == pytest.approx(5)


def test_who_goes_offline_does_not_arrive_and_is_noticed_late() -> None:
    clock = EventClock(fleet({"a": 5, "b": 2}, offline_at={"a": 3}))
    passed = train(clock, "ab")
    assert list(passed.arrived) == ["b"]
    assert clock.now == pytest.approx(3 + NOTICE_S)


def test_a_status_poll_costs_little_and_a_loss_poll_pays_the_model_and_the_pass() -> None:
    device = Device(ms_per_sample=100, kbps=80, up_kbps=80, rtt_ms=500)
    clock = EventClock(
        Fleet(
            {"a": device, "b": device},
            {"a": Online([0.0], [math.inf]), "b": Online()},
            jitter=0.0,
            seed=0,
        )
    )

    def poll(**kwargs: object) -> Passed:
        return clock.poll(
            PollRequest(clients=("a", "b"), **kwargs),  # type: ignore[arg-type]
            samples={"a": 30, "b": 30},
            model_bytes=10_000,
            server_round=1,
            timeout_s=60,
        )

    status = poll(what="status")
    # b is offline: no message, no wait.
    assert list(status.arrived) == ["a"]
    assert (status.down, status.up) == (STATUS_QUERY, STATUS_REPLY)
    assert status.seconds == pytest.approx(0.5 + 8 * (47 + 107) / 80_000)
    loss = poll(what="loss")
    assert loss.down == STATUS_QUERY + 10_000
    assert loss.seconds - status.seconds == pytest.approx(1.0 + 30 * 0.1 / 3)
    batch = poll(what="loss", samples=3)
    assert loss.seconds - batch.seconds == pytest.approx(27 * 0.1 / 3)


@settings(max_examples=40, deadline=None)
@given(
    seconds=st.lists(st.floats(0.1, 50), min_size=1, max_size=8),
    gone=st.lists(st.floats(0.1, 50), min_size=8, max_size=8),
    deadline=st.none() | st.floats(0.1, 60),
    keep=st.none() | st.integers(1, 8),
)
def test_everybody_either_arrives_or_is_waited_for(
    seconds: list[float], gone: list[float], deadline: float | None, keep: int | None
) -> None:
    names = "abcdefgh"[: len(seconds)]
    clock = EventClock(
        fleet(dict(zip(names, seconds, strict=True)), dict(zip(names, gone, strict=False)))
    )
    passed = clock.train(
        list(names),
        samples=dict.fromkeys(names, 1),
        epochs=dict.fromkeys(names, 1),
        model_bytes=10,
        server_round=1,
        deadline_s=deadline,
        keep=keep,
    )
    assert sorted([*passed.arrived, *passed.waited]) == list(names)
    assert clock.now == passed.seconds
    assert list(passed.arrived.values()) == sorted(passed.arrived.values())
    assert all(t <= passed.seconds + 1e-9 for t in passed.arrived.values())
    assert deadline is None or passed.seconds <= deadline + 1e-9
    assert keep is None or len(passed.arrived) <= keep


def test_traces_follow_their_law_and_no_client_shifts_another() -> None:
    names = [f"c{i}" for i in range(400)]
    law = TraceSettings(correlation=0.8)
    whole = synthetic_devices(names, law, seed=1)
    half = synthetic_devices(names[::2], law, seed=1)
    assert all(half.devices[name] == whole.devices[name] for name in names[::2])
    speed = np.log([1 / whole.devices[name].ms_per_sample for name in names])
    link = np.log([whole.devices[name].kbps for name in names])
    assert speed.std() == pytest.approx(law.sigma_compute, rel=0.15)
    assert np.corrcoef(speed, link)[0, 1] == pytest.approx(0.8, abs=0.08)
    late = [name for name in names[::2] if half.online[name].at(50_000.0)]
    assert late == [name for name in names[::2] if whole.online[name].at(50_000.0)]


def test_the_share_online_follows_the_day_cycle() -> None:
    names = [f"c{i}" for i in range(300)]
    law = TraceSettings(on_s=1000, off_s=1000, day_depth=0.0)
    found = synthetic_devices(names, law, seed=2)
    shares = [len(found.online_at(t)) / 300 for t in np.linspace(0, 30_000, 40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.04)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_real_traces_are_read_from_two_files(tmp_path: Path) -> None:
    devices = write(
        tmp_path / "devices.csv", "client,ms_per_sample,kbps,rtt_ms\na,10,800,50\nb,2,9,0\n"
    )
    online = write(tmp_path / "online.csv", "client,t_on,t_off\na,0,10\na,10,20\na,30,40\n")
    found = read_fleet(devices, online)
    assert found.devices["a"] == Device(ms_per_sample=10, kbps=800, up_kbps=800, rtt_ms=50)
    assert [found.online["a"].at(t) for t in (0, 9.9, 10, 20, 29, 30, 40)] == [
        True, True, True, False, False, True, False,
    ]  # fmt: skip
    assert found.online["b"].at(1e9)
    assert found.online["a"].next_on(25.0) == 30
    assert found.online["a"].next_on(41.0) == math.inf


@pytest.mark.parametrize(
    ("devices", "online", "sentence"),
    [
        ("client,kbps\na,1\n", None, "devices.csv, line 1: the columns are client,kbps"),
        ("client,ms_per_sample,kbps\na,-1,5\n", None, "line 2: ms_per_sample -1 is not above 0"),
        ("client,ms_per_sample,kbps\na,1,x\n", None, "line 2: kbps 'x' is not a number"),
        ("client,ms_per_sample,kbps\na,1,nan\n", None, "line 2: kbps nan is not above 0"),
        ("client,ms_per_sample,kbps\na,1\n", None, "line 2: 2 values, not 3"),
        ("client,ms_per_sample,kbps\na,1,5\na,1,5\n", None, "line 3: client a stands there twice"),
        ("client,ms_per_sample,kbps\n", None, "holds no device"),
        (
            "client,ms_per_sample,kbps\na,1,5\n",
            "client,t_on,t_off\nz,0,1\n",
            "line 2: client z is not",
        ),
        (
            "client,ms_per_sample,kbps\na,1,5\n",
            "client,t_on,t_off\na,5,5\n",
            "t_off 5 is not after",
        ),
        (
            "client,ms_per_sample,kbps\na,1,5\n",
            "client,t_on,t_off\na,0,9\na,8,10\n",
            "online.csv, line 3: client a has t_on 8 before the end 9",
        ),
    ],
)
def test_a_bad_trace_is_one_sentence_with_file_and_line(
    devices: str, online: str | None, sentence: str, tmp_path: Path
) -> None:
    first = write(tmp_path / "devices.csv", devices)
    second = None if online is None else write(tmp_path / "online.csv", online)
    with pytest.raises(InputError, match=sentence):
        read_fleet(first, second)


def test_the_clock_moves_on_until_somebody_is_online() -> None:
    device = Device(ms_per_sample=1, kbps=1, up_kbps=1, rtt_ms=0)
    clock = EventClock(
        Fleet({"a": device, "b": device}, {"a": Online([7], [9]), "b": Online([4], [5])}, 0.0, 0)
    )
    assert clock.wait_for_somebody() == ["b"]
    assert clock.now == 4
    clock.now = 20.0
    with pytest.raises(InputError, match="no more than 0 clients are ever online"):
        clock.wait_for_somebody()
