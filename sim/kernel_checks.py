# SPDX-License-Identifier: MIT
"""How far counted moves can be trusted: intervals of the rows, and checks of what the model drops.

The finite model holds that a robot's next zone depends on its zone, its action and the bin of the
crowd around it, and on nothing else. The checks look at what that leaves out:

- *density*: success of moves by robots in the source zone; bins are needed when it differs;
- *Markov*: success by how the robot's last option ended; a hidden position in the zone shows here;
- *overdispersion*: robots of one option share its traffic, and crowds outlast options, so counts
  vary more than independent ones would, over one option and over ten in a row (`BLOCK`); intervals
  use counts divided by the greatest of these;
- *halves*: L1 distance between the kernels of the first and the second half of the data.

A move is an action that is for another zone than the robot's own; it succeeds when it gets there.
"""

from typing import Any

import numpy as np

from kofn.sim.kernel import Kernel, l1_rows
from kofn.sim.recording import Recording
from kofn.sim.world import BoolArray, FloatArray, IntArray

#: Difference of success rates beyond which a check warns.
WARN_AT = 0.1

#: Samples below which a rate is shown but not judged.
FEW = 30

#: Options in a row over which successes are added up, to see what outlasts an option.
BLOCK = 10

_DRAWS = 2000
_LEVEL = 0.95


