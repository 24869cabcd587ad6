# SPDX-License-Identifier: MIT
"""Random draws inside kernels: many independent streams, each addressed by what it is for.

A stream starts from a hash of (seed, rollout, step, purpose), so that two policies meet the same
luck as long as they behave alike, and a change in one draw does not shift the others. The state is
one uint64 in an array of length 1, advanced by splitmix64 (Steele, Lea & Flood 2014).

Binomials: inversion for small means, else Hoermann's transformed rejection BTRD (1993), whose cost
does not depend on n and which most often takes one random word and no logarithm. Gamma: Marsaglia &
Tsang (2000).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from kofn.controller.core._jit import inline, unrolled

Stream = npt.NDArray[np.uint64]

#: What a state advances by.
GOLDEN = _GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30 = np.uint64(30)
_SHIFT_27 = np.uint64(27)
_SHIFT_31 = np.uint64(31)
_SHIFT_11 = np.uint64(11)

#: 1 / (k + 1): inversion below a mean of 10 goes no further.
_INVERSE = 1.0 / np.arange(1.0, 202.0)


@unrolled
def mix(z: np.uint64) -> np.uint64:
    """Return a 64-bit hash of z (the finaliser of splitmix64)."""
    z = (z ^ (z >> _SHIFT_30)) * _MIX_1
    z = (z ^ (z >> _SHIFT_27)) * _MIX_2
    return z ^ (z >> _SHIFT_31)


@unrolled
def key(seed: int, rollout: int) -> np.uint64:
    """Return what all streams of a rollout start from."""
    return mix(mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(rollout) + _GOLDEN))


@unrolled
def beginning(rollout_key: np.uint64, step: int, purpose: int) -> np.uint64:
    """Return the state from which a stream of the rollout starts."""
    return mix(rollout_key ^ (np.uint64(step) * _MIX_1 + np.uint64(purpose) + _GOLDEN))


@unrolled
def begin(stream: Stream, rollout_key: np.uint64, step: int, purpose: int) -> None:
    """Set a stream to the beginning of its own sequence, within the rollout of the key."""
    stream[0] = beginning(rollout_key, step, purpose)


@unrolled
def start(stream: Stream, seed: int, rollout: int, step: int, purpose: int) -> None:
    """Set a stream to the beginning of its own sequence."""
    begin(stream, key(seed, rollout), step, purpose)


@unrolled
def unit(state: np.uint64) -> float:
    """Return the number in [0, 1) of a state, with 53 random bits."""
    return np.float64(mix(state) >> _SHIFT_11) * (1.0 / 9007199254740992.0)


@unrolled
def uniform(stream: Stream) -> float:
    """Return a number in [0, 1) with 53 random bits."""
    stream[0] += _GOLDEN
    return unit(stream[0])


@unrolled
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
    """Return log k! minus Stirling's formula, as BTRD needs it."""
    x = k + 1.0
    if k < 10.0:
        return math.lgamma(x) - (k + 0.5) * math.log(x) + x - 0.9189385332046727  # log sqrt(2 pi)
    square = x * x
    return (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / 1260.0 / square) / square) / x


@unrolled
def _binomial_inversion(state: np.uint64, n: int, p: float, log_q: float) -> tuple[np.uint64, int]:
    odds = p / (1.0 - p)
    scale = (n + 1.0) * odds
    while True:
        state += _GOLDEN
        u = unit(state)
        mass = math.exp(n * log_q)
        for k in range(min(n + 1, _INVERSE.size)):
            if u < mass:
                return state, k
            u -= mass
            mass *= scale * _INVERSE[k] - odds
        # The mean is below 10: only rounding leads here, draw again.


