# SPDX-License-Identifier: MIT
"""Uniform choice without replacement among the clients online.

Reference: McMahan et al. 2017, arXiv 1602.05629, Algorithm 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kofn.fed.selectors.base import BaseSelector, draw
from kofn.fed.selectors.protocol import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


class RandomSelector(BaseSelector):
    """min(m, number online) clients, each set equally likely; polls nobody."""

    name = "random"

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose evenly."""
        del server_round
        return Selection(clients=tuple(draw(online, m, rng)))