def intervals(
    kernel: Kernel, overdispersion: float = 1.0, *, seed: int = 0
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return 95 % posterior intervals of the plain kernel.

    Returns
    -------
    low, high : arrays, shape (G, S, A, S)
        Of each entry by itself.
    radius : array, shape (G, S, A)
        L1 distance from the mean within which the whole row lies.
    """
    alpha = kernel.alpha / max(1.0, overdispersion)
    rng = np.random.default_rng(seed)
    shape = np.where(alpha > 0, alpha, 1.0)
    low, high = np.empty(alpha.shape), np.empty(alpha.shape)
    radius = np.empty(alpha.shape[:-1])
    tails = (0.5 * (1 - _LEVEL), 0.5 * (1 + _LEVEL))
    for index in np.ndindex(*radius.shape):
        drawn = rng.standard_gamma(shape[index], (_DRAWS, alpha.shape[-1])) * (alpha[index] > 0)
        drawn /= drawn.sum(axis=-1, keepdims=True)
        low[index], high[index] = np.quantile(drawn, tails, axis=0)
        distance = np.abs(drawn - kernel.plain[index]).sum(axis=-1)
        radius[index] = np.quantile(distance, _LEVEL)
    return low, high, radius


def success_rates(kernel: Kernel) -> tuple[float | None, float | None]:
    """Return how often moves and stays of the plain kernel succeed; None where there are none."""
    purpose = kernel.purpose
    rows = kernel.plain.mean(axis=0)
    chance = np.take_along_axis(rows, purpose[:, :, None], axis=-1)[..., 0]
    moves = _moves(purpose)
    found = [chance[moves], chance[~moves]]
    moved, stayed = (round(float(rates.mean()), 4) if rates.size else None for rates in found)
    return moved, stayed


def run_checks(
    kernel: Kernel, recordings: list[Recording], halves: tuple[Kernel, Kernel] | None
) -> tuple[dict[str, Any], list[str]]:
    """Return what all checks found, and a sentence for each that warns."""
    purpose = kernel.purpose
    found: dict[str, Any] = {
        "density": density(kernel, purpose),
        "markov": markov(recordings, purpose),
        "overdispersion": overdispersion(recordings, kernel, purpose),
        "overdispersion_of_ten": overdispersion(recordings, kernel, purpose, BLOCK),
    }
    if halves is not None:
        distances = l1_rows(halves[0].plain, halves[1].plain)
        found["halves_l1"] = {
            "mean": round(float(distances.mean()), 4),
            "max": round(float(distances.max()), 4),
        }
    warnings = []
    for what, cure in (
        ("density", "learn and validate with the binned kernel"),
        ("markov", "end options nearer to the zone's core, or make them longer"),
    ):
        spread = found[what]["spread"]
        if spread is not None and spread > WARN_AT:
            shown = ", ".join(f"{key} {rate:.2f}" for key, rate in found[what]["success"].items())
            warnings.append(f"{what} check: moves succeed with {shown}; {cure}")
    empty = int((kernel.pooled.sum(axis=(0, 1, 4)) == 0).sum())
    if empty:
        warnings.append(f"{empty} rows (zone and action) were never seen: they hold the prior")
    return found, warnings


def density(kernel: Kernel, purpose: IntArray) -> dict[str, Any]:
    """Success of moves by bin of the source count."""
    counts = kernel.counts.sum(axis=0)
    moves = _moves(purpose)
    rates: dict[str, tuple[int, int]] = {}
    arrived = np.take_along_axis(counts, purpose[None, :, :, None], axis=-1)[..., 0]
    for b, name in enumerate(bin_names(kernel.first)):
        rates[name] = int(arrived[b][moves].sum()), int(counts[b].sum(axis=-1)[moves].sum())
    return _judged(rates)


def bin_names(first: tuple[int, ...]) -> list[str]:
    """Names of the bins, as "4-5" or "11+"."""
    ends = [str(b - 1) for b in first[1:]] + [""]
    return [
        f"{a}+" if not end else (f"{a}-{end}" if str(a) != end else str(a))
        for a, end in zip(first, ends, strict=True)
    ]


def markov(recordings: list[Recording], purpose: IntArray) -> dict[str, Any]:
    """Success of moves by the end of the robot's last option: failed, succeeded, stayed."""
    rates = {"failed": (0, 0), "succeeded": (0, 0), "stayed": (0, 0)}
    moves = _moves(purpose)
    for recording in recordings:
        z, a = recording.zones, recording.actions
        known = (z[:-1] >= 0) & (z[1:] >= 0) & (a >= 0)
        s, action = np.where(known, z[:-1], 0), np.where(known, a, 0)
        moved, goal = known & moves[s, action], purpose[s, action]
        arrived = moved & (z[1:] == goal)
        before = {
            "failed": moved[:-1] & ~arrived[:-1],
            "succeeded": arrived[:-1],
            "stayed": known[:-1] & ~moved[:-1],
        }
        for name, mask in before.items():
            tried = mask & moved[1:]
            won, total = rates[name]
            rates[name] = won + int((tried & arrived[1:]).sum()), total + int(tried.sum())
    return _judged(rates)


def overdispersion(
    recordings: list[Recording], kernel: Kernel, purpose: IntArray, block: int = 1
) -> dict[str, float]:
    """Variance of the successes in `block` options over that of independent robots, by action."""
    rows = kernel.plain.mean(axis=0)
    chance = np.take_along_axis(rows, purpose[:, :, None], axis=-1)[..., 0]
    result: dict[str, float] = {}
    for action in range(purpose.shape[1]):
        ratios: list[FloatArray] = []
        for recording in recordings:
            z, a = recording.zones, recording.actions
            mine = (a == action) & (z[:-1] >= 0) & (z[1:] >= 0)
            s = np.where(mine, z[:-1], 0)
            p = np.where(mine, chance[s, action], 0.0)
            won = (mine & (z[1:] == purpose[s, action])).sum(axis=1)
            starts = np.arange(0, recording.steps - block + 1, block)
            if starts.size == 0:
                continue
            whole = slice(0, starts.size * block)
            excess = np.add.reduceat((won - p.sum(axis=1))[whole], starts)
            variance = np.add.reduceat((p * (1 - p)).sum(axis=1)[whole], starts)
            ratios.append((excess**2 / np.maximum(variance, 1e-12))[variance > 0])
        seen = np.concatenate(ratios) if ratios else np.empty(0)
        if seen.size:
            result[str(action)] = round(float(seen.mean()), 3)
    return result


def dispersion(kernel: Kernel) -> float:
    """Return the greatest overdispersion that the checks found, at least 1."""
    checks = kernel.info.checks
    found = [
        *checks.get("overdispersion", {}).values(),
        *checks.get("overdispersion_of_ten", {}).values(),
    ]
    return max(found, default=1.0)


def _moves(purpose: IntArray) -> BoolArray:
    """Which (zone, action) pairs are for another zone, shape (S, A)."""
    result: BoolArray = purpose != np.arange(purpose.shape[0])[:, None]
    return result


def _judged(rates: dict[str, tuple[int, int]]) -> dict[str, Any]:
    success = {name: won / total for name, (won, total) in rates.items() if total}
    judged = [won / total for won, total in rates.values() if total >= FEW]
    return {
        "success": {name: round(rate, 4) for name, rate in success.items()},
        "samples": {name: total for name, (_, total) in rates.items()},
        "spread": round(max(judged) - min(judged), 4) if len(judged) > 1 else None,
    }
