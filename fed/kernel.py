# SPDX-License-Identifier: MIT
r"""What logged rounds say about clients: moves between bins, punctuality, value, phases.

Everything is counted from what a server sees: statuses of polled clients, outcomes of those that
were chosen. Each row of a kernel has a Dirichlet posterior, its mean is used:

.. math:: \bar P(x, y) = (\alpha_{xy} + N_{xy}) / (|\alpha_x| + |N_x|)

A client that trains moves by T, one that does not by N, whatever the call: that is what keeps the
number of rows small enough for a few rounds. Rows with fewer than `ENOUGH` visits are still mostly
their prior, and `Posterior.thin` counts them.

======  ===========  ==================  ==================================================
symbol  name         shape               meaning
======  ===========  ==================  ==================================================
N       rest         (S_l, S_l)          next state of a client that did not train
T       trained      (S_l, A_l, S_l)     next state of one that trained with an effort
F       on_time      (C, V, A_l)         P(arrives before the deadline of a call)
v       value        (phases, values)    worth of one full training round
u       up           (phases, C)         P(the phase goes up)
D       seconds      (C,)                mean length of a round under a call, s
======  ===========  ==================  ==================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kofn.fed.status import Bins

FloatArray = npt.NDArray[np.float64]

#: Visits below which a row counts as thin.
ENOUGH = 5

#: Pseudo-counts of the priors: of a row of N and T, of a duration, of a phase.
PRIOR_MOVES = 4.0
PRIOR_TIMES = 2.0
PRIOR_ROUNDS = 15.0

#: Durations kept for each speed and effort; old ones go.
KEPT_TIMES = 200

#: A loss, relative to the mean, before anything is logged: high clients are worth more.
PRIOR_VALUE = 10.0

OFFLINE = 0


@dataclass(slots=True)
class RoundLog:
    """Counts of a run; plain numbers, so that it can be stored and taken up again.

    Parameters
    ----------
    bins : Bins
    n_calls, n_phases, n_efforts : int
        Sizes; effort 0 is to skip.
    """

    bins: Bins
    n_calls: int
    n_phases: int = 3
    n_efforts: int = 3
    rest: FloatArray = field(init=False)
    trained: FloatArray = field(init=False)
    states: FloatArray = field(init=False)
    ups: FloatArray = field(init=False)
    stays: FloatArray = field(init=False)
    loss_sum: FloatArray = field(init=False)
    loss_n: FloatArray = field(init=False)
    call_s: FloatArray = field(init=False)
    call_n: FloatArray = field(init=False)
    times: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        S, V = self.bins.n_states, len(self.bins.value)
        self.rest = np.zeros((S, S))
        self.trained = np.zeros((S, self.n_efforts, S))
        self.states = np.zeros(S)
        self.ups = np.zeros((self.n_phases, self.n_calls))
        self.stays = np.zeros((self.n_phases, self.n_calls))
        self.loss_sum = np.zeros((self.n_phases, V))
        self.loss_n = np.zeros((self.n_phases, V))
        self.call_s = np.zeros(self.n_calls)
        self.call_n = np.zeros(self.n_calls)

    def poll(self, counts: npt.ArrayLike) -> None:
        """Count the states of one poll, shape (S_l,)."""
        self.states += np.asarray(counts, dtype=np.float64)

    def move(self, before: int, effort: int, after: int) -> None:
        """Count one client's move between two rounds; effort 0 did not train."""
        if effort == 0:
            self.rest[before, after] += 1
        else:
            self.trained[before, effort, after] += 1

    def duration(self, speed: int, effort: int, share: float) -> None:
        """Keep one duration as a share of the speed limit; inf for one that did not arrive."""
        kept = self.times.setdefault(f"{speed},{effort}", [])
        kept.append(min(float(share), 1e6))
        del kept[:-KEPT_TIMES]

    def loss(self, phase: int, value: int, relative: float) -> None:
        """Count a participant's loss relative to the mean of its round."""
        self.loss_sum[phase, value] += relative
        self.loss_n[phase, value] += 1

    def round(self, phase: int, call: int, seconds: float, up: bool) -> None:
        """Count one round: its length relative to the speed limit, and whether the phase rose."""
        (self.ups if up else self.stays)[phase, call] += 1
        self.call_s[call] += seconds
        self.call_n[call] += 1

    def to_state(self) -> dict[str, Any]:
        """Return all counts as JSON values."""
        found: dict[str, Any] = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {**found, "times": {key: list(kept) for key, kept in self.times.items()}}

    def from_state(self, state: dict[str, Any]) -> None:
        """Take up counts again."""
        for name in _ARRAYS:
            setattr(self, name, np.array(state[name], dtype=np.float64))
        self.times = {key: list(kept) for key, kept in state["times"].items()}


