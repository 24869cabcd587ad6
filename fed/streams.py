# SPDX-License-Identifier: MIT
"""Random streams by name: what one client draws never depends on what another does.

A stream is keyed by the seed of the run, the name of its consumer, and where it matters the client
and the round. So the choice of a selector changes no trace, no partition and no training stream.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *keys: str | int) -> np.random.Generator:
    """Return the generator of the consumer called `keys`, a function of seed and keys alone."""
    text = "\x00".join(map(str, (seed, *keys)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
