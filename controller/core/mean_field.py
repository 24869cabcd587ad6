# SPDX-License-Identifier: MIT
r"""G-LEARN in the limit of many agents: plans that are linear in the fleet's distribution.

With a fixed local policy and n large, the shares mu of the fleet over local states move by
themselves, mu' = mu P^pi[s_g]. A *plan* fixes the global action now and, for each next global
state, the plan that follows. Its value is linear in mu,

.. math:: \alpha(j) = r_g(s,a) + r^\pi(s,j)
   + \gamma \sum_{s'} P_g(s'|s,a) \sum_{j'} P^\pi_{s}(j'|j)\, \alpha_{s'}(j'),
   \qquad V(s,\mu) = \max_{\alpha \in A_s} \langle \alpha, \mu \rangle,

so the limit of the histogram grid K -> infinity needs no grid: the cost grows with S_l^2, not with
C(K + S_l - 1, S_l - 1). (With `local_sees="next"` the agents move by P^pi[s'].) It is the equation
of a partially observed process whose hidden state is one agent, and it is solved as such, point by
point: V is kept from falling at sampled (s_g, mu), each sweep backs up points until all have risen.
Every V met on the way is the value of plans that can be followed, hence a lower bound.

Since plans are linear, what is expected of one under uncertainty is its value at the expected mu:
looking a posterior mean up wastes nothing as long as no further poll is counted on.

======  ===========  ====================  ========================================
symbol  name         shape                 meaning
======  ===========  ====================  ========================================
alpha   plans        (S_g, S_l, width)     value of each plan for each local state
a       actions      (S_g, width)          first action of each plan
mu      fields       (H, S_l)              shares of the fleet
======  ===========  ====================  ========================================

Reference: Spaan & Vlassis 2005, *Perseus*, arXiv 1109.2145.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _mean_field_kernels as kernels
from kofn.controller.core._arguments import (
    MAX_TIMES,
    check_int,
    check_kind,
    check_real,
    check_seed,
    distribution,
    index_array,
    weights_table,
)
from kofn.controller.core._jit import parallel_map
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.grid import all_counts, check_grid

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

#: Points, most sweeps, and the rise per sweep (relative to the value) that ends them.
DEFAULT_POINTS = 6000
DEFAULT_SWEEPS = 80
DEFAULT_TOL = 1e-4

#: Most points: what is played to meet them is held at once.
MAX_POINTS = 10**6

#: Sweeps in a row that must rise by less: one of them may have been unlucky with its points.
_CALM = 3

#: Fields drawn from the game's own initial law where none are given.
_STARTS = 300

#: Steps of the episodes that collect points in a game without horizon.
_STEPS = 50

#: How long an exploring dispatcher stays with an action.
_HOLD = 8


@dataclass(frozen=True, slots=True, eq=False)
class MeanFieldSolution:
    """The result of `mean_field_learn`.

    Attributes
    ----------
    plans : tuple of S_g arrays, shapes (S_l, size)
        Value of each plan for each local state.
    actions : tuple of S_g arrays of int, shapes (size,)
        First action of each plan.
    sweeps : int
    value : float
        Mean of V over the points.
    """

    plans: tuple[FloatArray, ...]
    actions: tuple[IntArray, ...]
    sweeps: int
    value: float

    def decide(self, s_g: npt.ArrayLike, fields: npt.ArrayLike) -> IntArray:
        """Return the first action of the best plan.

        Parameters
        ----------
        s_g : array of int, shape (E,)
        fields : array, shape (E, S_l)
            Shares, or weights of any total, of the fleet.
        """
        s_g, fields = self._checked(s_g, fields)
        chosen = np.empty(len(s_g), dtype=np.int64)
        for s in np.unique(s_g):
            here = s_g == s
            chosen[here] = self.actions[s][(fields[here] @ self.plans[s]).argmax(axis=1)]
        return chosen

    def values(self, s_g: npt.ArrayLike, fields: npt.ArrayLike) -> FloatArray:
        """Return V, shape (E,), at global states (E,) and shares (E, S_l)."""
        s_g, fields = self._checked(s_g, fields)
        result = np.empty(len(s_g))
        for s in np.unique(s_g):
            here = s_g == s
            result[here] = (fields[here] @ self.plans[s]).max(axis=1)
        return result

    def _checked(self, s_g: npt.ArrayLike, fields: npt.ArrayLike) -> tuple[IntArray, FloatArray]:
        weights = weights_table("fields", fields, 2)
        states = index_array("s_g", s_g, weights.shape[:1], len(self.plans))
        if weights.shape[1] != len(self.plans[0]):
            raise InputError(
                f"fields have {weights.shape[1]} local states, but the plans {len(self.plans[0])}"
            )
        return states, weights

    def table(self, grid: int) -> npt.NDArray[np.int32]:
        """Return the action at each point of a histogram grid, shape (S_g, M), for a `Policy`."""
        n_local, n_global = len(self.plans[0]), len(self.plans)
        check_grid(grid, n_local, n_global)
        fields = all_counts(grid, n_local) / grid
        rows = [self.decide(np.full(len(fields), s), fields) for s in range(n_global)]
        return np.array(rows, dtype=np.int32)


def mean_field_learn(
    game: Game,
    pi_l: npt.ArrayLike,
    fields: npt.ArrayLike | None = None,
    *,
    points: int = DEFAULT_POINTS,
    sweeps: int = DEFAULT_SWEEPS,
    tol: float = DEFAULT_TOL,
    seed: int = 0,
) -> MeanFieldSolution:
    """Return the best response of the global agent to a fixed local policy, for many agents.

    Parameters
    ----------
    game : Game
    pi_l : array, shape (S_g, S_l, A_l)
        Local policy.
    fields : array, shape (H, S_l), optional
        Shares of the fleet at the start of episodes; drawn from the game's initial law if omitted.
    points : int
        Sampled pairs (s_g, mu) at which V is raised.
    sweeps : int
        Largest number of sweeps.
    tol : float
        Ends the sweeps when the mean of V rises by less three times in a row, relative to its size.
    seed : int
        Of the points and the order of backups.
    """
    check_kind("game", game, Game)
    points = check_int("points", points, 1, MAX_POINTS)
    sweeps = check_int("sweeps", sweeps, 1, MAX_TIMES)
    tol, seed = check_real("tolerance", tol, least=0), check_seed(seed)
    P_pi, r_pi = game.marginals(pi_l)
    rng = np.random.default_rng(seed)
    starts = _draw_fields(game, rng) if fields is None else distribution("fields", fields, 2)
    if starts.shape[1] != game.n_local:
        raise InputError(
            f"fields have {starts.shape[1]} local states, but the game has {game.n_local}"
        )
    constant = constant_plans(game, P_pi, r_pi)
    solution = MeanFieldSolution(
        plans=tuple(constant),
        actions=(np.arange(game.n_global_actions),) * game.n_global,
        sweeps=0,
        value=0.0,
    )
    s_g, met = _collect(game, P_pi, starts, solution, points, rng)
    groups = [met[s_g == s] for s in range(game.n_global)]
    value = float(solution.values(s_g, met).mean())
    calm = 0
    while solution.sweeps < sweeps and calm < _CALM:
        solution = _sweep(game, P_pi, r_pi, groups, solution, rng)
        before, value = value, float(solution.values(s_g, met).mean())
        calm = calm + 1 if value - before <= tol * abs(value) else 0
    return replace(solution, value=value)


def constant_plans(game: Game, P_pi: FloatArray, r_pi: FloatArray) -> FloatArray:
    """Return the values of holding each global action for ever, shape (S_g, S_l, A_g)."""
    plans = np.zeros((game.n_global, game.n_local, game.n_global_actions))
    scale = float(np.abs(game.r_g).max() + np.abs(r_pi).max()) or 1.0
    moves = "gjl,gla->gja" if game.local_sees == "current" else "gah,hjl,hla->gja"
    for _ in range(10_000):
        if game.local_sees == "current":
            expected = np.einsum("gah,hla->gla", game.P_g, plans, optimize=True)
            ahead = np.einsum(moves, P_pi, expected, optimize=True)
        else:
            ahead = np.einsum(moves, game.P_g, P_pi, plans, optimize=True)
        new = game.r_g[:, None, :] + r_pi[:, :, None] + game.gamma * ahead
        change = float(np.abs(new - plans).max())
        plans = new
        if change <= 1e-6 * scale * (1 - game.gamma):
            break
    return plans


def effective_kernel_of_plans(
    game: Game, pi_l: npt.ArrayLike, solution: MeanFieldSolution, fields: FloatArray, seed: int = 0
) -> FloatArray:
    """Return how the global state moves when the plans are followed, shape (S_g, S_g).

    The discounted mean over episodes of the limit game; a state that they never meet moves as
    under the action that most likely keeps it.
    """
    rng = np.random.default_rng(seed)
    P_pi, _ = game.marginals(pi_l)
    states = np.arange(game.n_global)
    holding = np.argmax(game.P_g[states, :, states], axis=1)
    flow = 1e-6 * game.P_g[states, holding]
    weight = 1.0
    for s, _, a, _ in _episodes(game, P_pi, fields, solution, 0.0, rng, 500):
        np.add.at(flow, s, weight * game.P_g[s, a])
        weight *= game.gamma
    result: FloatArray = flow / flow.sum(axis=1, keepdims=True)
    return result


def _draw_fields(game: Game, rng: np.random.Generator) -> FloatArray:
    _, law_l = game.initial.resolve(game.n_global, game.n_local)
    if game.initial.alpha is None:
        return law_l[None, :]
    return rng.dirichlet(np.full(game.n_local, game.initial.alpha), _STARTS)


def _episodes(
    game: Game,
    P_pi: FloatArray,
    fields: FloatArray,
    solution: MeanFieldSolution,
    exploring: float,
    rng: np.random.Generator,
    episodes: int,
) -> list[tuple[IntArray, FloatArray, IntArray, IntArray]]:
    """Play the limit game; return (s_g, mu, a_g, s_g') of each step.

    A share of the episodes explores: every few steps it draws an action, or stays with what the
    plans say, and holds it.
    """
    law_g, _ = game.initial.resolve(game.n_global, game.n_local)
    s = rng.choice(game.n_global, episodes, p=law_g)
    field = fields[rng.integers(len(fields), size=episodes)]
    explores = rng.random(episodes) < exploring
    held = np.zeros(episodes, dtype=np.int64)
    cumulated = game.P_g.cumsum(axis=2)
    steps = []
    for step in range(game.horizon or _STEPS):
        a = solution.decide(s, field)
        if step % _HOLD == 0:
            drawn = rng.integers(game.n_global_actions, size=episodes)
            held = np.where(rng.random(episodes) < 0.5, drawn, a)
        a = np.where(explores, held, a)
        u = rng.random((episodes, 1))
        after = np.minimum((cumulated[s, a] < u).sum(axis=1), game.n_global - 1)
        steps.append((s, field, a, after))
        mover = after if game.local_sees == "next" else s
        field = np.matmul(field[:, None, :], P_pi[mover])[:, 0]
        s = after
    return steps


def _collect(
    game: Game,
    P_pi: FloatArray,
    fields: FloatArray,
    solution: MeanFieldSolution,
    points: int,
    rng: np.random.Generator,
) -> tuple[IntArray, FloatArray]:
    """Return sampled points, s_g of shape (points,) and mu of shape (points, S_l)."""
    length = game.horizon or _STEPS
    steps = _episodes(game, P_pi, fields, solution, 0.5, rng, -(-2 * points // length))
    s_g = np.concatenate([step[0] for step in steps])
    met = np.concatenate([step[1] for step in steps])
    kept = rng.permutation(len(s_g))[:points]
    return s_g[kept], met[kept]


def _sweep(
    game: Game,
    P_pi: FloatArray,
    r_pi: FloatArray,
    groups: list[FloatArray],
    old: MeanFieldSolution,
    rng: np.random.Generator,
) -> MeanFieldSolution:
    """Back all points up once, the global states side by side."""
    sizes = np.array([len(actions) for actions in old.actions])
    width = int(sizes.max())
    plans = np.zeros((game.n_global, game.n_local, width))
    actions = np.zeros((game.n_global, width), dtype=np.int64)
    for s, size in enumerate(sizes):
        plans[s, :, :size] = old.plans[s]
        actions[s, :size] = old.actions[s]
    orders = [rng.permutation(len(group)) for group in groups]
    P_g, r_g = np.array(game.P_g), np.array(game.r_g)

    def back_up(s: int) -> tuple[FloatArray, IntArray]:
        group = groups[s]
        if len(group) == 0:
            return old.plans[s], old.actions[s]
        new_plans = np.empty((game.n_local, len(group)))
        new_actions = np.empty(len(group), dtype=np.int64)
        count = kernels.back_up_state(
            s,
            group,
            orders[s],
            plans,
            sizes,
            actions,
            P_g,
            r_g,
            P_pi,
            r_pi,
            game.gamma,
            game.local_sees == "next",
            new_plans,
            new_actions,
        )
        return new_plans[:, :count].copy(), new_actions[:count].copy()

    backed = parallel_map(back_up, range(game.n_global))
    return MeanFieldSolution(
        plans=tuple(plan for plan, _ in backed),
        actions=tuple(action for _, action in backed),
        sweeps=old.sweeps + 1,
        value=0.0,
    )
