# SPDX-License-Identifier: MIT
r"""How likely a robot answers, given its zone: for the weighted estimator, which is optional.

Where the chance p_z to answer depends on the zone z, answers from z are too few by the factor p_z,
and weights 1/p_z repair that (Horvitz and Thompson). But p_z is not known, and of a silent robot
neither is the zone. So this splits each silent robot over the zones as expectation-maximisation
does: with the prior law r of its zone (last answer aged through the local model, else the belief),

.. math:: q_z \propto r_z (1 - p_z), \qquad
          p_z = \frac{a_z + \alpha \bar p}{a_z + s_z + \alpha},

where a_z sums the answers from z, s_z the parts q_z of silent robots, both with slow forgetting,
and alpha pseudo-robots pull towards the common rate. Weights are normalised to sum to the effective
number of answers, (sum w)^2 / sum w^2 (Kish), so that the belief is told no more than was heard.

What this cannot do: see a zone from which nobody ever answers (there is no answer to weigh), tell
where robots are that were never heard of (they are split as the belief says, which shares the
bias), or help where the local model is wrong.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FORGET = 1 - 1 / 500
"""Kept of the sums per step: a network changes within hours, a count must settle within minutes."""

PULL = 10.0
"""alpha, in robots."""

LEAST_CHANCE = 0.05
"""No answer weighs more than 1 / this."""


class ResponseModel:
    """Chance to answer per zone.

    Parameters
    ----------
    n_zones
        Zones are 0..n_zones-1.
    """

    def __init__(self, n_zones: int) -> None:
        self._answered = np.zeros(n_zones)
        self._silent = np.zeros(n_zones)

    @property
    def chance(self) -> FloatArray:
        """Estimated chance to answer in time, shape (n_zones,)."""
        total = self._answered.sum() + self._silent.sum()
        common = self._answered.sum() / total if total > 0 else 1.0
        asked = self._answered + self._silent
        chance: FloatArray = (self._answered + PULL * common) / (asked + PULL)
        return np.clip(chance, LEAST_CHANCE, 1.0)

    def learn(self, zones: Sequence[int], silent: Sequence[FloatArray]) -> None:
        """Take in one first wave: zones heard, and the prior law of each robot that was silent."""
        miss = 1 - self.chance
        self._answered *= FORGET
        self._silent *= FORGET
        self._answered += np.bincount(np.asarray(zones, dtype=np.int64), minlength=miss.size)
        for law in silent:
            part = law * miss
            total = part.sum()
            self._silent += part / total if total > 0 else law

    def weigh(self, counts: FloatArray) -> FloatArray:
        """Weights per zone for answers `counts`; their sum is the effective number of answers."""
        each = 1 / self.chance
        total, square = counts @ each, counts @ each**2
        if total <= 0:
            return np.zeros_like(counts)
        weights: FloatArray = counts * each * (total / square)
        return weights
