# SPDX-License-Identifier: MIT
"""Named random streams of a run: one generator per purpose and step, all from one seed.

Every (name, t) has a generator of its own, so that no consumer shifts the draws of another, the
draws of step t do not depend on what happened before t, and two runs on one seed can be compared
step by step (the same uniform number decides the target of step t in both).
"""

import hashlib

import numpy as np


class Streams:
    """Generators of one run, spawned by name and step from `seed`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def at(self, name: str, t: int) -> np.random.Generator:
        """Return a fresh generator for purpose `name` at step `t`; the same one at each call."""
        digest = hashlib.sha256(name.encode()).digest()
        words = np.frombuffer(digest[:8], dtype="<u4").tolist()
        return np.random.default_rng(
            np.random.SeedSequence(entropy=self._seed, spawn_key=(*words, t))
        )
