# SPDX-License-Identifier: MIT
r"""L-LEARN: the local policy's response to a fixed policy of the global agent.

*team* (default): all agents follow one pi_l and raise the system's reward. The gradient of the
value J of the closed system of k agents is exact: with the discounted occupancy d(s_g, c),

.. math:: \frac{\partial J}{\partial \pi_l(a|s,j)} = \sum_c d(s,c)\, c_j \Big[ \frac1k r_l(s,j,a)
   + \gamma \sum_{s'} P_g(s'|s,\pi_g(s,c))\, E V(s', C'_{k-1} + e_{j'}) \Big],
   \quad j' \sim P_l(\cdot|s,j,a),

where the other k - 1 agents move by W. Entries are switched to their best action, the most
promising first; a switch is kept only if J, computed anew, has risen. So J never falls.

*selfish*: one representative agent raises its own r_l. The others form a mean field: with
rho(s_g, s_l) the joint stationary law of the global state and one agent,

.. math:: P_{eff}(s'|s) = E_{c \sim Mult(k, \rho(\cdot|s))} P_g(s'|s, \pi_g(s, c)),

and rho is stationary for P_eff and P^pi. Alternating selfish responses may lower everybody's
reward; the team objective is there to avoid that. The paper's released code averages the mean field
over a uniform s_g instead and draws actions by exp(Q / tau), tau = max(0.3, range_a(Q) / 3); both
are kept under the name "released".

*chain*: the paper's k-chained MDP, solved exactly and projected to a shared policy (`chained`).

======  ===========  ====================  ==================================
symbol  name         shape                 meaning
======  ===========  ====================  ==================================
pi_g    pi_g         (S_g, M(k))           global action of each cell
d       occupancy    (M, S_g)              discounted visits, sum 1/(1-gamma)
rho     joint        (S_g, S_l)            stationary law of (s_g, s_l)
======  ===========  ====================  ==================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import check_choice, check_kind, check_real
from kofn.controller.core.chained import chain_learn, check_chain, realised_value
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.grid import all_counts
from kofn.controller.core.team import check_action, improve_team

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray

Objective = Literal["team", "selfish", "chain"]
MeanField = Literal["stationary", "released"]
Softmax = float | Literal["released"]

_TIE = 1e-9

#: Temperature of the released code: a third of the range of Q, but not below the floor.
_RELEASED_SHARE, _RELEASED_FLOOR = 1 / 3, 0.3

#: Steps for which the released code follows the mean field.
_RELEASED_STEPS = 50


def l_learn(
    game: Game,
    pi_g: npt.ArrayLike,
    pi_l: npt.ArrayLike,
    k: int,
    *,
    objective: Objective = "team",
    softmax: Softmax | None = None,
    mean_field: MeanField = "stationary",
) -> FloatArray:
    """Return a better local policy against a fixed global one, shape (S_g, S_l, A_l).

    Parameters
    ----------
    game : Game
    pi_g : array of int, shape (S_g, M(k))
        Global action of each cell of the grid of k agents.
    pi_l : array, shape (S_g, S_l, A_l)
        The local policy to start from; for "selfish" it makes the mean field.
    k : int
        Agents in a histogram.
    objective : {"team", "selfish", "chain"}
        Whose reward is raised; "chain" is the team's by way of the k-chained MDP, for toy sizes,
        and returns `pi_l` itself where the projection of the chain's optimum realises less.
    softmax : float or "released", optional
        Temperature of a selfish response that draws actions by exp(Q / temperature); greedy if
        omitted, ties to the lowest action. "released" is max(0.3, range_a(Q) / 3) in each state.
    mean_field : {"stationary", "released"}
        The others, as a selfish agent sees them: the stationary law of the pair, or that of the
        released code, which takes the global state as uniform.
    """
    check_kind("game", game, Game)
    check_choice("objective", objective, get_args(Objective))
    check_choice("mean field", mean_field, get_args(MeanField))
    if objective == "chain":
        check_chain(game, k)
    action = check_action(game, pi_g, k)
    k = int(k)
    policy = game.local_policy(pi_l)
    if objective == "selfish":
        if softmax is not None and not (isinstance(softmax, str) and softmax == "released"):
            softmax = check_real("softmax temperature", softmax, above=0)
        kernel = released_kernel if mean_field == "released" else effective_kernel
        return selfish_response(game, kernel(game, action, policy, k), softmax)
    if softmax is not None:
        raise InputError("a softmax response needs objective 'selfish'")
    if mean_field != "stationary":
        raise InputError(f"mean field {mean_field!r} needs objective 'selfish'")
    if objective == "chain":
        solved = chain_learn(game, action, k)
        kept = solved.realised < realised_value(game, action, policy, k)
        return policy if kept else solved.pi_l
    return improve_team(game, action, policy, k)


def stationary(kernel: FloatArray) -> FloatArray:
    """Return a stationary law of a finite chain (the limit average from uniform), shape (N,)."""
    # Solving (lazy chain - 1) x = 0 with sum x = 1 by least squares; unique for one closed class,
    # otherwise the smallest-norm solution, which averages the classes.
    n = len(kernel)
    system = np.vstack([kernel.T - np.eye(n), np.ones((1, n))])
    law = np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]
    law = np.clip(law, 0.0, None)
    result: FloatArray = law / law.sum()
    return result


def joint_kernel(game: Game, effective: FloatArray, P_pi: FloatArray) -> FloatArray:
    """Return the chain of (s_g, s_l) of one agent, shape (S_g S_l, S_g S_l)."""
    moves = "gh,gjl->gjhl" if game.local_sees == "current" else "gh,hjl->gjhl"
    size = game.n_global * game.n_local
    kernel: FloatArray = np.einsum(moves, effective, P_pi).reshape(size, size)
    return kernel


def effective_kernel(
    game: Game, action: npt.NDArray[np.int32], pi_l: FloatArray, k: int
) -> FloatArray:
    """Return P_eff, shape (S_g, S_g), at the stationary mean field of the pair.

    The fixed point is approached by averaging the iterates; where the pair has none that attracts,
    the average of its cycle is returned.
    """
    P_pi, _ = game.marginals(pi_l)
    mean_field = np.full((game.n_global, game.n_local), 1 / game.n_local)
    effective = np.full((game.n_global, game.n_global), 1 / game.n_global)
    for iteration in range(1, 201):
        new = _expected_kernel(game, action, mean_field, k)
        change = float(np.abs(new - effective).max())
        effective = effective + (new - effective) / min(iteration, 20) ** 0.7
        joint = stationary(joint_kernel(game, effective, P_pi)).reshape(mean_field.shape)
        visits = joint.sum(axis=1, keepdims=True)
        mean_field = np.where(visits > 1e-14, joint / np.maximum(visits, 1e-14), 1 / game.n_local)
        if change < 1e-10:
            break
    return effective


def released_kernel(
    game: Game, action: npt.NDArray[np.int32], pi_l: FloatArray, k: int
) -> FloatArray:
    """Return P_eff, shape (S_g, S_g), at the mean field of the released code.

    There the local law moves for 50 steps from uniform while s_g is uniform in each of them, and is
    the same for every s_g. The code draws 200 histograms; here their expectation is exact.
    """
    P_pi, _ = game.marginals(pi_l)
    law = np.full(game.n_local, 1 / game.n_local)
    for _ in range(_RELEASED_STEPS):
        law = law @ P_pi.mean(axis=0)
    return _expected_kernel(game, action, np.tile(law, (game.n_global, 1)), k)


def _expected_kernel(
    game: Game, action: npt.NDArray[np.int32], mean_field: FloatArray, k: int
) -> FloatArray:
    """Return E_{c ~ Mult(k, mu(s))} P_g(.|s, pi_g(s, c)), shape (S_g, S_g)."""
    counts = all_counts(k, game.n_local)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, k + 1)))])
    ways = factorials[k] - factorials[counts].sum(axis=1)
    # The floor keeps 0 log 0 at 0; a positive count of an empty state still has no mass.
    logs = np.log(np.maximum(mean_field, 1e-300))
    kernel = np.empty((game.n_global, game.n_global))
    for s in range(game.n_global):
        mass = np.exp(ways + counts @ logs[s])
        chosen = np.bincount(action[s], weights=mass, minlength=game.n_global_actions)
        kernel[s] = chosen @ game.P_g[s] / mass.sum()
    return kernel


def selfish_response(
    game: Game, effective: FloatArray, softmax: Softmax | None = None
) -> FloatArray:
    """Return the best response of one agent to a global state that moves by P_eff.

    With `local_sees="current"` this is a Markov decision process on (s_g, s_l), solved exactly.
    With "next" a table entry (s_g, s_l) earns in one state and moves out of another, so there is no
    Bellman equation: the greedy policy of "current" is improved entry by entry on the exact value
    of the chain, and a softmax response uses the Q of "current".
    """
    value = np.zeros((game.n_global, game.n_local))
    gamma = game.gamma
    for _ in range(10_000):
        ahead = np.einsum("gjal,gl->gja", game.P_l, effective @ value)
        q = game.r_l + gamma * ahead
        new = q.max(axis=2)
        done = np.abs(new - value).max() <= 1e-12 * max(1.0, float(np.abs(new).max()))
        value = new
        if done:
            break
    if softmax is not None:
        temperature: FloatArray | float = (
            np.maximum(_RELEASED_FLOOR, _RELEASED_SHARE * np.ptp(q, axis=2, keepdims=True))
            if isinstance(softmax, str)
            else softmax
        )
        with np.errstate(over="ignore"):  # of a temperature next to nothing: exp(-inf) is right
            weights = np.exp((q - q.max(axis=2, keepdims=True)) / temperature)
        response: FloatArray = weights / weights.sum(axis=2, keepdims=True)
        return response
    tied = q >= q.max(axis=2, keepdims=True) - _TIE * max(1.0, float(np.abs(q).max()))
    choice = np.argmax(tied, axis=2)
    if game.local_sees == "next":
        choice = _climb(game, effective, choice)
    greedy: FloatArray = np.eye(game.n_local_actions)[choice]
    return greedy


def own_value(game: Game, effective: FloatArray, pi_l: FloatArray) -> float:
    """Return the discounted own reward of one agent from the game's initial law."""
    P_pi, r_pi = game.marginals(pi_l)
    kernel = joint_kernel(game, effective, P_pi)
    value = np.linalg.solve(np.eye(len(kernel)) - game.gamma * kernel, r_pi.ravel())
    law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
    return float(np.outer(law_g, law_l).ravel() @ value)


def _climb(game: Game, effective: FloatArray, choice: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Improve a deterministic policy one entry at a time until no single change helps."""
    eye = np.eye(game.n_local_actions)
    choice = choice.copy()
    best = own_value(game, effective, eye[choice])
    improved = True
    while improved:
        improved = False
        for s, j in np.ndindex(choice.shape):
            kept = int(choice[s, j])
            for a in range(game.n_local_actions):
                if a == choice[s, j]:
                    continue
                choice[s, j] = a
                value = own_value(game, effective, eye[choice])
                if value > best + _TIE * max(1.0, abs(best)):
                    best, kept, improved = value, a, True
                else:
                    choice[s, j] = kept
    return choice
