# SPDX-License-Identifier: MIT
"""A status is one small bin; anything else is refused, dropped and counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.fed.selectors import Reference, Status
from kofn.fed.status import (
    FIVE,
    SEVEN,
    STALE,
    Intake,
    client_bin,
    debias,
    decode,
    encode,
    randomise,
)


@given(
    bin_=st.integers(0, 3),
    last=st.integers(-1, 1000),
    loss=st.none() | st.floats(0, 1e5),
    samples=st.none() | st.integers(0, 10**6),
)
def test_a_status_survives_the_wire(
    bin_: int, last: int, loss: float | None, samples: int | None
) -> None:
    status = Status(name="a", bin=bin_, last_trained=last, loss=loss, samples=samples)
    assert decode("a", encode(status, FIVE), FIVE) == status


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"v": 1, "bin": 4, "last": 0}, "bin 4 is not from 0 to 3"),
        ({"v": 1, "bin": 10**40, "last": 0}, "is not from 0 to 3"),
        ({"v": 1, "bin": "1", "last": 0}, "bin '1' is not a whole number"),
        ({"v": 1, "bin": True, "last": 0}, "bin True is not a whole number"),
        ({"v": 1, "bin": 1.0, "last": 0}, "bin 1.0 is not a whole number"),
        ({"v": 1, "bin": 0, "last": 0, "loss": math.nan}, "loss nan is not from 0"),
        ({"v": 1, "bin": 0, "last": 0, "loss": 1e300}, r"loss 1e\+300 is not from 0"),
        ({"v": 1, "bin": 0, "last": 0, "loss": [1.0]}, "is not a number"),
        ({"v": 1, "bin": 0, "last": 0, "shell": 1}, "unknown field 'shell'"),
        ({"v": 2, "bin": 0, "last": 0}, "version 2, not 1"),
        ({}, "version None, not 1"),
    ],
)
def test_a_bad_status_is_one_sentence_and_never_reaches_the_model(
    record: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        decode("pi-07", record, FIVE)
    intake = Intake(FIVE)
    assert intake.take("pi-07", record) is None
    assert intake.dropped == {"pi-07": 1}


@given(
    st.dictionaries(
        st.sampled_from(["v", "bin", "last", "loss", "samples", "compute_s", "x"]),
        st.sampled_from([None, 1, 0, "1", b"", [1.0], {}, True]) | st.integers() | st.floats(),
        max_size=5,
    )
)
def test_whatever_comes_in_is_a_valid_status_or_is_counted(record: dict[str, object]) -> None:
    intake = Intake(FIVE)
    status = intake.take("a", record)
    if status is None:
        assert intake.dropped == {"a": 1}
    else:
        assert 0 <= status.bin < FIVE.size
        assert status.loss is None or math.isfinite(status.loss)


def test_a_client_finds_its_bin_from_its_loss_its_age_and_its_speed() -> None:
    reference = Reference(loss=1.0, duration_s=(10.0,))

    def found(last: int, loss: float | None, duration_s: float, at: int = 10) -> tuple[int, int]:
        return FIVE.split(
            client_bin(
                FIVE,
                server_round=at,
                last_trained=last,
                loss=loss,
                duration_s=duration_s,
                reference=reference,
            )
        )

    assert found(-1, None, 5.0) == (1, 1)  # never trained: worth a visit; fast
    assert found(9, 0.5, 50.0) == (0, 0)  # low loss, slow
    assert found(9, 1.5, 5.0) == (1, 1)
    assert found(9, 0.5, 5.0, at=10 + STALE) == (1, 1)  # not trained for long


def test_seven_states_tell_fresh_from_stale() -> None:
    reference = Reference(loss=1.0, duration_s=(10.0,))

    def value(last: int, loss: float) -> str:
        found = client_bin(
            SEVEN,
            server_round=10,
            last_trained=last,
            loss=loss,
            duration_s=1.0,
            reference=reference,
        )
        return SEVEN.value[SEVEN.split(found)[0]]

    assert [value(9, 0.5), value(2, 0.5), value(9, 2.0)] == ["fresh", "stale", "high"]
    assert SEVEN.labels()[0] == "offline"
    assert len(SEVEN.labels()) == SEVEN.n_states == 7


def test_randomised_response_is_unbiased_after_correction() -> None:
    rng = np.random.default_rng(3)
    true = np.array([6000, 3000, 1000, 0])
    sent = np.bincount(
        [randomise(int(bin_), FIVE, 0.4, rng) for bin_ in np.repeat(np.arange(4), true)],
        minlength=4,
    )
    assert abs(sent / 10_000 - true / 10_000).max() > 0.05
    # Standard error of a corrected share is below 0.008 at this size; five of them.
    assert abs(debias(sent, 0.4) / 10_000 - true / 10_000).max() < 0.04
    assert debias(sent, 0.4).sum() == pytest.approx(10_000)