@inline
def _accept(u: float, k: float, n: int, p: float, spread: float) -> bool:
    """Tell whether k, proposed with height u, lies below the mass of the law over its mode's."""
    odds = p / (1.0 - p)
    m = math.floor((n + 1.0) * p)
    away = abs(k - m)
    if away <= 15.0:  # the ratio of neighbouring masses, step by step
        above, below = 1.0, 1.0  # at most 15 factors of 1e12: no overflow
        low = min(k, m)
        for i in range(int(away)):
            at = low + 1.0 + i
            above *= (n + 1.0 - at) * odds
            below *= at
        return u * below <= above if k >= m else u * above <= below
    variance = spread * spread
    log_u = math.log(u) if u > 0.0 else -1e300
    slack = away / variance * (((away / 3.0 + 0.625) * away + 1.0 / 6.0) / variance + 0.5)
    middle = -away * away / (2.0 * variance)
    if log_u < middle - slack:
        return True
    if log_u > middle + slack:
        return False
    return log_u <= (
        (m + 0.5) * math.log((m + 1.0) / (odds * (n - m + 1.0)))
        + (n + 1.0) * math.log1p((k - m) / (n - k + 1.0))
        + (k + 0.5) * math.log(odds * (n - k + 1.0) / (k + 1.0))
        + _stirling_tail(m)
        + _stirling_tail(n - m)
        - _stirling_tail(k)
        - _stirling_tail(n - k)
    )


@unrolled
def _binomial_rejection(state: np.uint64, n: int, p: float) -> tuple[np.uint64, int]:
    spread = math.sqrt(n * p * (1.0 - p))
    b = 1.15 + 2.53 * spread
    a = -0.0873 + 0.0248 * b + 0.01 * p
    centre = n * p + 0.5
    v_r = 0.92 - 4.2 / b
    while True:
        state += _GOLDEN
        v = unit(state)
        if v <= 0.86 * v_r:  # inside the table mountain: most draws end here
            u = v / v_r - 0.43
            return state, math.floor((2.0 * a / (0.5 - abs(u)) + b) * u + centre)
        state += _GOLDEN
        if v >= v_r:
            u = unit(state) - 0.5
        else:
            u = v / v_r - 0.93
            u = (0.5 if u >= 0.0 else -0.5) - u
            v = unit(state) * v_r
        us = 0.5 - abs(u)
        if us <= 0.0:
            continue
        k = math.floor((2.0 * a / us + b) * u + centre)
        if k < 0.0 or k > n:
            continue
        alpha = (2.83 + 5.1 / b) * spread
        if _accept(v * alpha / (a / (us * us) + b), k, n, p, spread):
            return state, int(k)


@unrolled
def binomial_share(state: np.uint64, n: int, p: float, log_q: float) -> tuple[np.uint64, int]:
    """Return the advanced state and the successes in n > 0 trials, 0 < p < 1.

    `log_q` is log(1 - min(p, 1 - p)), used below a mean of 10. The state goes by value: an array
    would have its references counted in each call, which takes longer than the draw.
    """
    flipped = p > 0.5
    q = 1.0 - p if flipped else p
    if n * q < 10.0:
        state, k = _binomial_inversion(state, n, q, log_q)
    else:
        state, k = _binomial_rejection(state, n, q)
    return state, n - k if flipped else k


@inline
def binomial(stream: Stream, n: int, p: float) -> int:
    """Return the number of successes in n trials."""
    if n <= 0 or p <= 0.0:
        return 0
    if p >= 1.0:
        return n
    q = min(p, 1.0 - p)
    log_q = math.log1p(-q) if n * q < 10.0 else 0.0
    stream[0], k = binomial_share(stream[0], n, p, log_q)
    return k


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


@unrolled
def _remove_sequentially(
    stream: Stream, draws: int, total: int, up_to: npt.NDArray[np.int64], out: npt.NDArray[np.int64]
) -> None:
    """Take agents one by one; `up_to` holds how many are left in the states up to each."""
    state = stream[0]
    for d in range(draws):
        state += _GOLDEN
        target = int(unit(state) * (total - d))
        i = 0
        for j in range(up_to.size):  # no early exit: a processor cannot foresee it
            beyond = target >= up_to[j]
            i += beyond
            up_to[j] -= not beyond
        out[i] += 1
    stream[0] = state


@unrolled
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
    total = 0
    for i in range(counts.size):
        total += counts[i]
        left[i] = total
        out[i] = 0
    if 2 * k <= total:
        _remove_sequentially(stream, k, total, left, out)
    else:
        _remove_sequentially(stream, total - k, total, left, out)
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
