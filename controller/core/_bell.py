# SPDX-License-Identifier: MIT
r"""Binomial draws of standard deviation 64 or more, from bins of the bell that are made once.

With :math:`\sigma^2 = n p (1 - p)`, :math:`s = (k - n p) / \sigma` and :math:`\rho = |s| / \sigma`,
Stirling's formula and its remainder give

.. math:: \left| \log(\sqrt{2 \pi} \, \sigma f(k)) + \frac{s^2}{2} \right| \le
    \frac{|s|^3}{6 \sigma} + \frac{1}{1 - \rho} \left( \frac{s^4 + 1}{12 \sigma^2}
    + \frac{\rho}{2} \right) =: \epsilon(s),

which falls as :math:`\sigma` grows and holds for each p: the bounds at :math:`\sigma = 64` serve
all wider laws. A proposal takes a bin of s by the alias method (Walker 1977, Vose 1991), a place in
it and a height. The integer there is taken at once below the least that the law can be in that bin,
as in 94 of 100 proposals, else by the law itself. So most draws take three random words, one square
root and no logarithm, whatever n is. What lies beyond |s| = 9, less than 2^-53, is never drawn: the
law is exact to the resolution of our uniform numbers.

=========  ===========  ========================================================================
name       shape        meaning
=========  ===========  ========================================================================
`_CUT`     (BINS,)      column c of the alias table means `_PAIR[2 c]` below `_CUT[c]`,
`_PAIR`    (2 BINS,)    else `_PAIR[2 c + 1]`
`_SURE`    (BINS,)      the least that the law can be in a bin, over the hat
`_LOG`     (BINS,)      logarithm of the hat, the most that the law can be in a bin
=========  ===========  ========================================================================
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core._alias import make_pairs
from kofn.controller.core._jit import inline, unrolled
from kofn.controller.core._random import GOLDEN, unit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SIGMA = 64.0
"""Least standard deviation of a law to draw from."""
VARIANCE = SIGMA * SIGMA
_REACH = 9.0
_PER_UNIT = 32
BINS = int(2 * _REACH) * _PER_UNIT


def spread(s: F64) -> F64:
    """Return the bound epsilon(s) of the module, at the least standard deviation."""
    ratio = np.abs(s) / SIGMA
    small = (s**4 + 1.0) / (12.0 * VARIANCE) + ratio / 2.0
    bound: F64 = np.abs(s) ** 3 / (6.0 * SIGMA) + small / (1.0 - ratio)
    return bound


def bounds() -> tuple[F64, F64]:
    """Return the logarithms of the least and the most of the law in each bin, shape (BINS,).

    The integer that is nearest to a place of the bin lies up to half a unit of k outside of it.
    """
    edges = np.arange(BINS + 1) / _PER_UNIT - _REACH
    low, high = edges[:-1] - 0.5 / SIGMA, edges[1:] + 0.5 / SIGMA
    far = np.maximum(np.abs(low), np.abs(high))
    near = np.where(low * high > 0.0, np.minimum(np.abs(low), np.abs(high)), 0.0)
    return -(far**2) / 2.0 - spread(far), -(near**2) / 2.0 + spread(far)


def _alias(mass: F64) -> tuple[F64, I64]:
    """Return `_CUT` and `_PAIR` for bins of these masses."""
    n = mass.size
    level = mass * (n / mass.sum())
    other, small, large = (np.empty(n, dtype=np.int64) for _ in range(3))
    make_pairs(level, other, n, small, large)
    own = np.arange(n)
    cut: F64 = np.where(other == own, 1.0, level)
    cut += own
    pair: I64 = np.stack([own, other], axis=1).ravel()
    return cut, pair


_LEAST, _LOG = bounds()
_SURE = np.exp(_LEAST - _LOG)
_CUT, _PAIR = _alias(np.exp(_LOG))


@inline
def log_law(n: int, k: int, mean: float, rest: float) -> float:
    r"""Return log(sqrt(2 pi) sigma f(k)) for k of the bell; mean n p, rest n (1 - p)."""
    away = k - mean
    up, down = math.log1p(away / mean), math.log1p(-away / rest)
    tail = 1.0 / n - 1.0 / k - 1.0 / (n - k)
    return tail / 12.0 - (k + 0.5) * up - (n - k + 0.5) * down


@unrolled
def bell(state: np.uint64, n: int, p: float) -> tuple[np.uint64, int]:
    """Return the advanced state and the successes in n trials, n p (1 - p) >= VARIANCE."""
    mean = n * p
    sigma = math.sqrt(mean * (1.0 - p))
    while True:
        x = unit(state + GOLDEN) * BINS
        place = unit(state + GOLDEN + GOLDEN)
        state += GOLDEN + GOLDEN + GOLDEN
        height = unit(state)
        c = int(x)
        b = _PAIR[2 * c + (x >= _CUT[c])]
        k = int(mean + sigma * ((b + place) * (1.0 / _PER_UNIT) - _REACH) + 0.5)
        if height < _SURE[b]:
            return state, k
        if height == 0.0 or math.log(height) + _LOG[b] <= log_law(n, k, mean, n - mean):
            return state, k
