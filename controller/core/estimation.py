# SPDX-License-Identifier: MIT
r"""The kernels of a game from logged transitions, with how much is known of each row.

Each row of P_l and P_g, a state with an action, has a Dirichlet law: prior pseudo-transitions plus
the transitions that were seen,

.. math:: P(x, \cdot) \sim Dirichlet(\alpha_x + N_x), \qquad
   \bar P(x, y) = (\alpha_{xy} + N_{xy}) / (|\alpha_x| + |N_x|).

The posterior mean is the game to train on; draws from the posterior tell what else the data allow.
A statement that needs no prior comes from the empirical row N_x / m, m = |N_x|: with a chance of at
least 1 - d it lies, for every m at once, within

.. math:: \|N_x/m - P(x, \cdot)\|_1 \le \sqrt{2 (1 + 1/m) \ln((2^S - 2) \sqrt{m+1} / d) / m}

(Weissman et al. 2003 for the union over the sets of S next states; the factors with m, from the
method of mixtures, make it hold at a random m, so whoever logs may choose actions as it goes). The
rows share the error probability evenly, so all of them hold at once.

======  ============  =========================  =========================================
symbol  name          shape                      meaning
======  ============  =========================  =========================================
N_l     P_l_counts    (S_g, S_l, A_l, S_l)       local transitions seen
N_g     P_g_counts    (S_g, A_g, S_g)            global transitions seen
alpha   prior_l, _g   as the counts              pseudo-transitions of the prior
======  ============  =========================  =========================================

With `local_sees="next"` an agent moves after the global state has changed, so its row is that of
the global state at the end of the step.

References: Weissman et al. 2003 (HPL-2003-97); Maillard 2019, on the method of mixtures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kofn.controller.core._arguments import (
    MAX_WHOLE,
    check_kind,
    check_real,
    check_seed,
    rewards,
    whole_table,
)
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import FloatArray, Game, InitialLaw, IntArray
from kofn.controller.core.logged_transitions import GlobalTransitions, LocalTransitions

if TYPE_CHECKING:
    import numpy.typing as npt

    from kofn.controller.core.game import LocalSees

#: Pseudo-transitions of a row's prior unless given, spread evenly over the next states.
PRIOR_WEIGHT = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedGame:
    """What logged transitions say about the kernels of a game.

    Attributes
    ----------
    game : Game
        Posterior mean: a game like any other, to train and to evaluate on.
    P_l_counts, P_g_counts : array of int
        Transitions seen, shapes (S_g, S_l, A_l, S_l) and (S_g, A_g, S_g).
    prior_l, prior_g : array
        Pseudo-transitions of the prior, same shapes.
    rewards : {"known", "estimated"}
        Whether a reward table is made of observed means.
    """

    game: Game
    P_l_counts: IntArray
    P_g_counts: IntArray
    prior_l: FloatArray
    prior_g: FloatArray
    rewards: str = field(default="known")

    @property
    def visits_l(self) -> IntArray:
        """Transitions seen from each row of P_l, shape (S_g, S_l, A_l)."""
        visits: IntArray = self.P_l_counts.sum(axis=-1)
        return visits

    @property
    def visits_g(self) -> IntArray:
        """Transitions seen from each row of P_g, shape (S_g, A_g)."""
        visits: IntArray = self.P_g_counts.sum(axis=-1)
        return visits

    @property
    def unvisited_l(self) -> npt.NDArray[np.bool_]:
        """Rows of P_l that are the prior's alone, shape (S_g, S_l, A_l)."""
        unvisited: npt.NDArray[np.bool_] = self.visits_l == 0
        return unvisited

    @property
    def unvisited_g(self) -> npt.NDArray[np.bool_]:
        """Rows of P_g that are the prior's alone, shape (S_g, A_g)."""
        unvisited: npt.NDArray[np.bool_] = self.visits_g == 0
        return unvisited

    def sample(self, seed: int) -> Game:
        """Return a game whose kernels are drawn from the posterior."""
        seed = check_seed(seed)
        rng_g, rng_l = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(2))
        game = self.game
        return Game(
            _dirichlet(rng_g, self.prior_g + self.P_g_counts),
            game.r_g,
            _dirichlet(rng_l, self.prior_l + self.P_l_counts),
            game.r_l,
            game.gamma,
            local_sees=game.local_sees,
            initial=game.initial,
            horizon=game.horizon,
            name=f"{game.name} draw {seed}".strip(),
        )

    def l1_radius(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return how far the true rows may be from those of `game`, in L1 norm, all at once.

        With a chance of at least `level` over the data every row of both kernels lies within its
        radius. The prior's pull away from the empirical row is added; a row that was never visited
        has the radius 2, which excludes nothing.

        Parameters
        ----------
        level : float
            Joint confidence, between 0 and 1.

        Returns
        -------
        radii of P_g, shape (S_g, A_g), and of P_l, shape (S_g, S_l, A_l)
        """
        level = check_real("confidence level", level, above=0, below=1)
        rows = self.visits_g.size + self.visits_l.size
        share = (1 - level) / rows
        return (
            _radius(self.P_g_counts, self.game.P_g, share),
            _radius(self.P_l_counts, self.game.P_l, share),
        )


def blank_game(
    r_g: npt.ArrayLike,
    r_l: npt.ArrayLike,
    gamma: float,
    *,
    local_sees: LocalSees = "current",
    initial: InitialLaw | None = None,
    horizon: int | None = None,
    name: str = "",
) -> Game:
    """Return a game with these rewards in which everything is drawn evenly: a template.

    Parameters
    ----------
    r_g, r_l : array_like
        Rewards, shapes (S_g, A_g) and (S_g, S_l, A_l); they give the sizes.
    gamma, local_sees, initial, horizon, name
        As for `Game`.
    """
    earned_g, earned_l = rewards("r_g", r_g, 2), rewards("r_l", r_l, 3)
    n_global, n_local = len(earned_g), earned_l.shape[1]
    return Game(
        np.full((*earned_g.shape, n_global), 1 / n_global),
        earned_g,
        np.full((*earned_l.shape, n_local), 1 / n_local),
        earned_l,
        gamma,
        local_sees=local_sees,
        initial=InitialLaw() if initial is None else initial,
        horizon=horizon,
        name=name,
    )


def estimate_game(
    template: Game,
    *,
    local: LocalTransitions | None = None,
    global_: GlobalTransitions | None = None,
    prior: Game | None = None,
    prior_weight: float = PRIOR_WEIGHT,
) -> EstimatedGame:
    """Estimate the kernels of a game from logged transitions.

    Parameters
    ----------
    template : Game
        Sizes, rewards, discount, horizon and initial law, which are taken as known, and which of
        two global states moves the local agents. Its kernels are not used. See `blank_game`.
    local : LocalTransitions, optional
        Moves of single agents. With rewards (locals that see the current state only) the means of
        the rows that were visited replace those of the template.
    global_ : GlobalTransitions, optional
        Moves of the global agent; rewards as above.
    prior : Game, optional
        A game that is believed, for instance the one that a simulator was made for; none means
        that all next states are equally likely.
    prior_weight : float
        Pseudo-transitions in each row that the prior is worth.
    """
    check_kind("template", template, Game)
    if local is not None:
        check_kind("local", local, LocalTransitions)
    if global_ is not None:
        check_kind("global_", global_, GlobalTransitions)
    counts_l, counts_g = np.zeros(template.P_l.shape), np.zeros(template.P_g.shape)
    r_l, r_g = template.r_l, template.r_g
    estimated = False
    if local is not None:
        mover, name = local.s_g, "s_g"
        if template.local_sees == "next":
            if local.s_g_next is None:
                raise InputError(
                    "local transitions lack s_g_next, the global state that moves locals which "
                    "see the next one"
                )
            if local.reward is not None:
                raise InputError(
                    "local rewards cannot be estimated where locals see the next global state: "
                    "the action that earns is not the one that moves"
                )
            mover, name = local.s_g_next, "s_g_next"
        rows = _index(
            "local transitions",
            {name: mover, "s_l": local.s_l, "a_l": local.a_l},
            template.r_l.shape,
        )
        counts_l = _tally("local transitions", rows, "s_l_next", local.s_l_next, counts_l.shape)
        if local.reward is not None:
            r_l, estimated = _means(rows, local.reward, template.r_l), True
    if global_ is not None:
        rows = _index(
            "global transitions",
            {"s_g": global_.s_g, "a_g": global_.a_g},
            template.r_g.shape,
        )
        counts_g = _tally(
            "global transitions", rows, "s_g_next", global_.s_g_next, counts_g.shape
        )  # fmt: skip
        if global_.reward is not None:
            r_g, estimated = _means(rows, global_.reward, template.r_g), True
    return _posterior(template, r_g, r_l, counts_g, counts_l, prior, prior_weight, estimated)


def estimate_from_counts(
    template: Game,
    *,
    P_l_counts: npt.ArrayLike,
    P_g_counts: npt.ArrayLike,
    prior: Game | None = None,
    prior_weight: float = PRIOR_WEIGHT,
) -> EstimatedGame:
    """Estimate the kernels of a game from tables of counts, of the shapes of P_l and P_g."""
    check_kind("template", template, Game)
    tables = []
    for name, given, shape in (
        ("P_g_counts", P_g_counts, template.P_g.shape),
        ("P_l_counts", P_l_counts, template.P_l.shape),
    ):
        tables.append(whole_table(name, given, len(shape), shape).astype(np.float64))
    return _posterior(
        template, template.r_g, template.r_l, tables[0], tables[1], prior, prior_weight, False
    )


def _posterior(
    template: Game,
    r_g: FloatArray,
    r_l: FloatArray,
    counts_g: FloatArray,
    counts_l: FloatArray,
    prior: Game | None,
    prior_weight: float,
    estimated: bool,
) -> EstimatedGame:
    prior_weight = check_real("prior weight", prior_weight, above=0, most=MAX_WHOLE)
    if prior is None:
        prior = blank_game(template.r_g, template.r_l, template.gamma)
    check_kind("prior", prior, Game)
    for name in ("P_g", "P_l"):
        shape, asked = getattr(prior, name).shape, getattr(template, name).shape
        if shape != asked:
            raise InputError(f"{name} of the prior has shape {shape}, but the game's is {asked}")
    prior_g, prior_l = prior_weight * prior.P_g, prior_weight * prior.P_l
    alpha_g, alpha_l = prior_g + counts_g, prior_l + counts_l
    game = Game(
        alpha_g / alpha_g.sum(axis=-1, keepdims=True),
        r_g,
        alpha_l / alpha_l.sum(axis=-1, keepdims=True),
        r_l,
        template.gamma,
        local_sees=template.local_sees,
        initial=template.initial,
        horizon=template.horizon,
        name=f"{template.name} estimated".strip(),
    )
    seen = [counts.astype(np.int64) for counts in (counts_l, counts_g)]
    for array in (*seen, prior_l, prior_g):
        array.setflags(write=False)
    return EstimatedGame(
        game, seen[0], seen[1], prior_l, prior_g, "estimated" if estimated else "known"
    )


def _index(kind: str, columns: dict[str, IntArray], shape: tuple[int, ...]) -> IntArray:
    """Return the row that each transition belongs to, flat over `shape`."""
    for (name, array), size in zip(columns.items(), shape, strict=True):
        _below(f"{kind}: {name}", array, size)
    rows: IntArray = np.ravel_multi_index(tuple(columns.values()), shape)
    return rows


def _below(name: str, array: IntArray, size: int) -> None:
    if (bad := array >= size).any():
        i = int(bad.argmax())
        raise InputError(f"{name}[{i}] is {array[i]}, but the game has {size} of them")


def _tally(
    kind: str, rows: IntArray, name: str, after: IntArray, shape: tuple[int, ...]
) -> FloatArray:
    _below(f"{kind}: {name}", after, shape[-1])
    counts = np.bincount(rows * shape[-1] + after, minlength=math.prod(shape))
    return counts.reshape(shape).astype(np.float64)


def _means(rows: IntArray, reward: FloatArray, known: FloatArray) -> FloatArray:
    """Return the mean reward of each row, and what is known of rows without a transition."""
    visits = np.bincount(rows, minlength=known.size).reshape(known.shape)
    total = np.bincount(rows, weights=reward, minlength=known.size).reshape(known.shape)
    return np.where(visits > 0, total / np.maximum(visits, 1), known)


def _radius(counts: IntArray, mean: FloatArray, share: float) -> FloatArray:
    """Return L1 radii about the posterior mean that each fail with a chance of `share`."""
    n_states = counts.shape[-1]
    visits = counts.sum(axis=-1).astype(np.float64)
    if n_states == 1:
        return np.zeros(visits.shape)
    m = np.maximum(visits, 1)
    # ln(2^S - 2), for any S
    sets = n_states * math.log(2) + math.log1p(-(2.0 ** (1 - n_states)))
    radius = np.sqrt(2 * (1 + 1 / m) * (sets + 0.5 * np.log(m + 1) - math.log(share)) / m)
    pull = np.abs(counts / m[..., None] - mean).sum(axis=-1)
    result: FloatArray = np.where(visits > 0, np.minimum(2.0, radius + pull), 2.0)
    return result


def _dirichlet(rng: np.random.Generator, alpha: FloatArray) -> FloatArray:
    """Return a draw from the Dirichlet law of each row; entries without mass stay zero."""
    possible = alpha > 0
    shape = np.where(possible, alpha, 1.0)
    # A gamma variate of shape a is one of shape a + 1 times U^(1/a); logs keep tiny ones apart.
    boost = np.log(1 - rng.random(alpha.shape)) / shape
    logs = np.where(possible, np.log(rng.standard_gamma(shape + 1)) + boost, -np.inf)
    weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
    drawn: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return drawn
