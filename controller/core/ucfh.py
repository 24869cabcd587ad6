# SPDX-License-Identifier: MIT
r"""UCFH on the k-chained MDP: optimistic learning with a fixed horizon.

The paper's L-LEARN names UCFH (Dann & Brunskill 2015) as the learner on the chain. An episode of
`horizon` steps has H = horizon x (acts per step) sub-steps. Rewards are known, moved to [0, 1] and
weighted by gamma^step; transitions are learned, one estimate for each of the N states and actions:

1. *plan*: with p seen in n draws, the model may have every p' with

   .. math::
      |p' - p| &\le \min\Big(\sqrt{L / 2n},\; \sqrt{2 p (1-p) L / n} + 7 L / 3(n-1)\Big), \\
      |\sqrt{p'(1-p')} - \sqrt{p(1-p)}| &\le \sqrt{2 L / (n-1)}, \qquad L = \ln(6 / \delta_1),

   and pi_t is optimal under the most favourable model (extended value iteration);
2. *play* pi until some pair has been visited max(m w_min, n) times since its last update;
3. *update* the estimates of the pairs that are due, while n < N m H.

Constants: w_min = eps/(4 H N), U_max = N A log2(N H / w_min), delta_1 = delta/(2 C U_max) and

.. math:: m = 512 (\log_2 \log_2 H)^2 \frac{C H^2}{\epsilon^2} \log_2^2\frac{8 H^2 N^2}{\epsilon}
   \ln \frac{6 N A C \log_2^2 (4 N^2 H^2 / \epsilon)}{\delta}.

Where we differ: (a) m, astronomic even for two replicas, may be given, and is refused with the
number of samples it plans where that exceeds the limit; (b) UCFH never ends, here it ends once the
policy is certified: its value under the *least* favourable model is within epsilon of the
optimistic one, or when samples run out, or when every pair it visits is at the cap; (c) the
confidence sets are replaced by their convex hulls, and all pairs that are due are updated at once;
(d) log2 log2 H counts as 1 where it is less.

======  ===========  ============  ============================================
symbol  name         shape         meaning
======  ===========  ============  ============================================
N       n_states     scalar        states of the chain that occur
C       -            scalar        most successors of a state
n       n            (N, A_l)      draws that the estimates of a pair rest on
pi_t    policy       (H, N)        action of each sub-step
======  ===========  ============  ============================================

Reference: Dann & Brunskill, Sample Complexity of Episodic Fixed-Horizon Reinforcement Learning,
NeurIPS 2015, arXiv 1510.08906.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kofn.controller.core import _ucfh_kernels as kernels
from kofn.controller.core._arguments import check_int, check_real, check_seed
from kofn.controller.core.chain_tables import MAX_STATES, ChainTables, chain_tables, finite_value
from kofn.controller.core.chained import check_chain, needed_states, projections, realised_value
from kofn.controller.core.errors import InputError
from kofn.controller.core.rollouts import resolve_horizon
from kofn.controller.core.team import check_action

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, Game, IntArray

#: Largest policy, in acts of an episode times states.
MAX_CELLS = 20_000_000

#: Smallest certified gap, relative to the range of rewards: below it rounding decides.
LEAST_GAP = 1e-9

#: Transitions that a run may draw unless given.
MAX_SAMPLES = 20_000_000

#: Episodes that are played without a look at interrupts.
_BATCH = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class UCFHSolution:
    """The result of `ucfh_learn`. Values are discounted returns of `horizon` steps.

    Attributes
    ----------
    pi_l : array, shape (S_g, S_l, A_l)
        Projection of the learned policy, weighted by the visits that the learned model predicts.
    value, optimum : float
        Exact return of the learned policy in the chain, and the largest possible one.
    upper, lower : float
        What the learner knows: optimistic value, and pessimistic value of its policy.
    certified : bool
        Whether upper - lower reached epsilon: the policy is then epsilon-optimal with probability
        1 - delta.
    samples, episodes, updates : int
        Transitions drawn, episodes played, and times the policy was planned anew.
    states, m : int and float
        States of the chain that occur, and the constant m that was used.
    policy : array of int, shape (H, N)
        Action of each sub-step.
    """

    pi_l: FloatArray
    value: float
    optimum: float
    upper: float
    lower: float
    certified: bool
    samples: int
    episodes: int
    updates: int
    states: int
    m: float
    policy: IntArray


@dataclass(frozen=True, slots=True)
class Constants:
    """The constants of UCFH for rewards in [0, 1], see the module docstring."""

    w_min: float
    log_term: float
    m: float

    @classmethod
    def of(
        cls, states: int, actions: int, successors: int, length: int, epsilon: float, delta: float
    ) -> Constants:
        """Return the theoretical constants; `length` is H."""
        pairs = states * actions
        w_min = epsilon / (4 * length * states)
        updates = pairs * math.log2(states * length / w_min)
        delta_1 = delta / (2 * max(updates, 1.0) * successors)
        loglog = max(1.0, math.log2(math.log2(length))) if length > 2 else 1.0
        union = math.log2(4 * states**2 * length**2 / epsilon) ** 2
        m = (
            512
            * loglog**2
            * successors
            * (length / epsilon) ** 2
            * math.log2(8 * length**2 * states**2 / epsilon) ** 2
            * math.log(6 * pairs * successors * max(union, 1.0) / delta)
        )
        return cls(w_min, math.log(6 / delta_1), m)


def ucfh_learn(
    game: Game,
    pi_g: npt.ArrayLike,
    k: int,
    *,
    epsilon: float,
    delta: float = 0.1,
    horizon: int | None = None,
    m: float | None = None,
    max_samples: int = MAX_SAMPLES,
    seed: int = 0,
) -> UCFHSolution:
    """Learn the k-chained MDP against a global policy from episodes.

    Parameters
    ----------
    game : Game
    pi_g : array of int, shape (S_g, M(k))
        Global action of each cell of the grid of k agents.
    k : int
        Replicas.
    epsilon : float
        Certified gap to stop at, in units of the return.
    delta : float
        Probability with which the confidence sets may fail.
    horizon : int, optional
        Steps of an episode, by default as in `rollout`.
    m : float, optional
        Visits after which a pair counts as known; the theoretical constant unless given.
    max_samples : int
        Transitions to draw at most; a run that plans more (N A_l m) is refused.
    seed : int
        Same seed, same result.
    """
    check_chain(game, k)
    k = int(k)
    check_action(game, pi_g, k)
    steps = resolve_horizon(game, horizon)
    epsilon = check_real("epsilon", epsilon, above=0)
    delta = check_real("delta", delta, above=0, below=1)
    max_samples, seed = check_int("max_samples", max_samples, 1, 10**15), check_seed(seed)
    current = game.local_sees == "current"
    length = steps * (k if current else k + 1)
    states, actions = needed_states(game, k), game.n_local_actions
    successors = game.n_global * game.n_local if current else max(game.n_global, game.n_local)
    low, scale = _reward_range(game, k)
    if epsilon < LEAST_GAP * scale:
        raise InputError(f"epsilon {epsilon} is below {LEAST_GAP} of the reward range {scale:g}")
    constants = Constants.of(states, actions, successors, length, epsilon / scale, delta)
    m = constants.m if m is None else check_real("m", m, above=0)
    planned = states * actions * m
    if states > MAX_STATES or planned > max_samples:
        raise InputError(
            f"UCFH on a chain of {states} states with {actions} actions plans {planned:.3g} "
            f"samples (m = {m:.3g}), above the limits of {MAX_STATES} states or {max_samples} "
            "samples"
        )
    if length * states > MAX_CELLS:
        raise InputError(
            f"a policy of {length} acts on a chain of {states} states has {length * states} "
            f"entries, above the limit of {MAX_CELLS}"
        )

    tables = chain_tables(game, pi_g, k)
    weight = game.gamma ** (np.arange(length) // (length // steps)).astype(np.float64)
    reward = (tables.reward - low) / scale
    run = _Run(tables, reward, weight, constants, m, seed)
    episodes = updates = 0
    while True:
        upper, lower = run.plan()
        updates += 1
        left = max_samples // length - episodes
        if scale * (upper - lower) <= epsilon or left <= 0 or run.exhausted:
            break
        episodes += run.play(episodes, left)
    offset = low * float(weight.sum())
    upper, lower = scale * upper + offset, scale * lower + offset
    value, _ = finite_value(tables, weight, run.policy)
    optimum, _ = finite_value(tables, weight)
    candidates = projections([run.decisions(game.r_l.shape)])
    worth = [realised_value(game, pi_g, pi, k, 1e-6 * scale) for pi in candidates]
    return UCFHSolution(
        pi_l=candidates[int(np.argmax(worth))],
        value=value,
        optimum=optimum,
        upper=upper,
        lower=lower,
        certified=upper - lower <= epsilon * (1 + 1e-12),
        samples=episodes * length,
        episodes=episodes,
        updates=updates,
        states=states,
        m=m,
        policy=run.policy,
    )


class _Run:
    """Counts, confidence bounds, values and policy of one run."""

    def __init__(
        self,
        tables: ChainTables,
        reward: FloatArray,
        weight: FloatArray,
        constants: Constants,
        m: float,
        seed: int,
    ) -> None:
        self.tables, self.reward, self.weight = tables, np.ascontiguousarray(reward), weight
        self.log_term = constants.log_term
        self.threshold = m * constants.w_min
        shape, pairs = tables.probability.shape, tables.reward.shape
        self.cap = shape[0] * m * len(weight)
        self.n, self.visits = np.zeros(pairs, np.int64), np.zeros(pairs, np.int64)
        self.n_next, self.visits_next = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.low, self.high = np.zeros(shape), np.ones(shape)
        self.values = np.zeros((len(weight) + 1, shape[0]))
        self.policy = np.zeros((len(weight), shape[0]), np.int64)
        self.exhausted = False  # all that the policy visits is at the cap
        self.seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)

    def plan(self) -> tuple[float, float]:
        """Choose the optimistic policy; return its best and its worst value from the start."""
        tables = self.tables
        kernels.intervals(self.n, self.n_next, tables.width, self.log_term, self.low, self.high)
        bounds = []
        for optimistic in (True, False):
            kernels.extended_values(
                self.low,
                self.high,
                tables.successor,
                tables.width,
                self.reward,
                self.weight,
                tables.phases,
                optimistic,
                self.values,
                self.policy,
            )
            bounds.append(float(tables.start @ self.values[0]))
        return bounds[0], bounds[1]

    def play(self, first: int, most: int) -> int:
        """Play until a pair is due, update all that are, and return the episodes."""
        tables, played = self.tables, 0
        while played < most:
            batch = min(_BATCH, most - played)  # in pieces, so that an interrupt is heard
            before = self.visits.copy()
            done = kernels.play_until_due(
                self.seed,
                first + played,
                batch,
                tables.start,
                tables.successor,
                tables.probability,
                self.policy,
                self.threshold,
                self.cap,
                self.n,
                self.visits,
                self.visits_next,
            )
            played += done
            due = (self.visits >= np.maximum(self.threshold, self.n)) & (self.visits > 0)
            due &= self.n < self.cap
            if due.any():
                self.n[due] += self.visits[due]
                self.n_next[due] += self.visits_next[due]
                self.visits[due] = 0
                self.visits_next[due] = 0
                break
            self.exhausted = not ((self.visits > before) & (self.n < self.cap)).any()
            if self.exhausted:
                break
        return played

    def decisions(self, shape: tuple[int, int, int]) -> FloatArray:
        """Return how often the learned model expects each decision, (S_g, S_l, A_l)."""
        tables = self.tables
        states = np.arange(len(tables.start))
        inside = np.arange(tables.successor.shape[1]) < tables.width[:, None]
        guess = inside / tables.width[:, None]
        seen = self.n[:, :, None]
        model = np.where(seen > 0, self.n_next / np.maximum(seen, 1), guess[:, None, :])
        counts = np.zeros(shape)
        decided = tables.agent[:, 0] >= 0
        law = tables.start
        for t, weight in enumerate(self.weight):
            s_g, s_l = tables.agent[decided].T
            np.add.at(counts, (s_g, s_l, self.policy[t, decided]), weight * law[decided])
            flow = law[:, None] * model[states, self.policy[t]]
            after = np.bincount(tables.successor.ravel(), flow.ravel(), minlength=len(states))
            law = after.astype(np.float64)
        return counts


def _reward_range(game: Game, k: int) -> tuple[float, float]:
    """Return the least reward of an act, and the width of the range (1 where there is none)."""
    r_g, r_l = game.r_g, game.r_l
    if game.local_sees == "current":
        low = min(r_g.min() + r_l.min() / k, r_l.min() / k)
        high = max(r_g.max() + r_l.max() / k, r_l.max() / k)
        if k == 1:
            low, high = r_g.min() + r_l.min(), r_g.max() + r_l.max()
    else:
        low = min(r_g.min() + r_l.max(axis=2).min(), 0.0)
        high = max(r_g.max() + r_l.max(), 0.0)
    return float(low), float(high - low) or 1.0
