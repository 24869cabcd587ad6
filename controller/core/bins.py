# SPDX-License-Identifier: MIT
"""Bins: sorting continuous states into a finite number of them, and drawing states from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kofn.controller.core.game import FloatArray, IntArray


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
        if len(edges) == 0:
            raise InputError("bins without edges")
        self.is_vector = np.ndim(edges[0]) > 0
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
        if size < 1:
            raise InputError(f"{size} bins are not at least 1")
        self._function = function
        self._size = int(size)
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


def _edges(position: int, side: object) -> FloatArray:
    edges = np.array(side, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(np.isfinite(edges)):
        raise InputError(f"edges {position} are not a list of at least 2 finite numbers")
    flat = np.diff(edges) <= 0
    if flat.any():
        i = int(flat.argmax())
        raise InputError(
            f"bin {i} of component {position} is empty: "
            f"its edges are {edges[i]:g} and {edges[i + 1]:g}"
        )
    return edges


def _equal_edges(low: object, high: object, bins: object) -> FloatArray:
    if not isinstance(bins, (int, np.integer)) or bins < 1:
        raise InputError(f"{bins} bins are not a whole number of at least 1")
    return np.linspace(float(low), float(high), int(bins) + 1)  # type: ignore[arg-type]
