# SPDX-License-Identifier: MIT
"""What a process of ours asks of Python once it is up, so that messages are answered soon."""

import gc
import sys

SWITCH_INTERVAL_S = 0.0002
"""How soon the network's thread gets its turn while another one computes, wall seconds. At the
default of 5 ms it would wait that long for each message, and a poll round takes several."""


def settle() -> None:
    """Make threads change quickly, and take what lives as long as the process out of collections.

    A full collection that walks through ten thousand robots takes longer than a poll round.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
