# SPDX-License-Identifier: MIT
"""The moves of a recorded run, as recordings that a kernel is identified from.

Hosts log every robot's zone and action, so crowds are known and bins can be counted. Where there
are no host logs (robots far away), the last moves that replies carried are used: k a step, and
nothing is known of the crowd around them.

Simulated hosts are an arena each; hosts of a single robot share one.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.link.hostlog import StepTaken
from kofn.controller.link.messages import Flag, Reply, Step
from kofn.controller.record import read_run
from kofn.hardware.host_core import target_of
from kofn.launch.truth import HostSteps, read_steps
from kofn.sim.recording import Recording

#: Share of an option after which it counts as acted out, as for the host that reports it.
WHOLE_SHARE = 0.9


@dataclass(frozen=True)
class RunMoves:
    """What a run tells of its robots' moves.

    Attributes
    ----------
    policy
        The policy of the run; its game has the rewards.
    recordings
        Stretches of consecutive options; zones, actions and targets as in `Recording`.
    robots
        Robots in one arena.
    crowds_known
        Whether each recording holds all robots of its arena.
    about
        Fields of `KernelInfo` that the logs tell: period_s, backend, layout, versions, seeds.
    """

    policy: Policy
    recordings: list[Recording]
    robots: int
    crowds_known: bool
    about: dict[str, Any]


def read_moves(folder: Path, host: str | None = None) -> RunMoves:
    """Return the moves of a run folder.

    Parameters
    ----------
    folder
        Of `kofn up`, `demo` or `controller`.
    host
        Only this host.

    Raises
    ------
    InputError
        No run there, no such host, hosts of different sizes, or no move at all.
    """
    if not (folder / "policy.npz").exists():
        raise InputError(f"{folder} is no run folder: it has no policy.npz")
    policy = Policy.load(folder / "policy.npz")
    logs = [read_steps(path) for path in sorted((folder / "hosts").glob("*.jsonl"))]
    if host is not None:
        known = [log.header.host for log in logs if log is not None]
        logs = [log for log in logs if log is not None and log.header.host == host]
        if not logs:
            raise InputError(f"{folder} has no log of host {host!r}; there are {known}")
    # Hosts of very many robots log how many did what, and nobody can be followed.
    whole = [log for log in logs if log is not None and log.steps and not log.steps[0].w]
    if whole:
        return _from_logs(policy, whole)
    return _from_replies(policy, folder)


def _from_logs(policy: Policy, logs: list[HostSteps]) -> RunMoves:
    single = [log for log in logs if len(log.header.robots) == 1]
    arenas = [[log] for log in logs if len(log.header.robots) > 1]
    if single:
        arenas.append(single)
    sizes = sorted({sum(len(log.header.robots) for log in arena) for arena in arenas})
    if len(sizes) > 1:
        raise InputError(
            f"the run has arenas of {' and '.join(map(str, sizes))} robots: name one with --host"
        )
    recordings = [recording for arena in arenas for recording in _stretches(arena)]
    if not recordings:
        raise InputError("no host log of the run holds two steps in a row")
    header = logs[0].header
    about = {
        "period_s": header.option_s,
        "backend": header.backend,
        "layout": dict(header.arena),
        "versions": header.versions,
        "seeds": sorted({log.header.seed for log in logs}),
    }
    return RunMoves(policy, recordings, sizes[0], True, about)


def _stretches(arena: list[HostSteps]) -> list[Recording]:
    """Cut the steps of one arena where one is missing or its option was cut short."""
    option_s = arena[0].header.option_s
    by_step: dict[tuple[int, int], list[StepTaken | None]] = {}
    for place, log in enumerate(arena):
        for step in log.steps:
            by_step.setdefault((step.ep, step.t), [None] * len(arena))[place] = step
    keys = sorted(by_step)
    sizes = [len(log.header.robots) for log in arena]
    runs: list[list[tuple[int, int]]] = [[]]
    for key, after in pairwise([*keys, (-1, -1)]):
        runs[-1].append(key)
        if after != (key[0], key[1] + 1) or not _acted_out(by_step[key], by_step[after], option_s):
            runs.append([])
    recordings = []
    for run in runs:
        if len(run) < 2:
            continue
        rows = [by_step[key] for key in run]
        zones = np.array([_row(row, sizes, "z") for row in rows], dtype=np.int64)
        actions = np.array([_row(row, sizes, "a") for row in rows[:-1]], dtype=np.int64)
        targets = np.array([next(s.g for s in row if s) for row in rows[:-1]], dtype=np.int64)
        recordings.append(Recording(zones, actions, targets, np.full(targets.size, -1)))
    return recordings


def _acted_out(
    now: Iterable[StepTaken | None], then: Iterable[StepTaken | None], option_s: float
) -> bool:
    times = [b.time_s - a.time_s for a, b in zip(now, then, strict=True) if a and b]
    return bool(times) and min(times) >= WHOLE_SHARE * option_s


def _row(row: list[StepTaken | None], sizes: list[int], field: str) -> list[int]:
    """Join the hosts' values of one step; robots of a host that missed it are unavailable."""
    joined: list[int] = []
    for step, size in zip(row, sizes, strict=True):
        joined += [-1] * size if step is None else getattr(step, field)
    return joined


def _from_replies(policy: Policy, folder: Path) -> RunMoves:
    """Take (z_prev, a_prev) -> z from the recorded replies; one short recording per step."""
    targets: dict[tuple[int, int], int] = {}
    moves: dict[tuple[int, int], dict[str, tuple[int, int, int]]] = {}
    for entry in read_run(folder):
        message = entry.message
        if isinstance(message, Step):
            targets[message.ep, message.t] = target_of(message)
        elif isinstance(message, Reply):
            for row in message.r:
                z, s, a = row.z, row.z_prev, row.a_prev
                if row.flag == Flag.OK and z is not None and s is not None and a is not None:
                    # A robot may have answered twice; it moved once.
                    moves.setdefault((message.ep, message.t), {})[row.id] = s, a, z
    recordings = []
    robots: set[str] = set()
    for (ep, t), rows in sorted(moves.items()):
        g = targets.get((ep, t - 1))
        if g is None:
            continue
        robots |= rows.keys()
        s, a, z = np.array(list(rows.values()), dtype=np.int64).T
        recordings.append(Recording(np.stack([s, z]), a[None], np.array([g]), np.full(1, -1)))
    if not recordings:
        raise InputError(
            f"{folder} has neither host logs nor replies that carry moves: nothing to count"
        )
    return RunMoves(
        policy, recordings, len(robots), False, {"period_s": _period_s(folder), "backend": "fleet"}
    )


def _period_s(folder: Path) -> float:
    """Length of a step by the run's own settings; 0 when they do not tell."""
    try:
        tables = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        return float(tables["controller"]["period_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
