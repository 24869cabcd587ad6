# SPDX-License-Identifier: MIT
r"""Pearson's chi-square test of independence for a table with two columns, without scipy.

For zones z with a_z robots asked and h_z of them heard, and the common rate p = sum h / sum a,

.. math:: x = \sum_z \frac{(h_z - a_z p)^2}{a_z\, p\, (1 - p)}, \qquad
          P(\chi^2_d \ge x) = Q(d/2, x/2),

with d = zones - 1 degrees of freedom and Q the regularised upper incomplete gamma function, by its
series below x = a + 1 and by its continued fraction above (Numerical Recipes, section 6.2).
"""

import math
from collections.abc import Sequence

LEAST_EXPECTED = 5.0
"""Zones of which fewer robots are expected in a column are left out: the law is approximate."""

_TERMS = 10_000
_PRECISION = 1e-15
_TINY = 1e-300


def gamma_q(a: float, x: float) -> float:
    """Regularised upper incomplete gamma function Q(a, x) for a > 0, x >= 0."""
    if x <= 0:
        return 1.0
    front = math.exp(-x + a * math.log(x) - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for i in range(1, _TERMS):
            term *= x / (a + i)
            total += term
            if term < total * _PRECISION:
                break
        return max(0.0, 1.0 - front * total)
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    fraction = d
    for i in range(1, _TERMS):  # Lentz's method
        b += 2
        factor = -i * (i - a)
        d = factor * d + b
        c = b + factor / c
        d = 1 / (d if abs(d) > _TINY else _TINY)
        c = c if abs(c) > _TINY else _TINY
        fraction *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return min(1.0, front * fraction)


def upper_tail(x: float, degrees: int) -> float:
    """Probability that a chi-square variable with `degrees` of freedom is at least x."""
    return gamma_q(degrees / 2, x / 2)


def independence_p_value(asked: Sequence[int], heard: Sequence[int]) -> float | None:
    """Return the p-value of "the chance to be heard is the same in every zone".

    Parameters
    ----------
    asked, heard
        Robots asked and robots heard per zone, shape (n_zones,).

    Returns
    -------
    float or None
        None where there is nothing to test: fewer than two zones with enough robots, or a zone is
        as silent as the other because everybody answered, or nobody.
    """
    table = [(a, h) for a, h in zip(asked, heard, strict=True) if a > 0]
    while len(table) > 1:
        rate = sum(h for _, h in table) / sum(a for a, _ in table)
        scarce = min(rate, 1 - rate)
        enough = [(a, h) for a, h in table if a * scarce >= LEAST_EXPECTED]
        if len(enough) == len(table):
            x = sum((h - a * rate) ** 2 / (a * rate * (1 - rate)) for a, h in table)
            return upper_tail(x, len(table) - 1)
        table = enough
    return None
