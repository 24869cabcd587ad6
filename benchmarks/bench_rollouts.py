# SPDX-License-Identifier: MIT
"""Rollouts in counts against a vectorised simulation of every agent.

    python benchmarks/bench_rollouts.py [--repeats 5] [--quick] [--json]

`ring-current`, horizon 50, k = 10, memoryless play of one policy. The peer holds all agents of all
episodes in numpy arrays and draws every action and every move by inverting the distribution
function, for a batch of episodes at once. Both must earn the same, up to four standard errors.
The second table shows how little the fleet size matters to counts. All that is compared is timed in
turns, and ratios are medians over the turns: a machine that is slow for a while is slow for both.
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
from measuring import Row, interleaved_s, parser, report

from kofn.controller.core import Game, Policy, g_learn, load_game, rollout
from kofn.controller.core.grid import rank

K, HORIZON, AGENTS = 10, 50, 1000
SIZES = (10**3, 10**5, 10**7, 10**9)


def play_agents(game: Game, policy: Policy, episodes: int, seed: int) -> np.ndarray:
    """Return the returns of episodes in which every agent is simulated, shape (episodes,)."""
    rng = np.random.default_rng(seed)
    law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
    rows = np.arange(episodes)
    act_at = np.cumsum(policy.pi_l, axis=-1)[..., :-1]
    move_at = np.cumsum(game.P_l, axis=-1)[..., :-1]
    s_g = rng.choice(game.n_global, size=episodes, p=law_g)
    law = np.broadcast_to(law_l, (episodes, game.n_local))
    if game.initial.alpha is not None:
        law = rng.dirichlet(np.full(game.n_local, game.initial.alpha), episodes)
    s_l = _invert(np.cumsum(law, axis=1)[:, None, :-1], rng.random((episodes, AGENTS)))
    returns = np.zeros(episodes)
    for t in range(HORIZON):
        polled = np.take_along_axis(s_l, _distinct(rng, episodes), axis=1)
        counts = (polled[:, :, None] == np.arange(game.n_local)).sum(axis=1)
        a_g = policy.action[s_g, rank(counts)]
        s = s_g[:, None]
        a_l = _invert(act_at[s, s_l], rng.random(s_l.shape))
        reward = game.r_g[s_g, a_g] + game.r_l[s, s_l, a_l].mean(axis=1)
        returns += game.gamma**t * reward
        s_l = _invert(move_at[s, s_l, a_l], rng.random(s_l.shape))
        s_g = _invert(np.cumsum(game.P_g, axis=-1)[s_g, a_g, :-1], rng.random(rows.size))
    return returns


def _invert(at: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return how many of the thresholds on the last axis each number has passed."""
    passed = np.zeros(u.shape, dtype=np.int64)
    for i in range(at.shape[-1]):
        passed += u >= at[..., i]
    return passed


def _distinct(rng: np.random.Generator, episodes: int) -> np.ndarray:
    """Return K different agents per episode; rows with a repetition are drawn again."""
    drawn = rng.integers(0, AGENTS, (episodes, K))
    while True:
        ordered = np.sort(drawn, axis=1)
        again = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        if not again.any():
            return drawn
        drawn[again] = rng.integers(0, AGENTS, (int(again.sum()), K))


def local_policies(game: Game) -> dict[str, np.ndarray]:
    """Return the rule "walk towards the target", and chance: few and many draws a step."""
    away = (np.arange(game.n_global)[:, None] - np.arange(game.n_local)) % game.n_local
    walk = np.eye(3)[np.where(away == 0, 0, np.where(away <= game.n_local // 2, 1, 2))]
    return {"towards": walk, "uniform": game.uniform_local_policy()}


def main() -> None:
    """Print both tables."""
    options = parser(__doc__).parse_args()
    game = load_game("ring-current")
    repeats = 2 if options.quick else options.repeats
    batch, many = (50, 2000) if options.quick else (100, 10_000)
    rows: list[Row] = []
    growth: list[Row] = []
    for name, pi_l in local_policies(game).items():
        policy = Policy(game, K, g_learn(game, pi_l, K, tol=1e-3).action, pi_l)
        play = partial(
            rollout, game, policy, k=K, horizon=HORIZON, rollouts=many, memory="none", seed=1
        )
        each = interleaved_s(
            {
                "numpy": partial(play_agents, game, policy, batch, 1),
                "kofn": partial(play, n=AGENTS),
            },
            repeats,
        )
        agents_s = statistics.median(each["numpy"]) / batch
        counts_s = statistics.median(each["kofn"]) / many
        times = [a / batch / (b / many) for a, b in zip(each["numpy"], each["kofn"], strict=True)]
        agents, ours = play_agents(game, policy, 4 * batch, 2), play(n=AGENTS)
        spread = float(np.hypot(agents.std(ddof=1) / np.sqrt(agents.size), ours.stderr))
        rows.append(
            {
                "pi_l": name,
                "n": AGENTS,
                "numpy_s_per_episode": agents_s,
                "kofn_s_per_episode": counts_s,
                "times_faster": statistics.median(times),
                "numpy_mean": float(agents.mean()),
                "kofn_mean": ours.mean,
                "stderr": spread,
            }
        )
        assert abs(agents.mean() - ours.mean) <= 4 * spread
        each = interleaved_s({str(n): partial(play, n=n) for n in SIZES}, 2 * repeats)
        for n in SIZES:
            ratios = [a / b for a, b in zip(each[str(n)], each[str(AGENTS)], strict=True)]
            seconds = statistics.median(each[str(n)]) / many
            growth.append(
                {
                    "pi_l": name,
                    "n": n,
                    "kofn_s_per_episode": seconds,
                    "of_n_1000": statistics.median(ratios),
                }
            )
    report("rollouts in counts against simulated agents", rows, as_json=options.json)
    report("cost against fleet size", growth, as_json=options.json)


if __name__ == "__main__":
    main()
