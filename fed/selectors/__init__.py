# SPDX-License-Identifier: MIT
"""Rules that choose the clients of a federated round, by name.

Nothing here imports Flower. Make one with `make_selector("random")`; hold your own to the contract
with `check_selector`.
"""

from kofn.fed.selectors.check import check_selector
from kofn.fed.selectors.protocol import (
    EPOCHS,
    EPOCHS_BY_BIN,
    Outcome,
    PollRequest,
    Reference,
    Selection,
    Selector,
    Status,
)
from kofn.fed.selectors.registry import SELECTORS, check_sizes, make_selector

__all__ = [
    "EPOCHS",
    "EPOCHS_BY_BIN",
    "SELECTORS",
    "Outcome",
    "PollRequest",
    "Reference",
    "Selection",
    "Selector",
    "Status",
    "check_selector",
    "check_sizes",
    "make_selector",
]
