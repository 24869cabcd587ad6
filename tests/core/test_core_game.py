# SPDX-License-Identifier: MIT
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kofn.controller.core import Game, InitialLaw, InputError


def tables() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "P_g": rng.dirichlet(np.ones(3), (3, 2)),
        "r_g": rng.random((3, 2)),
        "P_l": rng.dirichlet(np.ones(4), (3, 4, 2)),
        "r_l": rng.random((3, 4, 2)),
    }


def make(**changes: Any) -> Game:
    settings = {**tables(), "gamma": 0.9, **changes}
    first = [settings.pop(name) for name in ("P_g", "r_g", "P_l", "r_l", "gamma")]
    return Game(*first, **settings)


def test_a_row_that_does_not_sum_to_one_is_named() -> None:
    P_l = tables()["P_l"]
    P_l[2, 0, 1] *= 0.97
    with pytest.raises(InputError, match=r"^P_l\[2, 0, 1\] sums to 0\.97, not 1$"):
        make(P_l=P_l)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r_g": [[1, 2], [3, 4]]}, r"r_g has shape \(2, 2\), but .* \(3, 2\)"),
        ({"r_g": [[1, 2], [3]]}, "r_g is not a rectangular table"),
        ({"r_l": np.full((3, 4, 2), np.nan)}, r"r_l\[0, 0, 0\] is nan"),
        ({"P_g": np.ones((3, 3))}, "P_g has 2 axes, not 3"),
        ({"P_g": np.ones((0, 2, 0))}, "P_g is empty"),
        ({"gamma": 1.0}, "gamma 1.0 is not a number of at least 0 and below 1"),
        ({"gamma": float("nan")}, "gamma nan"),
        ({"gamma": "high"}, "gamma 'high' is not a number"),
        ({"local_sees": "past"}, "unknown local_sees 'past'; known are current, next"),
        ({"horizon": 0}, "horizon 0"),
        ({"horizon": 2.5}, "horizon 2.5"),
        ({"initial": InitialLaw(s_g=[0.5, 0.6, 0.1])}, "initial s_g sums to 1.2"),
        ({"initial": InitialLaw(s_l=[0.5, 0.5])}, r"initial s_l has shape \(2,\)"),
        ({"initial": InitialLaw(alpha=-1.0)}, "initial alpha -1.0"),
        ({"initial": InitialLaw(alpha=1.0, s_l=[0.25] * 4)}, "s_l or alpha, not both"),
    ],
)
def test_bad_input_is_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make(**change)
    assert "\n" not in str(error.value)


def test_a_negative_probability_is_named() -> None:
    P_g = tables()["P_g"]
    P_g[1, 0] = [1.5, -0.5, 0.0]
    with pytest.raises(InputError, match=r"P_g\[1, 0, 1\] is -0\.5, a negative probability"):
        make(P_g=P_g)


def test_nearly_normalised_rows_are_normalised_and_then_stay() -> None:
    P_g = tables()["P_g"] * (1 + 5e-10)
    once = make(P_g=P_g)
    assert np.abs(once.P_g.sum(axis=-1) - 1).max() < 1e-15
    again = make(P_g=once.P_g)
    assert np.array_equal(once.P_g, again.P_g)


def test_tables_are_copied_and_read_only() -> None:
    given = tables()
    game = make(**given)
    given["r_g"][0, 0] = 99.0
    assert game.r_g[0, 0] != 99.0
    with pytest.raises(ValueError, match="read-only"):
        game.r_g[0, 0] = 1.0


def test_marginals_average_over_the_local_policy() -> None:
    game = make()
    pi = np.random.default_rng(2).dirichlet(np.ones(2), (3, 4))
    P_pi, r_pi = game.marginals(pi)
    assert np.allclose(
        P_pi[1, 2], pi[1, 2, 0] * game.P_l[1, 2, 0] + pi[1, 2, 1] * game.P_l[1, 2, 1]
    )
    assert np.isclose(r_pi[2, 3], pi[2, 3] @ game.r_l[2, 3])
    with pytest.raises(InputError, match="pi_l has shape"):
        game.marginals(np.ones((3, 4, 1)))


def test_the_hash_sees_every_table_and_setting_but_not_the_name() -> None:
    base = make()
    assert make(name="other").sha256 == base.sha256
    for name in ("r_g", "r_l"):
        assert make(**{name: tables()[name] + 1e-6}).sha256 != base.sha256
    for setting in (
        {"gamma": 0.91},
        {"local_sees": "next"},
        {"horizon": 5},
        {"initial": InitialLaw(alpha=0.3)},
        {"initial": InitialLaw(s_g=[1, 0, 0])},
    ):
        assert make(**setting).sha256 != base.sha256
