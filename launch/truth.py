# SPDX-License-Identifier: MIT
r"""What really happened in a run, read from the logs that hosts keep for themselves.

The controller sees k robots a step; this is the harness's view of all n, for figures and films.

.. math:: share(t) = \frac1n \sum_i [z_i(t) = g(t)], \qquad
   r(t) = r_g(g, u) + \frac1n \sum_i r_l(g, z_i, a_i)

| symbol | name | shape | unit |
|---|---|---|---|
| t | `t` | (T,) | step |
| g, u | target, global action; -1 unknown | (T,) | index |
| z | `zones`, -1 unavailable or not logged | (T, n) | index |
| a | `actions`, -1 hold or not logged | (T, n) | index |
| w | `weights`: robots that a column stands for, 1 but for hosts that log counts | (T, n) | - |

A step message carries u(t-1), so u(t) comes from the decisions, or from the next step's log.
Sums run over the robots that were available; a host that stopped early simply stops counting.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.link.hostlog import Header, HostLogRow, StepTaken, read_host_log
from kofn.controller.record import read_decisions

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

LAST_STEPS = 10
"""Steps at the end of a run over which its outcome is averaged."""


@dataclass(frozen=True, slots=True)
class Truth:
    """States and actions of all robots; shapes in the module docstring."""

    t: IntArray
    g: IntArray
    u: IntArray
    zones: IntArray
    actions: IntArray
    robots: tuple[str, ...]
    weights: IntArray | None = None

    @property
    def w(self) -> IntArray:
        """Robots that each entry stands for, shape (T, n)."""
        return np.ones_like(self.zones) if self.weights is None else self.weights


class HostSteps(NamedTuple):
    """The head and the steps of one host's log."""

    header: Header
    steps: list[StepTaken]


def read_truth(folder: Path) -> Truth:
    """Return what the hosts of a run logged.

    Raises
    ------
    InputError
        No host logged a step, or a log is not one of ours (a torn end is fine).
    """
    logs = [log for path in sorted((folder / "hosts").glob("*.jsonl")) if (log := read_steps(path))]
    times = sorted({step.t for log in logs for step in log.steps})
    if not times:
        raise InputError(f"{folder} has no host log with a step in it")
    row_of = {t: row for row, t in enumerate(times)}
    robots = tuple(robot for log in logs for robot in log.header.robots)
    widths = [max(len(log.header.robots), *(len(step.z) for step in log.steps), 0) for log in logs]
    t = np.array(times, dtype=np.int64)
    g, u = np.full(t.size, -1), np.full(t.size, -1)
    zones = np.full((t.size, sum(widths)), -1)
    actions = zones.copy()
    weights = np.zeros_like(zones)
    first = 0
    for log, width in zip(logs, widths, strict=True):
        begin, first = first, first + width
        for step in log.steps:  # of two epochs with one t the later one overwrites the earlier
            row, here = row_of[step.t], slice(begin, begin + len(step.z))
            weights[row, here] = step.w or 1
            g[row], zones[row, here], actions[row, here] = step.g, step.z, step.a
            if step.t - 1 in row_of:
                u[row_of[step.t - 1]] = step.u
    if (folder / "run.mcap").exists():
        for decision in read_decisions(folder):
            if decision.t in row_of:
                u[row_of[decision.t]] = decision.u
    return Truth(t, g, u, zones, actions, robots, weights)


def share_in_target(truth: Truth) -> FloatArray:
    """Share of the available robots that were in the target zone, shape (T,).

    Targets are zones: zone j is the target of global state j. NaN where no robot was available.
    """
    known = truth.zones >= 0
    inside = known & (truth.zones == truth.g[:, None])
    return _ratio((truth.w * inside).sum(axis=1), (truth.w * known).sum(axis=1))


def rewards(truth: Truth, game: Game) -> FloatArray:
    """Reward of each step, shape (T,); NaN where u is unknown or no robot acted.

    Raises
    ------
    InputError
        The logs hold a state or action that the game does not have.
    """
    for what, logged, limit in (
        ("target", truth.g, game.n_global),
        ("global action", truth.u, game.n_global_actions),
        ("zone", truth.zones, game.n_local),
        ("local action", truth.actions, game.n_local_actions),
    ):
        if logged.size and logged.max() >= limit:
            raise InputError(
                f"the host logs hold {what} {logged.max()}, game {game.name!r} has {limit} of them"
            )
    acting = (truth.zones >= 0) & (truth.actions >= 0)
    local = game.r_l[truth.g[:, None], truth.zones, truth.actions]
    weights = truth.w * acting
    mean_local = _ratio((weights * np.where(acting, local, 0.0)).sum(axis=1), weights.sum(axis=1))
    return np.where(truth.u >= 0, game.r_g[truth.g, truth.u] + mean_local, np.nan)


def mean_reward(truth: Truth, game: Game) -> float:
    """Mean reward per step over the steps whose reward is known; NaN when there is none."""
    known = rewards(truth, game)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(part: npt.NDArray[np.generic], whole: IntArray) -> FloatArray:
    """Divide; NaN where the whole is empty."""
    result = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def read_steps(path: Path) -> HostSteps | None:
    """Return the steps of a log in order of epoch; None when not even its header was written."""
    rows = read_rows(path)
    header = next(rows, None)
    if header is None:
        return None
    if not isinstance(header, Header):
        raise InputError(f"{path} is not a host log: its first line is no header")
    steps = [row for row in rows if isinstance(row, StepTaken)]
    for step in steps:
        n = len(step.w) if step.w else len(header.robots)
        if len(step.z) != n or len(step.a) != n:
            raise InputError(f"{path} has {len(step.z)} zones at step {step.t}, but {n} robots")
    return HostSteps(header, sorted(steps, key=lambda step: (step.ep, step.t)))


def read_rows(path: Path) -> Iterator[HostLogRow]:
    """Yield the rows of a log; whatever is not a row is named with its file."""
    try:
        yield from read_host_log(path)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a host log: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read host log {path}: {error.strerror}") from error
