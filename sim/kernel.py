# SPDX-License-Identifier: MIT
r"""`Kernel`: the finite model of a swarm as it was counted, and what follows from the counts.

A robot that starts an option in zone s with action a, while c robots are in s, ends it in s':

.. math:: N(g, b, s, a, s'), \quad b = bin(c); \qquad
   \hat P(s'|b,s,a) = \frac{\alpha(s') + N(b,s,a,s')}{|\alpha| + |N|}

The *plain* kernel adds the bins up; its prior is 1/2 on each reachable next zone (one that was
reached from s with any action, or s itself). The prior of a *binned* row is its plain row, worth as
much in all; so a bin that was never met says what the plain kernel says. Where moves have weights
(`luck`), N is their sum in each cell. With symmetry "ring" rows that a rotation maps on each other
share their counts. The *ideal* kernel lets each action do what
it most often does.

| symbol | name | shape |
|---|---|---|
| N | `counts` | (G, B, S, A, S); G is 1, or the targets with `by_target` |
| - | `first`: least source count of each bin | (B,) |
| - | `edges`: the same between bins as shares of n, half a robot lower | (B - 1,) |

A kernel travels as one `.npz` without pickle: counts, the tables P and `edges` that a finite world
reads, the rewards and the global kernel of the game it was identified for, and a JSON header.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from kofn.controller.core.archive import content_of, pack, read_file, unpack, write_whole
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game, InitialLaw
from kofn.sim.motion import MotionKernel
from kofn.sim.world import BoolArray, FloatArray, IntArray

Symmetry = Literal["none", "ring"]

VERSION = 1

#: Prior pseudo-transitions on each reachable next zone.
PRIOR = 0.5

#: Least share of a row for a move that mostly fails to count as what the action is for.
_PURPOSE = 0.15

#: First source counts of the default bins, as multiples of the mean number of robots in a zone.
_BIN_STARTS = (4 / 6, 6 / 6, 8 / 6, 11 / 6)


class KernelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel was identified from, and what the checks said.

    Attributes
    ----------
    n, period_s
        Robots in one arena; length T of an option.
    backend, fidelity, layout, robot, controller, config_hash
        World, arena, robots, gains of the option controller; a hash over all that decides motion.
    option_steps, arenas, transitions
        Options of each robot, worlds of n robots that were watched, and single moves counted.
    symmetry, by_target, data_policy, source
        How rows were pooled; what chose the actions; "world", or the run it was read from.
    seeds, versions
        Of the recording.
    checks, warnings
        Results of the checks (`kernel_checks`); sentences about those that failed.
    """

    n: int
    period_s: float
    backend: str
    option_steps: int
    transitions: int
    arenas: int = 1
    symmetry: Symmetry = "none"
    by_target: bool = False
    data_policy: str = "uniform"
    source: str = "world"
    fidelity: str = "default"
    layout: dict[str, Any] = {}
    robot: dict[str, Any] = {}
    controller: dict[str, Any] = {}
    config_hash: str = ""
    seeds: list[int] = []
    versions: dict[str, str] = {}
    checks: dict[str, Any] = {}
    warnings: list[str] = []


