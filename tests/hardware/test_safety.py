# SPDX-License-Identifier: MIT
"""`safety.limit`, the last function before a motor."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.hardware.safety import Limits, check_limits, limit, lower

ANY = st.floats(allow_nan=True, allow_infinity=True)
BOUND = st.floats(0.0, 1e6)


@given(v=ANY, w=ANY, v_max=BOUND, w_max=BOUND)
def test_limited_speeds_are_finite_and_within_the_limits(
    v: float, w: float, v_max: float, w_max: float
) -> None:
    limits = Limits(v_max, w_max)
    got_v, got_w = limit(v, w, limits)
    assert abs(got_v) <= v_max
    assert abs(got_w) <= w_max
    if not (math.isfinite(v) and math.isfinite(w)):
        assert (got_v, got_w) == (0.0, 0.0)
    elif abs(v) <= v_max and abs(w) <= w_max:
        assert (got_v, got_w) == (v, w)
    assert limit(got_v, got_w, limits) == (got_v, got_w)


@given(pairs=st.lists(st.tuples(ANY, ANY), min_size=1, max_size=8))
def test_arrays_are_limited_like_numbers(pairs: list[tuple[float, float]]) -> None:
    limits = Limits(0.4, 3.0)
    v, w = limit(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]), limits)
    expected = [limit(*pair, limits) for pair in pairs]
    assert list(zip(v.tolist(), w.tolist(), strict=True)) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_a_limit_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match=r"limit w_max = .* must be finite and at least 0"):
        check_limits(Limits(1.0, bad))


def test_limits_can_be_lowered_but_not_raised() -> None:
    assert lower(Limits(0.4, 3.0), Limits(0.2, 9.0)) == Limits(0.2, 3.0)
