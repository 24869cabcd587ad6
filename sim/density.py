# SPDX-License-Identifier: MIT
r"""`DensityGame`: a game whose local kernel depends on how crowded an agent's zone is.

.. math:: s_i' \sim P_l(\cdot | g, b(N_{s_i} / n), s_i, a_i)

with N the counts of all n agents. Agents no longer move independently given g, so the symmetric
power of one kernel, which the exact operator applies, does not cover it. What remains exact is
simulation in counts, since agents of one zone are alike: `density_rollout`. What remains of G-LEARN
is its sampled form, with the crowd of a zone taken from the histogram itself: `density_g_learn`.

| symbol | name | shape |
|---|---|---|
| P | `P` | (S_g, B, S_l, A_l, S_l) |
| - | `edges`: shares at which the next bin begins | (B - 1,) |
| w | `occupancy`: share of (g, s, b) among the agents in (g, s) | (S_g, S_l, B) |
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import parallel_map, thread_count
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.grid import all_counts, binomials, check_grid
from kofn.controller.core.policy import Policy
from kofn.controller.core.rollouts import Records, Rollouts, resolve_horizon
from kofn.sim import _density_kernels as kernels
from kofn.sim.world import FloatArray, IntArray

#: Next histograms drawn for each cell by the sampled G-LEARN.
SAMPLES = 24

#: Bins whose chances differ by no more than this are equal.
EVEN = 1e-12

_SWEEPS = 10_000
_TIE = 1e-11


@dataclass(frozen=True, eq=False)
class DensityGame:
    """A game with a local kernel for each bin of the source zone's share.

    Parameters
    ----------
    game
        Rewards, global kernel, discount and start; agents do not move by its own P_l.
    P
        Shape (S_g, B, S_l, A_l, S_l) or with a first axis of 1 where targets do not matter.
    edges
        Shape (B - 1,), rising within 0 to 1.

    Raises
    ------
    InputError
        Shapes that do not fit, rows that are no distributions, or a game whose locals see the next
        global state.
    """

    game: Game
    P: FloatArray
    edges: FloatArray

    def __post_init__(self) -> None:
        game, P = self.game, self.P
        if game.local_sees != "current":
            raise InputError("a crowd-dependent kernel needs locals that see the current target")
        G, S, A = game.n_global, game.n_local, game.n_local_actions
        bins = self.edges.size + 1
        if P.shape not in {(G, bins, S, A, S), (1, bins, S, A, S)}:
            raise InputError(
                f"a crowd-dependent kernel of shape {P.shape} with {bins} bins does not fit game "
                f"{game.name!r}, which asks for {(G, bins, S, A, S)}"
            )
        if not np.allclose(P.sum(axis=-1), 1.0, atol=1e-9) or P.min() < 0:
            raise InputError("a row of the crowd-dependent kernel is no distribution")
        whole = np.ascontiguousarray(np.broadcast_to(P, (G, bins, S, A, S)))
        object.__setattr__(self, "P", whole)

    @property
    def n_bins(self) -> int:
        """Bins B."""
        return int(self.edges.size) + 1

    @cached_property
    def even(self) -> bool:
        """Whether bins are all equal, so that agents move independently given g."""
        return float(np.ptp(self.P, axis=1).max()) <= EVEN

    def motion(self, pi_l: FloatArray) -> FloatArray:
        """Return the kernel under a local policy, shape (S_g, B, S_l, S_l)."""
        mean: FloatArray = np.ascontiguousarray(np.einsum("gja,gbjal->gbjl", pi_l, self.P))
        return mean

    def bins(self, counts: IntArray) -> IntArray:
        """Return the bin of each zone, same shape as counts (.., S_l)."""
        share = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
        found: IntArray = np.searchsorted(self.edges, share, side="right").astype(np.int64)
        return found

    def plain_at(self, occupancy: FloatArray, name: str = "") -> Game:
        """Return the ordinary game whose kernel is the mean over the bins that agents were in.

        Parameters
        ----------
        occupancy
            Weights of the bins, shape (S_g, S_l, B); a row of zeros takes all bins alike.
        name
            Of the game.
        """
        total = occupancy.sum(axis=-1, keepdims=True)
        weights = np.where(total > 0, occupancy / np.maximum(total, 1e-300), 1.0 / self.n_bins)
        rows = np.einsum("gjb,gbjal->gjal", weights, self.P)
        game = self.game
        return Game(
            game.P_g,
            game.r_g,
            rows,
            game.r_l,
            game.gamma,
            initial=game.initial,
            horizon=game.horizon,
            name=name or game.name,
        )

    @cached_property
    def tables(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """P_g, r_g and the laws of the start: writable copies, as compiled code wants them."""
        law_g, law_l = self.game.initial.resolve(self.game.n_global, self.game.n_local)
        return np.array(self.game.P_g), np.array(self.game.r_g), np.array(law_g), np.array(law_l)


def density_rollout(
    density: DensityGame,
    policy: Policy,
    *,
    n: int,
    k: int,
    horizon: int | None = None,
    rollouts: int = 1000,
    seed: int = 0,
    memory: float | str | None = "auto",
    hold: int = 0,
    record: bool = False,
) -> Rollouts:
    """Play episodes of n agents in counts, k of them polled in each step.

    Parameters
    ----------
    density
        How agents move.
    policy
        For a game of the same shape; its own kernels serve its belief only.
    n, k, horizon, rollouts, seed, memory
        As for `core.rollout`; episodes depend on the seed and their index alone.
    hold
        0: the policy's dispatcher moves the target. Else a schedule does: a new target, uniform
        over the others, every `hold` steps.
    record
        Keep s_g, a_g and counts of every step; `sample` and what follows stay empty.
    """
    game = density.game
    if not 1 <= k <= n:
        raise InputError(f"poll size {k} must lie in 1..{n}, the fleet size")
    if rollouts < 1:
        raise InputError(f"rollouts {rollouts} must be at least 1")
    if hold < 0:
        raise InputError(f"hold {hold} must be at least 0 steps")
    if policy.game.r_l.shape != game.r_l.shape or policy.game.P_g.shape != game.P_g.shape:
        policy.check_game(game)
    steps = resolve_horizon(game, horizon)
    policy = policy.in_play(k, memory)
    cap = policy.memory_cap(k, memory)
    P_g, r_g, law_g, law_l = density.tables
    pi_l = np.array(policy.pi_l)
    motion = density.motion(pi_l)
    r_pi = np.ascontiguousarray(np.einsum("gja,gja->gj", pi_l, game.r_l))
    belief_kernels = np.ascontiguousarray(policy.game.marginals(pi_l)[0])
    squares = (belief_kernels**2).sum(axis=-1)
    remembered = policy.remembers(k, memory)
    prior = np.zeros_like(policy.prior) if remembered else np.array(policy.prior)
    seed_bits = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
    size = rollouts if record else 0
    shape = (size, steps if record else 0)
    s_g, a_g = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    counts = np.zeros((*shape, game.n_local), dtype=np.int64)
    returns, hits = np.empty(rollouts), np.empty(rollouts)
    first_belief = np.array(policy.belief(k, memory).weights)
    action, table = np.array(policy.action), np.array(binomials(policy.grid, game.n_local))
    edges = np.array(density.edges)

    def play(bounds: tuple[int, int]) -> None:
        kernels.episodes(
            bounds[0], bounds[1], seed_bits, n, k, steps, hold, policy.grid, cap, game.gamma,
            float(game.initial.alpha or 0.0), law_g, law_l, P_g, r_g, motion, r_pi, edges,
            belief_kernels, squares, first_belief, prior, action, table, returns, hits, record,
            s_g, a_g, counts,
        )  # fmt: skip

    pieces = np.linspace(0, rollouts, min(rollouts, 4 * thread_count()) + 1).astype(int).tolist()
    parallel_map(play, list(itertools.pairwise(pieces)))
    empty = np.zeros((0, 0))
    records = Records(s_g, a_g, counts, counts[:0], s_g[:0], s_g[:0] > 0, empty)
    return Rollouts(returns, hits / steps, n, k, steps, cap, records if record else None)


def occupancy(density: DensityGame, played: Rollouts) -> FloatArray:
    """Return how many agents were met in each (g, s, b), shape (S_g, S_l, B), of recorded play."""
    records = played.records
    if records is None:
        raise InputError("occupancy needs rollouts with a record")
    game = density.game
    weights = np.zeros((game.n_global, game.n_local, density.n_bins))
    bins = density.bins(records.counts)
    g = np.broadcast_to(records.s_g[..., None], bins.shape)
    s = np.broadcast_to(np.arange(game.n_local), bins.shape)
    np.add.at(weights, (g, s, bins), records.counts)
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class SampledSolution:
    """The result of `density_g_learn`; fields as in `core.GlobalSolution`."""

    value: FloatArray
    action: npt.NDArray[np.int32]
    sweeps: int
    error_bound: float
    samples: int


def density_g_learn(
    density: DensityGame,
    pi_l: npt.ArrayLike,
    k: int,
    *,
    samples: int = SAMPLES,
    tol: float = 1e-3,
    seed: int = 0,
    start: FloatArray | None = None,
    watch: Callable[[], None] = lambda: None,
) -> SampledSolution:
    """Solve for the dispatcher's best response to a local policy, by sampled next histograms.

    The closed system of k agents, in which a zone is as crowded as the histogram says. `samples`
    next histograms of each (g, c) are drawn once and used in all sweeps, otherwise there is no
    fixed point (the paper's empirical operator). Value iteration with MacQueen's bounds.

    Parameters
    ----------
    density, pi_l
        How agents move; the local policy, shape (S_g, S_l, A_l).
    k
        Agents in a histogram.
    samples
        Next histograms of each (g, c).
    tol
        Error bound of the values, at which sweeps end.
    seed
        Of the draws.
    start
        Values to begin with, shape (S_g, M).
    watch
        Called after each sweep.
    """
    game = density.game
    points = check_grid(k, game.n_local, game.n_global)
    if samples < 1:
        raise InputError(f"samples {samples} must be at least 1")
    local = game.local_policy(pi_l)
    motion, edges = density.motion(local), np.array(density.edges)
    counts = np.ascontiguousarray(all_counts(k, game.n_local))
    table = np.array(binomials(k, game.n_local))
    following = np.empty((game.n_global, points, samples), dtype=np.int32)
    seeds = np.random.SeedSequence(seed).generate_state(game.n_global, np.uint64) >> 1

    def draw(g: int) -> None:
        kernels.successors(counts, int(seeds[g]), g, edges, motion, table, following[g])

    parallel_map(draw, range(game.n_global))
    earned = np.einsum("mj,gj->gm", counts / k, np.einsum("gja,gja->gj", local, game.r_l))
    value = np.zeros((game.n_global, points)) if start is None else np.array(start)
    gamma, scale = game.gamma, game.gamma / (1 - game.gamma) if game.gamma < 1 else 1.0
    sweeps = 0
    while sweeps < _SWEEPS:
        sweeps += 1
        ahead = np.empty((game.n_global, game.n_global, points))  # g, s', c
        for g in range(game.n_global):
            ahead[g] = value[:, following[g]].mean(axis=-1)
        q = (
            game.r_g[:, :, None]
            + earned[:, None, :]
            + gamma * np.einsum("gas,gsm->gam", game.P_g, ahead)
        )
        best = q.max(axis=1)
        change = best - value
        low, high = float(change.min()), float(change.max())
        value = best
        watch()
        if scale * (high - low) / 2 <= tol:
            break
    middle = value + scale * (high + low) / 2
    tied = q >= best[:, None, :] - _TIE * max(1.0, float(np.abs(best).max()))
    action = tied.argmax(axis=1).astype(np.int32)
    return SampledSolution(
        middle, action, sweeps, scale * (high - low) / 2, game.n_global * points * samples
    )
