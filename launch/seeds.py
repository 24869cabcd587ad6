# SPDX-License-Identifier: MIT
"""Seeds of named consumers from the one seed of a run.

Each process, world and phase has its own stream, so changing one consumer does not shift others.
"""

import hashlib

MAX_SEED = 2**63 - 1


def named_seed(seed: int, *names: str) -> int:
    """Return a 63-bit seed for the consumer called `names`, a function of both alone."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
