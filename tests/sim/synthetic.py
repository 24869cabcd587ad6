# SPDX-License-Identifier: MIT
"""Recordings drawn from a known kernel, so that what is identified has a right answer."""

import numpy as np

from kofn.sim.kernel import KernelInfo, bin_of
from kofn.sim.recording import Recording
from kofn.sim.world import FloatArray

STEP = np.array([0, 1, -1])


def ring_kernel(success: list[float], stay: float = 0.96) -> FloatArray:
    """A kernel of 5 zones, shape (B, 5, 3, 5), whose moves succeed with one chance for each bin."""
    P = np.zeros((len(success), 5, 3, 5))
    for b, chance in enumerate(success):
        for s in range(5):
            P[b, s, 0, s] = stay
            P[b, s, 0, (s + 1) % 5] = P[b, s, 0, (s - 1) % 5] = (1 - stay) / 2
            for a in (1, 2):
                P[b, s, a, (s + STEP[a]) % 5] = chance
                P[b, s, a, s] = 1 - chance
    return P


def drawn(
    P: FloatArray, first: tuple[int, ...], *, n: int, steps: int, seed: int, stuck: float = 0.0
) -> Recording:
    """n robots that act uniformly; a robot whose move failed is `stuck` for good so often."""
    rng = np.random.default_rng(seed)
    zones = np.empty((steps + 1, n), dtype=np.int64)
    zones[0] = rng.integers(5, size=n)
    actions = rng.integers(3, size=(steps, n))
    held = np.zeros(n, dtype=bool)
    for t in range(steps):
        s, a = zones[t], actions[t]
        b = bin_of(first, np.bincount(s, minlength=5))[s]
        x = rng.random(n)
        after = (x[:, None] >= np.cumsum(P[b, s, a], axis=-1)[:, :-1]).sum(axis=1)
        zones[t + 1] = np.where(held & (a > 0), s, after)
        held = (a > 0) & (zones[t + 1] == s) & (rng.random(n) < stuck)
    return Recording(zones, actions, np.zeros(steps, dtype=np.int64), np.full(steps, -1))


def info(n: int = 30, **keys: object) -> KernelInfo:
    base: dict[str, object] = {"period_s": 6.0, "backend": "synthetic", "option_steps": 1}
    return KernelInfo(n=n, transitions=0, **(base | keys))  # type: ignore[arg-type]