@dataclass(frozen=True, eq=False)
class Kernel:
    """Counts of a swarm's moves; see the module docstring.

    Parameters
    ----------
    counts
        Shape (G, B, S, A, S), whole numbers.
    first
        Least source count of each bin, rising from 0.
    template
        The game whose rewards, global kernel, discount and start hold; its P_l is not used.
    info
        What the counts come from.
    weighted
        Sums of the weights of moves, shape of `counts`; None where each move counts as one.
    """

    counts: IntArray
    first: tuple[int, ...]
    template: Game
    info: KernelInfo
    weighted: FloatArray | None = None

    def __post_init__(self) -> None:
        counts, game = self.counts, self.template
        if counts.ndim != 5 or counts.shape[2] != counts.shape[4] or 0 in counts.shape:
            raise InputError(
                f"kernel counts have shape {counts.shape}, not (targets, bins, zones, actions, "
                "zones)"
            )
        G, B, S, A, _ = counts.shape
        if (game.n_local, game.n_local_actions) != (S, A) or G not in {1, game.n_global}:
            raise InputError(
                f"kernel counts of {S} zones, {A} actions and {G} targets do not fit game "
                f"{game.name!r} with {game.n_local}, {game.n_local_actions} and {game.n_global}"
            )
        if counts.min() < 0:
            raise InputError(f"kernel counts hold {counts.min()}, a negative number of moves")
        weighted = self.weighted
        if weighted is not None and (
            weighted.shape != counts.shape or not np.all(weighted[counts == 0] == 0.0)
            or not np.all(np.isfinite(weighted)) or weighted.min() < 0
        ):  # fmt: skip
            raise InputError("weights of kernel counts do not belong to these counts")
        rising = all(a < b for a, b in pairwise(self.first))
        if len(self.first) != B or self.first[0] != 0 or not rising:
            raise InputError(f"bins that start at {self.first} do not fit {B} bins from 0 on")
        if self.info.symmetry == "ring" and G not in {1, S}:
            raise InputError(f"symmetry 'ring' needs as many targets as zones, not {G} and {S}")

    @property
    def n_bins(self) -> int:
        """Bins B."""
        return len(self.first)

    @cached_property
    def edges(self) -> FloatArray:
        """Shares of n at which the next bin begins, shape (B - 1,)."""
        return (np.array(self.first[1:], dtype=np.float64) - 0.5) / self.info.n

    @cached_property
    def pooled(self) -> FloatArray:
        """Moves, or their weights, that each row may use under the symmetry, shape of `counts`."""
        single = self.counts.astype(np.float64) if self.weighted is None else self.weighted
        if self.info.symmetry == "none":
            return single
        S, axes = single.shape[2], (0, 2, 4) if single.shape[0] > 1 else (2, 4)
        turned = [np.roll(single, (r,) * len(axes), axes) for r in range(S)]
        total: FloatArray = np.sum(turned, axis=0)
        return total

    @cached_property
    def reachable(self) -> BoolArray:
        """Next zones that a robot in s was seen in, or s itself; shape (S, S)."""
        seen: BoolArray = self.pooled.sum(axis=(0, 1, 3)) > 0
        return seen | np.eye(seen.shape[0], dtype=np.bool_)

    @cached_property
    def alpha(self) -> FloatArray:
        """Dirichlet parameters of the plain rows: prior and counts, shape (G, S, A, S)."""
        prior = PRIOR * self.reachable[None, :, None, :]
        result: FloatArray = prior + self.pooled.sum(axis=1)
        return result

    @cached_property
    def plain(self) -> FloatArray:
        """The kernel without bins, shape (G, S, A, S)."""
        return _normalised(self.alpha)

    @cached_property
    def binned(self) -> FloatArray:
        """The kernel by bin of the source count, shape (G, B, S, A, S)."""
        worth = PRIOR * self.reachable.sum(axis=1)[None, None, :, None, None]
        return _normalised(worth * self.plain[:, None] + self.pooled)

    @cached_property
    def purpose(self) -> IntArray:
        """Zone that each action is for, shape (S, A): the one it most often leads to.

        A move that mostly fails still counts as one when at least 15 % arrive.
        """
        rows = self.plain.mean(axis=0)
        zones = np.arange(rows.shape[0])
        away = rows.copy()
        away[zones, :, zones] = 0.0
        best = away.argmax(axis=-1)
        leaves = (away.max(axis=-1) >= _PURPOSE) | (rows.argmax(axis=-1) != zones[:, None])
        result: IntArray = np.where(leaves, best, zones[:, None])
        return result

    @cached_property
    def ideal(self) -> FloatArray:
        """The kernel in which every action succeeds, shape (1, S, A, S)."""
        return np.eye(self.counts.shape[2])[self.purpose][None]

    def motion(self) -> MotionKernel:
        """Return the binned kernel in the form that a finite world moves by."""
        return MotionKernel(self.binned, self.edges)

    def game(self, P_l: FloatArray | None = None, *, name: str = "") -> Game:
        """Return an ordinary game with the plain kernel, or with another one of (.., S, A, S).

        Parameters
        ----------
        P_l
            Shape (S, A, S), (1, S, A, S) or (S_g, S, A, S).
        name
            Of the game; default that of the template with the word "identified".
        """
        template = self.template
        rows = self.plain if P_l is None else P_l
        return Game(
            template.P_g,
            template.r_g,
            np.broadcast_to(rows, template.P_l.shape),
            template.r_l,
            template.gamma,
            local_sees=template.local_sees,
            initial=template.initial,
            horizon=template.horizon,
            name=name or f"{template.name} identified".strip(),
        )

    @cached_property
    def sha256(self) -> str:
        """Identity: a hash of counts, weights, bins, game and pooling."""
        head = (self.counts.shape, self.first, self.info.symmetry, self.info.n)
        digest = hashlib.sha256(f"kofn-kernel-1 {head} {self.template.sha256}".encode())
        digest.update(self.counts.astype("<i8").tobytes())
        if self.weighted is not None:
            digest.update(self.weighted.astype("<f8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the kernel file, completely or not at all."""
        game = self.template
        law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
        header = {
            "sha256": self.sha256,
            "first": self.first,
            "gamma": game.gamma,
            "local_sees": game.local_sees,
            "alpha": game.initial.alpha,
            "horizon": game.horizon,
            "game": game.name,
            "info": msgspec.to_builtins(self.info),
        }
        arrays: dict[str, Any] = {
            "counts": self.counts,
            "P": self.binned,
            "edges": self.edges,
            "P_g": game.P_g,
            "r_g": game.r_g,
            "r_l": game.r_l,
            "initial_s_g": law_g,
            "initial_s_l": law_l,
        }
        if self.weighted is not None:
            arrays["weighted"] = self.weighted
        write_whole(path, pack(arrays, header, "kernel", VERSION), "kernel")

    @classmethod
    def load(cls, path: Path) -> "Kernel":
        """Read a kernel file.

        Raises
        ------
        InputError
            No such file, another kind of file, or a damaged one.
        """
        arrays, header = unpack(read_file(path, "kernel"), str(path), "kernel", VERSION)
        with content_of(str(path)):
            kernel = cls._of(arrays, header)
            intact = kernel.sha256 == header["sha256"]
        if not intact:
            raise InputError(f"{path} is damaged: its content does not match its SHA-256")
        return kernel

    @classmethod
    def _of(cls, arrays: dict[str, Any], header: dict[str, Any]) -> "Kernel":
        counts, alpha = arrays["counts"].astype(np.int64), header["alpha"]
        r_l = arrays["r_l"]
        template = Game(
            arrays["P_g"],
            arrays["r_g"],
            np.full((*r_l.shape, r_l.shape[1]), 1.0 / r_l.shape[1]),
            r_l,
            header["gamma"],
            local_sees=header["local_sees"],
            initial=InitialLaw(
                s_g=arrays["initial_s_g"],
                s_l=None if alpha is not None else arrays["initial_s_l"],
                alpha=alpha,
            ),
            horizon=header["horizon"],
            name=header["game"],
        )
        try:
            info = msgspec.convert(header["info"], KernelInfo)
        except msgspec.ValidationError as error:
            raise ValueError(error) from error
        return cls(counts, tuple(header["first"]), blank(template), info, arrays.get("weighted"))


def blank(game: Game) -> Game:
    """Return a game with the same tables but for P_l, in which all next zones are alike."""
    return Game(
        game.P_g,
        game.r_g,
        np.full(game.P_l.shape, 1.0 / game.n_local),
        game.r_l,
        game.gamma,
        local_sees=game.local_sees,
        initial=game.initial,
        horizon=game.horizon,
        name=game.name,
    )


def default_bins(n: int, zones: int, bins: int) -> tuple[int, ...]:
    """Return the first source count of each of `bins` bins for n robots in `zones` zones.

    Five bins at 30 robots in 5 zones are 0-3, 4-5, 6-7, 8-10, 11+; other sizes scale with the mean
    number of robots in a zone, and starts that fall together are one.
    """
    if not 1 <= bins <= 50:
        raise InputError(f"{bins} bins must be at least 1 and at most 50")
    if bins == 1:
        return (0,)
    middle = 0.5 * (len(_BIN_STARTS) - 1)
    places = np.linspace(0, 2 * middle, bins - 1) if bins > 2 else np.array([middle])
    scales = np.interp(places, np.arange(len(_BIN_STARTS)), _BIN_STARTS)
    starts = {max(1, round(float(scale) * n / zones)) for scale in scales}
    return (0, *sorted(starts))


def bin_of(first: tuple[int, ...], counts: IntArray) -> IntArray:
    """Return the bin of each source count, same shape."""
    found: IntArray = np.searchsorted(np.array(first[1:]), counts, side="right").astype(np.int64)
    return found


def l1_rows(P: FloatArray, Q: FloatArray) -> FloatArray:
    """Return the L1 distance of each row of two kernels of one shape, without the last axis."""
    if P.shape != Q.shape:
        raise InputError(f"kernels of shapes {P.shape} and {Q.shape} cannot be compared")
    distance: FloatArray = np.abs(P - Q).sum(axis=-1)
    return distance


def _normalised(weights: FloatArray) -> FloatArray:
    result: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return result
