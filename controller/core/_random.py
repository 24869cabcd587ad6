# SPDX-License-Identifier: MIT
"""Random draws inside kernels: many independent streams, each addressed by what it is for.

A stream starts from a hash of (seed, rollout, step, purpose), so that two policies meet the same
luck as long as they behave alike, and a change in one draw does not shift the others. The state is
one uint64 in an array of length 1, advanced by splitmix64 (Steele, Lea & Flood 2014).

Binomials: inversion for small means, else Hoermann's transformed rejection BTRS (1993), whose cost
does not depend on n. Gamma: Marsaglia & Tsang (2000).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline

Stream = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30 = np.uint64(30)
_SHIFT_27 = np.uint64(27)
_SHIFT_31 = np.uint64(31)
_SHIFT_11 = np.uint64(11)


@inline
def mix(z: np.uint64) -> np.uint64:
    """Return a 64-bit hash of z (the finaliser of splitmix64)."""
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    return z ^ (z >> _SHIFT_31)


@inline
def start(stream: Stream, seed: int, rollout: int, step: int, purpose: int) -> None:
    """Set a stream to the beginning of its own sequence."""
    z = mix(np.uint64(seed) + _GOLDEN)
    z = mix(z ^ (np.uint64(rollout) + _GOLDEN))
    z = mix(z ^ (np.uint64(step) * _MIX_1 + np.uint64(purpose) + _GOLDEN))
    stream[0] = z


@inline
def uniform(stream: Stream) -> float:
    """Return a number in [0, 1) with 53 random bits."""
    stream[0] += _GOLDEN
    return np.float64(mix(stream[0]) >> _SHIFT_11) * (1.0 / 9007199254740992.0)


@inline
def categorical(stream: Stream, weights: npt.NDArray[np.float64]) -> int:
    """Return an index with probability proportional to its weight."""
    left = uniform(stream) * weights.sum()
    last = 0
    for i in range(weights.size):
        if weights[i] > 0.0:
            last = i
            left -= weights[i]
            if left < 0.0:
                return i
    return last


@inline
def _stirling_tail(k: float) -> float:
    """Return log k! minus Stirling's formula, as BTRS needs it."""
    x = k + 1.0
    if k < 10.0:
        return math.lgamma(x) - (k + 0.5) * math.log(x) + x - 0.9189385332046727  # log sqrt(2 pi)
    square = x * x
    return (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1260.0 / square) / square) / x


@inline
def _binomial_inversion(stream: Stream, n: int, p: float) -> int:
    ratio = p / (1.0 - p)
    while True:
        u = uniform(stream)
        mass = math.exp(n * math.log1p(-p))
        k = 0
        while u >= mass and k < n:
            u -= mass
            mass *= ratio * (n - k) / (k + 1)
            k += 1
            if k > 200:  # the mean is below 10: only rounding leads here, draw again
                break
        if k <= 200:
            return k


@inline
def _binomial_rejection(stream: Stream, n: int, p: float) -> int:
    spread = math.sqrt(n * p * (1.0 - p))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    centre = n * p + 0.5
    v_r = 0.92 - 4.2 / b
    odds = p / (1.0 - p)
    alpha = (2.83 + 5.1 / b) * spread
    m = math.floor((n + 1) * p)
    while True:
        u = uniform(stream) - 0.5
        v = uniform(stream)
        us = 0.5 - abs(u)
        if us <= 0.0:
            continue
        k = math.floor((2.0 * a / us + b) * u + centre)
        if k < 0 or k > n:
            continue
        if us >= 0.07 and v <= v_r:
            return int(k)
        v = math.log(v * alpha / (a / (us * us) + b)) if v > 0.0 else -1e300
        bound = (
            (m + 0.5) * math.log((m + 1.0) / (odds * (n - m + 1.0)))
            + (n + 1.0) * math.log((n - m + 1.0) / (n - k + 1.0))
            + (k + 0.5) * math.log(odds * (n - k + 1.0) / (k + 1.0))
            + _stirling_tail(m)
            + _stirling_tail(n - m)
            - _stirling_tail(k)
            - _stirling_tail(n - k)
        )
        if v <= bound:
            return int(k)


@inline
def binomial(stream: Stream, n: int, p: float) -> int:
    """Return the number of successes in n trials."""
    if n <= 0 or p <= 0.0:
        return 0
    if p >= 1.0:
        return n
    flipped = p > 0.5
    q = 1.0 - p if flipped else p
    k = _binomial_inversion(stream, n, q) if n * q < 10.0 else _binomial_rejection(stream, n, q)
    return n - k if flipped else k


@inline
def add_multinomial(
    stream: Stream, n: int, p: npt.NDArray[np.float64], out: npt.NDArray[np.int64]
) -> None:
    """Add a multinomial draw of n over the distribution p to `out`, same shape."""
    rest = 1.0
    for i in range(p.size - 1):
        if n == 0:
            return
        if p[i] > 0.0:
            x = binomial(stream, n, min(p[i] / rest, 1.0)) if rest > 0.0 else n
            out[i] += x
            n -= x
            rest -= p[i]
    out[p.size - 1] += n


@inline
def _remove_sequentially(
    stream: Stream, draws: int, left: npt.NDArray[np.int64], out: npt.NDArray[np.int64]
) -> None:
    total = left.sum()
    for _ in range(draws):
        target = int(uniform(stream) * total)
        i = 0
        while target >= left[i]:
            target -= left[i]
            i += 1
        left[i] -= 1
        out[i] += 1
        total -= 1


@inline
def sample_without_replacement(
    stream: Stream,
    k: int,
    counts: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
) -> None:
    """Draw k of the agents in `counts` without replacement (multivariate hypergeometric).

    `left` is scratch space; all arrays have shape (S,). Costs O(min(k, n - k) S).
    """
    total = counts.sum()
    for i in range(counts.size):
        left[i] = counts[i]
        out[i] = 0
    if 2 * k <= total:
        _remove_sequentially(stream, k, left, out)
    else:
        _remove_sequentially(stream, total - k, left, out)
        for i in range(counts.size):
            out[i] = counts[i] - out[i]


@inline
def normal(stream: Stream) -> float:
    """Return a standard normal number (Box-Muller)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(stream)))
    return radius * math.cos(2.0 * math.pi * uniform(stream))


@inline
def gamma(stream: Stream, shape: float) -> float:
    """Return a gamma variate with unit scale."""
    boost = 1.0
    if shape < 1.0:
        boost = (1.0 - uniform(stream)) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = normal(stream)
        v = (1.0 + c * x) ** 3
        if v > 0.0 and math.log(1.0 - uniform(stream)) < 0.5 * x * x + d - d * v + d * math.log(v):
            return boost * d * v


@inline
def dirichlet(stream: Stream, alpha: float, out: npt.NDArray[np.float64]) -> None:
    """Fill `out` with a draw from the symmetric Dirichlet law."""
    total = 0.0
    for i in range(out.size):
        out[i] = gamma(stream, alpha)
        total += out[i]
    if total > 0.0:
        for i in range(out.size):
            out[i] /= total
    else:  # all variates underflowed: for tiny alpha the law is a random corner
        corner = int(uniform(stream) * out.size)
        for i in range(out.size):
            out[i] = 1.0 if i == corner else 0.0
