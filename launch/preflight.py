# SPDX-License-Identifier: MIT
"""Preflight: may this policy steer real robots? Evidence is a simulated run of the same policy.

| line | holds when |
|---|---|
| policy | the run's policy file is the one to be used (sha256) |
| spaces | zones and actions of policy and arena agree |
| poll size | 1 <= k <= n, and k is that of the run |
| run | it came to its end |
| geofence | no pose of the run lies outside the walls, or outside the robots' own fence |
| separation | no two centres of a host's robots are nearer than two radii |
| speed | no robot went faster between two poses than the limit |
"""

from pathlib import Path

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.link.hostlog import Header, Poses, read_host_log
from kofn.controller.record import RunFolder
from kofn.hardware.bench_run import Line
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.ring import N_ACTIONS, RingLayout

SLACK = 1.05
"""Poses are rounded to millimetres and tenths of a second."""


def preflight(
    run: Path, policy: Policy, layout: RingLayout, *, n: int, k: int, limits: RobotLimits
) -> list[Line]:
    """Check a policy for a physical fleet against a simulated run; one line a condition.

    Raises
    ------
    InputError
        The folder holds no finished run of simulated robots.
    """
    folder = RunFolder(run)
    summary = folder.read_summary()
    if summary is None:
        raise InputError(f"{run} holds no summary: let the simulated run come to its end")
    ran = Policy.load(folder.policy)
    lines = [
        _line("policy", ran.sha256 == policy.sha256, policy.sha256[:12], "simulate this policy"),
        _line(
            "spaces",
            policy.pi_l.shape[1:] == (layout.zones, N_ACTIONS),
            f"{policy.pi_l.shape[1]} zones, {policy.pi_l.shape[2]} actions",
            f"the arena has {layout.zones} zones, {N_ACTIONS} actions",
        ),
        _line(
            "poll size",
            1 <= k <= n and k == summary.get("k", k),
            f"k {k} of n {n}",
            "simulate with the same k, at most the fleet size",
        ),
        _line("run", bool(summary.get("completed", True)), str(run), "let it come to its end"),
    ]
    return [*lines, *_motion(sorted(folder.hosts.glob("*.jsonl")), layout, limits)]


def _motion(logs: list[Path], layout: RingLayout, limits: RobotLimits) -> list[Line]:
    outside = near = fast = poses_seen = 0
    fence = limits.fence()
    for path in logs:
        before: Poses | None = None
        for row in read_host_log(path):
            if isinstance(row, Header):
                before = None
            if not isinstance(row, Poses):
                continue
            poses = np.asarray(row.p, dtype=np.float64)
            poses_seen += len(poses)
            radius = np.hypot(poses[:, 0], poses[:, 1])
            walls = (radius < layout.inner_m) | (radius > layout.outer_m)
            outside += int((walls | ~fence.allows(poses[:, :2])).sum())
            gaps = np.linalg.norm(poses[:, None, :2] - poses[None, :, :2], axis=2)
            gaps[np.diag_indices(len(poses))] = np.inf
            near += int((gaps < 2 * layout.robot_radius_m / SLACK).any(axis=1).sum())
            if before is not None and row.time_s > before.time_s:
                way = np.linalg.norm(poses[:, :2] - np.asarray(before.p)[:, :2], axis=1)
                fast += int((way > SLACK * limits.v * (row.time_s - before.time_s)).sum())
            before = row
    if poses_seen == 0:
        raise InputError("the run has no poses: simulate in a world with bodies")
    return [
        _line(
            "geofence", outside == 0, f"{outside} of {poses_seen} poses outside", "mend the arena"
        ),
        _line("separation", near == 0, f"{near} poses nearer than two radii", "fewer robots"),
        _line("speed", fast == 0, f"{fast} ways faster than {limits.v:g} m/s", "lower speed_mps"),
    ]


def _line(name: str, holds: bool, seen: str, hint: str) -> Line:
    return Line(name, holds, seen, "" if holds else hint)