_ARRAYS = (
    "rest",
    "trained",
    "states",
    "ups",
    "stays",
    "loss_sum",
    "loss_n",
    "call_s",
    "call_n",
)


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """Posterior means, see the module's docstring; `shares` are the usual states of clients."""

    rest: FloatArray
    trained: FloatArray
    on_time: FloatArray
    value: FloatArray
    up: FloatArray
    seconds: FloatArray
    shares: FloatArray
    thin: int


def posterior(
    log: RoundLog,
    deadlines: npt.ArrayLike,
    *,
    high_worth: float,
    rng: np.random.Generator | None = None,
) -> Posterior:
    """Return posterior means, or one draw from the posterior.

    Rows are Dirichlet, chances Beta; losses and lengths of rounds, which are positive and of mean
    about 1, are taken to vary by as much as their mean, so that theirs are Gamma.

    Parameters
    ----------
    log : RoundLog
    deadlines : array, shape (C,)
        Deadline of each call as a multiple of the speed limit.
    high_worth : float
        Prior loss of a client of high value, relative to one of low value.
    rng : Generator, optional
        Where a draw comes from; without one, means are returned.
    """
    bins, S = log.bins, log.bins.n_states
    limits = np.asarray(deadlines, dtype=np.float64)
    n_values, n_speeds = len(bins.value), len(bins.speed)
    prior_rest = np.full((S, S), 0.05 / S) + 0.95 * np.eye(S)
    prior_trained = np.zeros((S, log.n_efforts, S))
    for state in range(S):
        after = np.full(S, 0.05 / S)
        if state == OFFLINE:
            after[OFFLINE] += 0.95
        else:
            # Training makes a client worth less for a while; its speed stays.
            _, speed = bins.split(state - 1)
            after[1 + bins.index(0, speed)] += 0.95
        prior_trained[state] = after
    rest = _rows(PRIOR_MOVES * prior_rest + log.rest, rng)
    trained = _rows(PRIOR_MOVES * prior_trained + log.trained, rng)
    on_time = np.zeros((len(limits), n_speeds, log.n_efforts))
    for speed in range(n_speeds):
        for effort in range(1, log.n_efforts):
            kept = np.sort(np.array(log.times.get(f"{speed},{effort}", []), dtype=np.float64))
            # Before anything is seen: fast or partial is on time by the limit itself.
            quick = (speed + 1) / n_speeds if effort == log.n_efforts - 1 else 1.0
            guess = np.clip(limits * quick / (1 + limits), 0.1, 0.95)
            early = np.searchsorted(kept, limits, side="right")
            on_time[:, speed, effort] = _chance(
                PRIOR_TIMES * guess + early, PRIOR_TIMES * (1 - guess) + len(kept) - early, rng
            )
    # Less work is never later: what is known of full efforts holds for partial ones at least.
    on_time = np.maximum.accumulate(on_time[:, :, ::-1], axis=2)[:, :, ::-1]
    on_time[:, :, 0] = 0.0
    ranks = np.linspace(1.0, high_worth, n_values)
    value = _amount(PRIOR_VALUE * ranks + log.loss_sum, PRIOR_VALUE + log.loss_n, rng)
    up = _chance(1.0 + log.ups, PRIOR_ROUNDS - 1.0 + log.stays, rng)
    up[-1] = 0.0
    seconds = _amount(PRIOR_TIMES * limits + log.call_s, PRIOR_TIMES + log.call_n, rng)
    online = np.r_[0.3, np.full(bins.size, 0.7 / bins.size)]
    shares = _rows(PRIOR_MOVES * online + log.states, rng)
    visits = np.r_[log.rest.sum(axis=1), log.trained[:, 1:].sum(axis=2).ravel()]
    return Posterior(
        rest, trained, on_time, value, up, seconds, shares, int((visits < ENOUGH).sum())
    )


def _rows(weights: FloatArray, rng: np.random.Generator | None) -> FloatArray:
    drawn = weights if rng is None else np.maximum(rng.standard_gamma(weights), 1e-300)
    rows: FloatArray = drawn / drawn.sum(axis=-1, keepdims=True)
    return rows


def _chance(yes: FloatArray, no: FloatArray, rng: np.random.Generator | None) -> FloatArray:
    chance: FloatArray = yes / (yes + no) if rng is None else rng.beta(yes, no)
    return chance


def _amount(total: FloatArray, count: FloatArray, rng: np.random.Generator | None) -> FloatArray:
    amount: FloatArray = (total if rng is None else rng.standard_gamma(total)) / count
    return amount
