# SPDX-License-Identifier: MIT
r"""From a simulator on continuous states to a finite `Game`, by sampling.

States are sorted into bins, and the tables are averages over states drawn within the bins:

.. math:: \hat P_g(s'|s,a) = \frac{N_g(s,a,s')}{m}, \quad
   \hat P_l(j'|s,j,a) = \frac{N_l(s,j,a,j')}{m}, \quad
   \hat r = \text{mean of the rewards of the same draws}

A row of m draws is off by about :math:`\sqrt{S/m}` in total variation; what no number of draws
removes is that a bin forgets where in it the agent was. A local move much shorter than a bin
becomes a rare jump of a whole bin, so let the bins be about as wide as one move.

The simulator must be of the game's kind: agents move independently given the global state before
the step, the global state does not feel them, and a_g does not touch them.

======  ================  ======================  =====================================
symbol  name              shape                   meaning
======  ================  ======================  =====================================
N_g     counts_g          (S_g, A_g, S_g)         draws that ended in each bin
N_l     counts_l          (S_g, S_l, A_l, S_l)    draws that ended in each bin
mu_0    fields            (H, S_l)                shares of the fleet in sampled starts
======  ================  ======================  =====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import (
    MAX_TIMES,
    array_of,
    check_int,
    check_kind,
    check_real,
    table,
)
from kofn.controller.core.bins import Bins, FunctionBins, bins_of
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game, InitialLaw
from kofn.controller.core.simulator import Simulator, check_methods, generators, reset, step

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Draws within each bin and action, and sampled starts, unless given.
DEFAULT_SAMPLES = 200
DEFAULT_STARTS = 300

#: Episodes of random play that look for the states of bins given as a function.
_SCOUTS = 64
_SCOUT_AGENTS = 200
_SCOUT_STEPS = 100

#: Starts are alike up to this share of the way to fleets that start in one bin, now this, now that.
_ALIKE = 0.02

#: Tables with more entries than this are refused before they are allocated.
_MAX_ENTRIES = 2**25


@dataclass(frozen=True, slots=True, eq=False)
class Binned:
    """A simulator with its bins and the game that was estimated from it.

    Attributes
    ----------
    game : Game
        The estimated game.
    simulator : Simulator
    bins_g, bins_l : Bins
        Bins of the global and of the local state.
    actions : array, shape (A_g,) or (A_g, d)
        The continuous global actions behind the numbers of the game.
    counts_g, counts_l : array of int, shapes (S_g, A_g, S_g) and (S_g, S_l, A_l, S_l)
        Draws behind the kernels.
    fields : array, shape (H, S_l)
        Shares of the fleet in the local bins, at the start of sampled episodes.
    n : int
        Fleet size in those starts.
    """

    game: Game
    simulator: Simulator
    bins_g: Bins
    bins_l: Bins
    actions: FloatArray
    counts_g: IntArray
    counts_l: IntArray
    fields: FloatArray
    n: int


def bin_simulator(
    simulator: Simulator,
    bins_g: Bins,
    bins_l: Bins,
    actions: npt.ArrayLike,
    local_actions: int,
    *,
    n: int,
    gamma: float,
    horizon: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    starts: int = DEFAULT_STARTS,
    seed: int = 0,
    name: str = "",
) -> Binned:
    """Estimate a finite game from a simulator.

    Parameters
    ----------
    simulator : Simulator
    bins_g, bins_l : BoxBins, FunctionBins or your own
        Bins of the global and of the local state.
    actions : array, shape (A_g,) or (A_g, d)
        The finite set of continuous global actions.
    local_actions : int
        A_l, number of local actions.
    n : int
        Fleet size of the sampled starts.
    gamma, horizon, name
        As in `Game`.
    samples : int
        m, draws for each (s_g, a_g), and at least as many for each (s_g, s_l, a_l).
    starts : int
        H, sampled starts. They give the initial law: independent agents where the starts look
        alike, else the symmetric Dirichlet law whose fleets are as concentrated on average.
    seed : int
        Of all draws.
    """
    check_methods("simulator", simulator, ("reset", "step"))
    check_methods("bins_g", bins_g, ("index", "draw"))
    check_methods("bins_l", bins_l, ("index", "draw"))
    given = array_of("list of global actions", actions)
    chosen = table("list of global actions", given, 2 if given.ndim == 2 else 1)
    A_l = check_int("local_actions", local_actions, 1, MAX_TIMES)
    n = check_int("fleet size", n, 1, MAX_TIMES)
    samples = check_int("samples", samples, 1, MAX_TIMES)
    starts = check_int("starts", starts, 1, MAX_TIMES)
    # Refused before the work, not after it.
    check_real("gamma", gamma, least=0, below=1)
    horizon = None if horizon is None else check_int("horizon", horizon, 1, MAX_TIMES)
    check_kind("name", name, str)
    S_g, S_l, A_g = bins_g.size, bins_l.size, len(chosen)
    entries = max(S_g * A_g * S_g, S_g * S_l * A_l * S_l)
    if entries > _MAX_ENTRIES:
        raise InputError(
            f"{S_g} global and {S_l} local bins make a table of {entries} entries, "
            f"above the limit of {_MAX_ENTRIES}"
        )
    draws = samples * (A_g + S_l * A_l)
    for what, number in ((f"samples {samples}", draws), (f"starts {starts}", starts * n)):
        if number > _MAX_ENTRIES:
            raise InputError(
                f"{what} take {number} states at once, above the limit of {_MAX_ENTRIES}"
            )
    rng_start, rng_scout, rng_draw = generators(seed, 3)
    s_g, s_l = reset(simulator, rng_start, starts, n)
    law_g = np.bincount(bins_of(bins_g, s_g, (starts,)), minlength=S_g) / starts
    fields = shares(bins_of(bins_l, s_l, (starts, n)), S_l)
    if isinstance(bins_g, FunctionBins) or isinstance(bins_l, FunctionBins):
        _scout(simulator, rng_scout, bins_g, bins_l, chosen, A_l)

    counts_g = np.empty((S_g, A_g, S_g), dtype=np.int64)
    counts_l = np.empty((S_g, S_l, A_l, S_l), dtype=np.int64)
    r_g, r_l = np.empty((S_g, A_g)), np.empty((S_g, S_l, A_l))
    # One row for each draw of (s_g, a_g), with as many agents as let every (s_l, a_l) have its turn
    # `samples` times over all rows.
    rows = A_g * samples
    agents = -(-S_l * A_l // A_g)
    a_g = np.repeat(np.arange(A_g), samples)
    pair = np.arange(rows * agents).reshape(rows, agents) % (S_l * A_l)
    j, a_l = pair // A_l, pair % A_l
    for s in range(S_g):
        after_g, after_l, earned_g, earned_l = step(
            simulator,
            rng_draw,
            bins_g.draw(rng_draw, np.full(rows, s)),
            bins_l.draw(rng_draw, j),
            chosen[a_g],
            a_l,
        )
        counts_g[s] = _count(a_g, bins_of(bins_g, after_g, (rows,)), A_g, S_g)
        landed = bins_of(bins_l, after_l, (rows, agents))
        counts_l[s] = _count(pair, landed, S_l * A_l, S_l).reshape(S_l, A_l, S_l)
        r_g[s] = np.bincount(a_g, earned_g) / samples
        total = np.bincount(pair.ravel(), earned_l.ravel())
        r_l[s] = (total / np.bincount(pair.ravel())).reshape(S_l, A_l)
    game = Game(
        counts_g / counts_g.sum(axis=-1, keepdims=True),
        r_g,
        counts_l / counts_l.sum(axis=-1, keepdims=True),
        r_l,
        gamma,
        initial=_initial_law(law_g, fields, n),
        horizon=horizon,
        name=name,
    )
    return Binned(game, simulator, bins_g, bins_l, chosen, counts_g, counts_l, fields, n)


def shares(index: IntArray, size: int) -> FloatArray:
    """Return the share of agents in each bin, shape (episodes, size), of bins (episodes, n)."""
    episodes, n = index.shape
    counts = _count(np.arange(episodes)[:, None].repeat(n, axis=1), index, episodes, size)
    result: FloatArray = counts / n
    return result


def _count(row: IntArray, column: IntArray, rows: int, columns: int) -> IntArray:
    flat = np.bincount((row * columns + column).ravel(), minlength=rows * columns)
    return flat.reshape(rows, columns)


def _scout(
    simulator: Simulator,
    rng: np.random.Generator,
    bins_g: Bins,
    bins_l: Bins,
    actions: FloatArray,
    local_actions: int,
) -> None:
    """Show the states of random play to bins given as functions."""
    s_g, s_l = reset(simulator, rng, _SCOUTS, _SCOUT_AGENTS)
    met_g, met_l = [], []
    for _ in range(_SCOUT_STEPS):
        met_g.append(s_g)
        met_l.append(s_l.reshape(-1, *s_l.shape[2:]))
        a_g = actions[rng.integers(len(actions), size=_SCOUTS)]
        a_l = rng.integers(local_actions, size=s_l.shape[:2])
        s_g, s_l, _, _ = step(simulator, rng, s_g, s_l, a_g, a_l)
    for bins, met in ((bins_g, met_g), (bins_l, met_l)):
        if isinstance(bins, FunctionBins):
            bins.learn(np.concatenate(met))


def _initial_law(law_g: FloatArray, fields: FloatArray, n: int) -> InitialLaw:
    """Return the law of the start that fits the mean concentration sum_j mu_j^2 of the fields.

    The symmetric Dirichlet law has the mean concentration (alpha + 1) / (S alpha + 1).
    """
    S = fields.shape[1]
    law_l = fields.mean(axis=0)
    even = float((law_l**2).sum())
    # n independent agents look this much more concentrated than their law.
    found = (float((fields**2).sum(axis=1).mean()) - 1 / n) / (1 - 1 / n) if n > 1 else even
    if found - even <= _ALIKE * (1 - even) or found * S <= 1:
        return InitialLaw(s_g=law_g, s_l=law_l)
    return InitialLaw(s_g=law_g, alpha=max((1 - found) / (found * S - 1), 1e-3))
