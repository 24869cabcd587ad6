# SPDX-License-Identifier: MIT
"""A world without physics for tests: robots jump to their goal when the option ends."""

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.ring import RingLayout, sector_centres
from kofn.sim.world import IntArray, Snapshot, WorldSpec


class JumpWorld:
    """n robots on a ring of 5 zones with a period of 1 s; knows the contract in full."""

    def __init__(self, n: int = 3) -> None:
        self.layout = RingLayout()
        self.spec = WorldSpec(n, 5, 3, 1.0, 0.1, "jump", {}, self.layout.as_arena())
        self.applied: list[list[int]] = []
        self._ready = False
        self._closed = False

    def reset(self, seed: int) -> None:
        if self._closed:
            raise RunError("the world is closed")
        self._zones = np.random.default_rng(seed).integers(0, 5, self.spec.n)
        self._actions = np.full(self.spec.n, -1)
        self._tick = self._left = 0
        self._ready = True

    def observe(self) -> Snapshot:
        self._check()
        angle = sector_centres(self.layout)[self._zones]
        poses = np.stack([1.5 * np.cos(angle), 1.5 * np.sin(angle), angle], axis=1)
        up = np.ones(self.spec.n, dtype=np.bool_)
        return Snapshot(self._zones.copy(), poses, up, self._tick * 0.1)

    def apply(self, actions: IntArray) -> None:
        self._check()
        if actions.shape != (self.spec.n,) or np.any((actions < -1) | (actions > 2)):
            raise InputError(f"bad actions {actions.tolist()}")
        self.applied.append(actions.tolist())
        self._actions = actions.copy()
        self._left = 10

    def advance(self, duration_s: float) -> None:
        self._check()
        if not duration_s >= 0 or abs(duration_s / 0.1 - round(duration_s / 0.1)) > 1e-6:
            raise InputError(f"bad duration {duration_s}")
        for _ in range(round(duration_s / 0.1)):
            self._tick += 1
            self._left -= 1
            if self._left == 0:
                step = np.array([0, 1, -1, 0])[self._actions]
                self._zones = (self._zones + step) % 5

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed or not self._ready:
            raise RunError("the world has no state")
