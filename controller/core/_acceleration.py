# SPDX-License-Identifier: MIT
r"""Anderson acceleration of a fixed-point iteration V <- T V (Anderson 1965, Walker & Ni 2011).

With g = T V - V of the present and the last m iterations, the next V is the combination of the
last T V whose combined g is smallest. Constants are left out: the bounds of MacQueen remove them.
On a linear T this is GMRES; with T a Bellman operator it is nearly that as soon as few greedy
actions change. Nothing is promised, so the caller measures each V it is given, and `reset`s where
one was worse than the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray

#: Directions that are nearly combinations of others are left out, relative to the largest.
_INDEPENDENT = 1e-10


class Anderson:
    """Proposes the next V; keeps 2 m + 2 arrays of its size.

    Parameters
    ----------
    m : int
        Steps that are looked back on.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self._images: list[FloatArray] = []  # differences of T V, the latest last
        self._changes: list[FloatArray] = []  # differences of g
        self._last: tuple[FloatArray, FloatArray] | None = None

    def reset(self) -> None:
        """Forget what came before."""
        self._images, self._changes, self._last = [], [], None

    def propose(self, values: FloatArray, image: FloatArray) -> None:
        """Overwrite `values` with the next V, given their image T V."""
        change = image - values
        change -= change.mean()
        if self._last is not None:
            old_image, old_change = self._last
            np.subtract(image, old_image, out=old_image)
            np.subtract(change, old_change, out=old_change)
            self._images = [*self._images, old_image][-self.m :]
            self._changes = [*self._changes, old_change][-self.m :]
        values[...] = image
        self._last = image.copy(), change
        if self._changes:
            flat = [c.ravel() for c in self._changes]
            gram = np.array([[float(a @ b) for b in flat] for a in flat])
            seen = np.array([float(a @ change.ravel()) for a in flat])
            weights = np.linalg.lstsq(gram, seen, rcond=_INDEPENDENT)[0]
            for weight, direction in zip(weights, self._images, strict=True):
                values -= weight * direction
