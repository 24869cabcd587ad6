# SPDX-License-Identifier: MIT
"""The continuous simulator that a user brings: what it must offer, and checked calls of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from kofn.controller.core._arguments import check_seed, shown
from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray


class Simulator(Protocol):
    """What a user brings: episodes side by side, each with one global and n local agents.

    States are numbers or vectors: `s_g` has shape (episodes,) or (episodes, d), `s_l` has shape
    (episodes, n) or (episodes, n, d). All randomness comes from `rng`.
    """

    def reset(
        self, rng: np.random.Generator, episodes: int, n: int
    ) -> tuple[FloatArray, FloatArray]:
        """Return the states (s_g, s_l) at the start of new episodes of n local agents."""

    def step(
        self,
        rng: np.random.Generator,
        s_g: FloatArray,
        s_l: FloatArray,
        a_g: FloatArray,
        a_l: IntArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return (s_g', s_l', r_g, r_l) after one step; the arguments must stay unchanged.

        `a_g` holds one of the user's continuous actions per episode, shape (episodes,) or
        (episodes, d); `a_l` numbers the local actions, shape (episodes, n). Rewards have shapes
        (episodes,) and (episodes, n).
        """


def reset(
    simulator: Simulator, rng: np.random.Generator, episodes: int, n: int
) -> tuple[FloatArray, FloatArray]:
    """Call the simulator's `reset` and check what it returns."""
    s_g, s_l = _parts("reset", simulator.reset(rng, episodes, n), 2)
    return _checked("reset", "s_g", s_g, (episodes,)), _checked("reset", "s_l", s_l, (episodes, n))


def step(
    simulator: Simulator,
    rng: np.random.Generator,
    s_g: FloatArray,
    s_l: FloatArray,
    a_g: FloatArray,
    a_l: IntArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Call the simulator's `step` and check what it returns."""
    next_g, next_l, r_g, r_l = _parts("step", simulator.step(rng, s_g, s_l, a_g, a_l), 4)
    return (
        _checked("step", "s_g", next_g, s_g.shape, whole=True),
        _checked("step", "s_l", next_l, s_l.shape, whole=True),
        _checked("step", "r_g", r_g, a_l.shape[:1], whole=True),
        _checked("step", "r_l", r_l, a_l.shape, whole=True),
    )


def generators(seed: int, number: int) -> list[np.random.Generator]:
    """Return independent random generators from one seed of the user's."""
    return [np.random.default_rng(child) for child in spawn(seed, number)]


def spawn(seed: int, number: int) -> list[np.random.SeedSequence]:
    """Return independent seeds from one of the user's."""
    return np.random.SeedSequence(check_seed(seed)).spawn(number)


def check_methods(name: str, value: object, methods: tuple[str, ...]) -> None:
    """Refuse an object that lacks one of the methods that make it what it is to be."""
    for method in methods:
        if not callable(getattr(value, method, None)):
            raise InputError(f"{name} {shown(value)} has no method {method!r}")


def _parts(call: str, result: object, number: int) -> tuple[FloatArray, ...]:
    if not isinstance(result, tuple) or len(result) != number:
        raise InputError(f"the simulator's {call} did not return a tuple of {number} arrays")
    return result


def _checked(
    call: str, name: str, value: object, shape: tuple[int, ...], *, whole: bool = False
) -> FloatArray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"the simulator's {call} returned {name} that is no array") from None
    start = array.shape if whole else array.shape[: len(shape)]
    if start != shape or array.ndim > len(shape) + 1:
        raise InputError(
            f"the simulator's {call} returned {name} of shape {array.shape}, but {shape}"
            f"{'' if whole else ', perhaps with one more axis,'} is asked for"
        )
    if not np.all(np.isfinite(array)):
        raise InputError(f"the simulator's {call} returned {name} with a value that is not finite")
    return array
