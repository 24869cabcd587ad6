# SPDX-License-Identifier: MIT
"""`MotionKernel`: how robots change zones in the finite model, as a table.

    s' ~ P(. | g, b, s, a),      b = bin of the share of robots in the source zone s

A robot that holds (a = -1) stays where it is. Most kernels have one target (motion does not depend
on g) and one bin (nor on how crowded a zone is); axes of length 1 say so.

| symbol | name | shape | unit |
|---|---|---|---|
| P | `P` | (G, B, S, A, S) | probability; G is 1 or the number of targets |
| b | bins: share below edges[0], up to below edges[1], .. | - | index |
| - | `edges` | (B - 1,), rising, in (0, 1) | share of all robots |
"""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ROW_SUM_TOLERANCE = 1e-6


class MotionKernel:
    """A motion table, checked once.

    Parameters
    ----------
    P
        Shape (S, A, S), (B, S, A, S) or (G, B, S, A, S); rows sum to 1.
    edges
        Shape (B - 1,): shares at which the next bin begins.

    Raises
    ------
    InputError
        A shape that is none of these, a row that is no distribution, or edges that do not fit.
    """

    def __init__(self, P: npt.ArrayLike, edges: npt.ArrayLike = ()) -> None:
        table = np.asarray(P, dtype=np.float64)
        if not 3 <= table.ndim <= 5:
            raise InputError(f"a motion kernel of shape {table.shape}: it has 3 to 5 axes")
        table = table.reshape((1,) * (5 - table.ndim) + table.shape)
        if table.shape[2] != table.shape[4] or 0 in table.shape:
            raise InputError(
                f"a motion kernel of shape {table.shape}: (.., zones, actions, zones) is needed"
            )
        if not np.all(np.isfinite(table) & (table >= 0)) or np.any(
            np.abs(table.sum(axis=-1) - 1.0) > ROW_SUM_TOLERANCE
        ):
            raise InputError("a row of the motion kernel is no distribution over zones")
        self.P: FloatArray = table
        self.edges: FloatArray = np.atleast_1d(np.asarray(edges, dtype=np.float64))
        if self.edges.shape != (table.shape[1] - 1,):
            raise InputError(
                f"{self.edges.size} edges for a motion kernel of {table.shape[1]} bins: "
                "there is one fewer than bins"
            )
        if np.any((self.edges <= 0) | (self.edges > 1)) or np.any(np.diff(self.edges) <= 0):
            raise InputError(f"bin edges {self.edges.tolist()} must rise within 0 to 1")
        cdf = np.cumsum(table, axis=-1)
        self.cdf: FloatArray = cdf / cdf[..., -1:]

    @property
    def n_targets(self) -> int:
        """Targets G that motion depends on; 1 when it does not."""
        return int(self.P.shape[0])

    @property
    def n_zones(self) -> int:
        """Zones S."""
        return int(self.P.shape[2])

    @property
    def n_actions(self) -> int:
        """Local actions A."""
        return int(self.P.shape[3])

    def rows(self, target: int, counts: IntArray) -> FloatArray:
        """Cumulative rows in force, shape (S, A, S), at `counts` (S,) robots per zone."""
        table: FloatArray = self.cdf[target if self.n_targets > 1 else 0]
        share = counts / max(int(counts.sum()), 1)
        bins = np.searchsorted(self.edges, share, side="right")
        rows: FloatArray = np.ascontiguousarray(table[bins, np.arange(self.n_zones)])
        return rows

    @classmethod
    def of_game(cls, game: Game) -> "MotionKernel":
        """Return the local kernel of a game; one target where P_l is the same for all."""
        P_l = np.asarray(game.P_l)
        if np.array_equal(P_l, np.broadcast_to(P_l[:1], P_l.shape)):
            P_l = P_l[:1]
        return cls(P_l[:, None])

    def save(self, path: Path) -> None:
        """Write the arrays `P` and `edges` to an `.npz` file."""
        try:
            with path.open("wb") as file:
                np.savez(file, P=self.P, edges=self.edges)
        except OSError as error:
            raise InputError(f"cannot write kernel {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: Path) -> "MotionKernel":
        """Read a file with the arrays `P` and `edges`; others in it are left alone.

        Raises
        ------
        InputError
            No such file, or it does not hold a kernel.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(file["P"], file.get("edges", ()))
        except OSError as error:
            raise InputError(f"cannot read kernel {path}: {error.strerror or error}") from error
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} holds no motion kernel: {error}") from error
