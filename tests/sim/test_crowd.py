# SPDX-License-Identifier: MIT
"""The crowd in counts has the law of robots that move one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kofn.controller.core import load_game
from kofn.controller.core.errors import InputError, RunError
from kofn.sim.crowd import Crowd
from kofn.sim.motion import MotionKernel

PI = np.array([[0.3, 0.7], [0.9, 0.1]])
P = np.array([[[0.8, 0.2], [0.1, 0.9]], [[0.4, 0.6], [0.25, 0.75]]])
CROWDED = np.stack([P, P[:, ::-1]])
START = np.array([0.35, 0.65])


def _exact(kernel: MotionKernel, n: int) -> dict[tuple[int, ...], float]:
    """P(zone of robot 0 at 1, its zone at 2, its action in between, robots in zone 1 at 1 and 2).

    By all states of n robots, one by one.
    """
    states = list(itertools.product(range(2), repeat=n))
    law = {z: float(np.prod(START[list(z)])) for z in states}

    def moves(z: tuple[int, ...]) -> list[tuple[int, tuple[int, ...], float]]:
        """Action of robot 0, next state, probability."""
        cdf = kernel.rows(0, np.bincount(z, minlength=2))
        rows = np.diff(cdf, axis=-1, prepend=0.0)
        out = []
        for a0 in range(2):
            for to in states:
                p = PI[z[0], a0] * rows[z[0], a0, to[0]]
                for i in range(1, n):
                    p *= float(PI[z[i]] @ rows[z[i], :, to[i]])
                out.append((a0, to, p))
        return out

    table = {z: moves(z) for z in states}
    joint: dict[tuple[int, ...], float] = {}
    for z0, p0 in law.items():
        for _, z1, p1 in table[z0]:
            for a, z2, p2 in table[z1]:
                key = (z1[0], z2[0], a, sum(z1), sum(z2))
                joint[key] = joint.get(key, 0.0) + p0 * p1 * p2
    return joint


@pytest.mark.parametrize(
    ("kernel", "first_asked"),
    [(MotionKernel(P), 1), (MotionKernel(CROWDED, edges=[0.5]), 2), (MotionKernel(P), 1.5)],
)
def test_named_robots_and_counts_have_the_joint_law_of_single_robots(
    kernel: MotionKernel, first_asked: float
) -> None:
    n, runs = 3, 3000
    exact = _exact(kernel, n)
    seen: dict[tuple[int, ...], int] = {}
    crowd = Crowd(n, kernel, start=START)
    for seed in range(runs):
        crowd.reset(seed)
        if seed % 3 == 0:
            crowd.ask(np.array([2, 1]))  # others with a name must change nothing
        crowd.step(PI)
        ones = crowd.counts[1]
        if first_asked == 1:
            at_one = int(crowd.ask(np.array([0])).zones[0])
        crowd.act(PI)
        if first_asked == 1.5:  # when everybody has an action, and nobody has moved
            at_one = int(crowd.ask(np.array([0])).zones[0])
        crowd.move()
        said = crowd.ask(np.array([0]))
        if first_asked < 2:
            assert said.zones_before[0] == at_one
        key = (int(said.zones_before[0]), int(said.zones[0]), int(said.actions_before[0]))
        whole = (*key, int(ones), int(crowd.counts[1]))
        seen[whole] = seen.get(whole, 0) + 1
    assert set(seen) <= set(exact)
    cells = [key for key, p in exact.items() if p * runs >= 5]
    rest = runs * (1.0 - sum(exact[key] for key in cells))
    statistic = sum((seen.get(k, 0) - runs * exact[k]) ** 2 / (runs * exact[k]) for k in cells)
    if rest > 5:
        others = runs - sum(seen.get(key, 0) for key in cells)
        statistic += (others - rest) ** 2 / rest
    # Mean and standard deviation of chi-square: 5 of the latter above is beyond 1 in 100 000.
    freedom = len(cells)
    assert statistic < freedom + 5.0 * np.sqrt(2.0 * freedom)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 10**6), seed=st.integers(0, 10**6), k=st.integers(1, 20))
def test_nobody_is_lost_however_many_are_asked(n: int, seed: int, k: int) -> None:
    game = load_game("arena")
    crowd = Crowd(n, MotionKernel.of_game(game))
    crowd.reset(seed)
    robots = np.random.default_rng(seed).integers(0, n, k)
    for _ in range(4):
        said = crowd.ask(robots)
        again = crowd.ask(robots)
        assert np.array_equal(said.zones, again.zones)
        acting = crowd.step(game.uniform_local_policy()[0])
        assert acting.sum() == n
        assert crowd.counts.sum() == n
        assert crowd.counts.min() >= 0
        after = crowd.ask(robots)
        assert np.array_equal(after.zones_before, said.zones)
    assert crowd.named == len(set(robots.tolist()))


def test_a_seed_repeats_a_crowd() -> None:
    traces = []
    for _ in range(2):
        crowd = Crowd(1000, MotionKernel(P), start=START)
        crowd.reset(7)
        trace = []
        for t in range(5):
            crowd.step(PI)
            trace += [*crowd.ask(np.array([t, 0])).zones.tolist(), *crowd.counts.tolist()]
        traces.append(trace)
    assert traces[0] == traces[1]


def test_impossible_questions_are_refused() -> None:
    crowd = Crowd(10, MotionKernel(P))
    with pytest.raises(RunError, match="reset it with a seed"):
        crowd.step(PI)
    crowd.reset(1)
    with pytest.raises(InputError, match="robot 10 of 10"):
        crowd.ask(np.array([0, 10]))
    with pytest.raises(InputError, match=r"policy of shape \(2, 3\)"):
        crowd.step(np.ones((2, 3)) / 3)
    with pytest.raises(InputError, match="0 robots in a crowd"):
        Crowd(0, MotionKernel(P))
