# SPDX-License-Identifier: MIT
r"""ALTERNATING-MARL where agents move as their crowd allows: on a `DensityGame`.

The exact operator needs agents that move independently given g. So it proposes, and the
crowd-dependent system decides:

1. *Proposals from the plain game* at the crowds that the best pair so far meets,

   .. math:: P_l^{(i)}(s'|g, s, a) = \sum_b w_b^{(i)}(g, s)\, P(s'|g, b, s, a),

   with w the share of bins met in play. Exact G-LEARN and L-LEARN answer in it; the pair that wins
   meets other crowds, and so on until the rows of the plain game stand still (a fixed point of the
   occupancy) or the passes are used up.
2. *Proposals from the sampled G-LEARN* (`density_g_learn`), which sees the crowd that a histogram
   stands for.
3. *UPDATE* (`core.deployment`): each pair is played in the crowd-dependent n-agent system under
   common random numbers, and replaces the best one only if it wins there.

No certificate covers the result: upper bounds of `core.certify` are for the policy's own plain
game. Where bins are all equal the game is an ordinary one, and is learned as such.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kofn.controller.core.alternation import Progress, Round, alternating_marl, default_grid
from kofn.controller.core.deployment import LOOK, Deployment, Judged
from kofn.controller.core.game import Game
from kofn.controller.core.local_learner import Objective, l_learn
from kofn.controller.core.policy import Policy
from kofn.controller.core.polishing import default_tolerance
from kofn.controller.core.polishing import polish as polish_policy
from kofn.controller.core.rollouts import Rollouts
from kofn.controller.core.tuning import best_memory, best_prior
from kofn.sim.density import EVEN, DensityGame, density_g_learn, density_rollout, occupancy

#: Passes over the occupancy at most, and the mean L1 change of a row at which they end.
PASSES, STILL = 4, 0.005

#: Exchanges with the sampled G-LEARN at most.
SAMPLED_ROUNDS = 2


class CrowdDeployment(Deployment):
    """The crowd-dependent n-agent system as a judge; `game` is the plain one that proposes."""

    def __init__(self, density: DensityGame, game: Game, n: int, k: int, seed: int) -> None:
        super().__init__(game, n, k, seed)
        self.density = density

    def play(
        self,
        policy: Policy,
        *,
        rollouts: int,
        seed: int,
        memory: float | str = "auto",
        record: bool = False,
    ) -> Rollouts:
        """Play episodes in which agents move by the bin of their crowd."""
        return density_rollout(
            self.density,
            policy,
            n=self.n,
            k=self.k,
            horizon=self.horizon,
            rollouts=rollouts,
            seed=seed,
            memory=memory,
            record=record,
        )

    def met(self, policy: Policy) -> tuple[Game, float]:
        """Return the plain game at the crowds that a policy meets, and how far it is from `game`.

        The distance is the L1 one of a row (s_g, s_l, a), the mean over agents and actions.
        """
        played = self.play(policy, rollouts=LOOK // 4, seed=self._picture, record=True)
        weights = occupancy(self.density, played)
        plain = self.density.plain_at(weights)
        rows = np.abs(plain.P_l - self.game.P_l).sum(axis=-1).mean(axis=-1)
        share = weights.sum(axis=-1)
        return plain, float((rows * share).sum() / share.sum())


@dataclass(frozen=True)
class CrowdSolution:
    """The result of `crowd_marl`.

    Attributes
    ----------
    policy
        The best deployed pair; its own game is the plain one that its belief moves by.
    history
        All pairs judged by `core.alternating_marl`, in order.
    exact
        Whether bins are all equal: then the game is an ordinary one, and core learned it alone.
    """

    policy: Policy
    history: tuple[Round, ...]
    exact: bool


def crowd_marl(
    density: DensityGame,
    k: int,
    n: int,
    *,
    grid: int | None = None,
    objective: Objective = "team",
    restarts: int | None = None,
    rounds: int = 4,
    starts: Mapping[str, npt.ArrayLike] | None = None,
    polish: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> CrowdSolution:
    """Learn a policy for n agents that move as their crowd allows, k of them polled.

    Parameters
    ----------
    density
        The system. The first pass proposes from its `game`, with that game's own P_l.
    starts
        Local policies (S_g, S_l, A_l) to start from too, by name.
    k, n, grid, objective, restarts, rounds, polish, seed, progress
        As for `core.alternating_marl`.
    """
    began = time.perf_counter()
    game = density.game
    size = default_grid(game, k) if grid is None else grid
    common: dict[str, Any] = {
        "grid": size, "objective": objective, "rounds": rounds, "seed": seed,
    }  # fmt: skip
    if density.even:
        if not np.allclose(density.P[:, 0], game.P_l, rtol=0, atol=EVEN):
            game = density.plain_at(np.zeros((game.n_global, game.n_local, density.n_bins)))
        found = alternating_marl(
            game, k, n, restarts=restarts, starts=starts, polish=polish, progress=progress, **common
        )
        return CrowdSolution(found.policy, found.history, exact=True)
    given, again = dict(starts or {}), restarts
    best: Judged | None = None
    history: tuple[Round, ...] = ()
    changes: list[float] = []
    while True:
        deployment = CrowdDeployment(density, game, n, k, seed)
        found = alternating_marl(
            game, k, n, restarts=again, starts=given, deployment=deployment,
            progress=_staged(progress, f"pass {len(changes) + 1}"), **common,
        )  # fmt: skip
        history += found.history
        new = deployment.judge(found.policy)
        best = new if best is None else _better(deployment, new, best)
        following, change = deployment.met(best.policy)
        changes.append(change)
        if change <= STILL or len(changes) == PASSES:
            break
        game, given, again = following, {"best": best.policy.pi_l}, 1
    best, wins = _sampled(deployment, best, size, objective, seed)
    policy, gain = best.policy, None
    if polish:
        polished = polish_policy(
            policy.game, policy, n=n, k=k, passes=polish, seed=seed,
            play="both" if policy.bare is None else "memory",
            deployment=CrowdDeployment(density, policy.game, n, k, seed),
            progress=_staged(progress, "last"),
        )  # fmt: skip
        policy, gain = polished.policy, polished.gain.mean if polished.confirmed else 0.0
    final = deployment.judge(policy, 4 * LOOK, fresh=True)
    policy.provenance.update(
        found.policy.provenance,
        motion="binned",
        start=best.policy.provenance.get("start", "sampled"),
        pairs_judged=len(history) + SAMPLED_ROUNDS,
        occupancy_changes=[round(change, 5) for change in changes],
        fixed_point=changes[-1] <= STILL,
        sampled_wins=wins,
        memoryless=float(final.memoryless.mean()),
        belief=float(final.belief.mean()),
        seconds=round(time.perf_counter() - began, 3),
    )
    if gain is not None:
        policy.provenance["polish_gain"] = gain
    return CrowdSolution(policy, history, exact=False)


def _sampled(
    deployment: CrowdDeployment, best: Judged, size: int, objective: Objective, seed: int
) -> tuple[Judged, int]:
    """Return the best pair after proposals of the sampled G-LEARN, and how many of them won."""
    game, pi_l, wins = deployment.game, best.policy.pi_l, 0
    tol = default_tolerance(game)
    for _ in range(SAMPLED_ROUNDS):
        answer = density_g_learn(deployment.density, pi_l, size, tol=tol, seed=seed)
        dressed = deployment.dress(size, answer.action, pi_l)
        tuned = best_memory(deployment, best_prior(deployment, dressed))
        after = _better(deployment, deployment.judge(tuned), best)
        wins += after.policy is tuned
        best = after
        pi_l = l_learn(game, answer.action, pi_l, size, objective=objective)
    return best, wins


def _better(deployment: Deployment, new: Judged, best: Judged) -> Judged:
    wins, new, best = deployment.better(new, best, "memory")
    return new if wins else best


def _staged(progress: Progress | None, stage: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, text: progress(done, total, f"{stage}: {text}")
