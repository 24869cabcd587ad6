# SPDX-License-Identifier: MIT
"""Bins: sorting continuous states into a finite number of them, and drawing states from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import array_of, check_int, check_real, shown, table
from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kofn.controller.core.game import FloatArray, IntArray


#: Most bins of one component, or of a function.
MAX_BINS = 10**6


class Bins(Protocol):
    """A way to sort states into bins and to draw states from them."""

    @property
    def size(self) -> int:
        """Number of bins."""

    def index(self, states: FloatArray) -> IntArray:
        """Return the bin of each state; a vector takes the last axis."""

    def draw(self, rng: np.random.Generator, bins: IntArray) -> FloatArray:
        """Return one state from each of the given bins."""


class BoxBins:
    """Bins between edges; for vectors the product of those of each component, first one slowest.

    States outside the edges belong to the outermost bins, and draws are uniform within a bin.

    Parameters
    ----------
    edges : sequence of float, or sequence of those
        Increasing edges; one sequence for states that are numbers, one for each component of
        states that are vectors.
    """

    def __init__(
        self,
        edges: Sequence[float] | Sequence[Sequence[float]] | Sequence[FloatArray] | FloatArray,
    ) -> None:
        if not isinstance(edges, Sized) or len(edges) == 0:
            raise InputError("bins without edges")
        if isinstance(edges, (str, bytes, Mapping)):
            raise InputError(f"edges {shown(edges)} are not lists of numbers")
        self.is_vector = isinstance(next(iter(edges)), Sized)
        sides = edges if self.is_vector else [edges]
        self.edges: tuple[FloatArray, ...] = tuple(_edges(i, side) for i, side in enumerate(sides))
        self._shape = tuple(len(side) - 1 for side in self.edges)

    @classmethod
    def equal(
        cls,
        low: float | Sequence[float],
        high: float | Sequence[float],
        bins: int | Sequence[int],
    ) -> BoxBins:
        """Return equally wide bins over [low, high], a number or one per component each."""
        given = {"low": low, "high": high, "number of bins": bins}
        for name, value in given.items():
            if array_of(name, value).size == 0:
                raise InputError(f"{name} is empty")
        if np.ndim(low) == np.ndim(high) == np.ndim(bins) == 0:
            return cls(_equal_edges(low, high, bins))
        try:
            sides = np.broadcast_arrays(low, high, bins)
        except ValueError:
            raise InputError(
                f"low, high and bins of {np.size(low)}, {np.size(high)} and {np.size(bins)} "
                "components do not fit together"
            ) from None
        return cls([_equal_edges(*side) for side in zip(*sides, strict=True)])

    @property
    def size(self) -> int:
        """Number of bins."""
        return math.prod(self._shape)

    def index(self, states: FloatArray) -> IntArray:
        """Return the bin of each state; a vector takes the last axis."""
        if self.is_vector and states.shape[-1:] != (len(self.edges),):
            raise InputError(
                f"states have shape {states.shape}, but the bins are for vectors of "
                f"{len(self.edges)} components"
            )
        total = np.zeros(states.shape[:-1] if self.is_vector else states.shape, dtype=np.int64)
        for i, side in enumerate(self.edges):
            values = states[..., i] if self.is_vector else states
            total = total * (len(side) - 1) + np.searchsorted(side[1:-1], values, side="right")
        return total

    def draw(self, rng: np.random.Generator, bins: IntArray) -> FloatArray:
        """Return one state from each of the given bins, uniform within it."""
        cells = np.unravel_index(bins, self._shape)
        parts = [
            side[cell] + (side[cell + 1] - side[cell]) * rng.random(bins.shape)
            for side, cell in zip(self.edges, cells, strict=True)
        ]
        states: FloatArray = np.stack(parts, axis=-1) if self.is_vector else parts[0]
        return states


class FunctionBins:
    """Bins that a function tells, drawn from states that were met in play.

    Parameters
    ----------
    function : callable
        Takes an array of states, returns the bin of each: whole numbers from 0 to size - 1.
    size : int
        Number of bins.
    """

    def __init__(self, function: Callable[[FloatArray], npt.ArrayLike], size: int) -> None:
        if not callable(function):
            raise InputError(f"bin function {shown(function)} is not a function")
        self._function = function
        self._size = check_int("number of bins", size, 1, MAX_BINS)
        self._met: list[FloatArray] = []

    @property
    def size(self) -> int:
        """Number of bins."""
        return self._size

    def index(self, states: FloatArray) -> IntArray:
        """Return the bin of each state."""
        found = np.asarray(self._function(states))
        if not np.issubdtype(found.dtype, np.integer):
            raise InputError(f"the bin function returned {found.dtype}, not whole numbers")
        if found.size and not 0 <= found.min() <= found.max() < self._size:
            bad = int(found.min() if found.min() < 0 else found.max())
            raise InputError(f"the bin function returned {bad}, not one of 0..{self._size - 1}")
        return found.astype(np.int64)

    def learn(self, states: FloatArray) -> None:
        """Remember met states, one along the first axis each, to draw from."""
        index = self.index(states)
        if index.shape != states.shape[:1]:
            raise InputError(
                f"the bin function returned shape {index.shape} for states of shape {states.shape}"
            )
        self._met = [states[index == b] for b in range(self._size)]
        for b, met in enumerate(self._met):
            if len(met) == 0:
                raise InputError(f"bin {b} of {self._size} is empty: random play never met it")

    def draw(self, rng: np.random.Generator, bins: IntArray) -> FloatArray:
        """Return one of the met states of each bin."""
        if not self._met:
            raise InputError("the bins of a function can be drawn from after `learn` only")
        flat = bins.ravel()
        sample = self._met[0]
        result = np.empty((flat.size, *sample.shape[1:]))
        for b in np.unique(flat):
            here = flat == b
            met = self._met[b]
            result[here] = met[rng.integers(len(met), size=int(here.sum()))]
        return result.reshape(*bins.shape, *sample.shape[1:])


def bins_of(bins: Bins, states: FloatArray, shape: tuple[int, ...]) -> IntArray:
    """Return the bins of states, which must be of the given shape."""
    index = bins.index(states)
    if index.shape != shape:
        raise InputError(
            f"the bins number states of shape {states.shape} by shape {index.shape}, not {shape}"
        )
    return index


def _edges(position: int, side: npt.ArrayLike) -> FloatArray:
    edges = table(f"edges {position}", side, 1)
    if len(edges) < 2:
        raise InputError(f"edges {position} are 1 number, but a bin takes 2")
    flat = np.diff(edges) <= 0
    if flat.any():
        i = int(flat.argmax())
        raise InputError(
            f"bin {i} of component {position} is empty: "
            f"its edges are {edges[i]:g} and {edges[i + 1]:g}"
        )
    return edges


def _equal_edges(low: object, high: object, bins: object) -> FloatArray:
    number = check_int("number of bins", bins, 1, MAX_BINS)
    return np.linspace(check_real("low", low), check_real("high", high), number + 1)
