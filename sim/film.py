# SPDX-License-Identifier: MIT
"""`Film`: what a film of a run shows at each time, read from the logs of its hosts.

Hosts have clocks of their own. What they share are the steps, so film time is laid out by step:
the pose row of world time s that follows step (ep, t) belongs to

    film time = i T + (s - s_t),    i = index of (ep, t) among all steps, s_t = world time at it.

A host that missed a step stands still there and is drawn as silent. Robots are counted in the
target by their zone at that moment, over the robots that are available.

A simulated world is an arena of its own. All other hosts, of boards and drivers, are drawn in one
arena where theirs have the same size, as robots on one floor; a fake one may stand in another.

| symbol | name | shape | unit |
|---|---|---|---|
| T | option_s | - | s |
| g | target | - | zone |
| - | poses of a host's robots | (rows, n, 3) | m, m, rad |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.hostlog import Header, Poses, StepTaken, read_host_log
from kofn.hardware.arena import Layout, layout_of_header
from kofn.hardware.driver import HOLD
from kofn.sim.world import BoolArray, FloatArray, IntArray
from kofn.sim.worlds import WORLDS


@dataclass(frozen=True, slots=True)
class ArenaView:
    """One host's arena at one moment.

    Attributes
    ----------
    host
        Its name.
    layout
        Its arena.
    poses
        Shape (n, 3), m, m, rad.
    actions
        Local action under way, -1 = hold, shape (n,).
    up
        Which robots are available, shape (n,).
    polled
        Which robots the controller asked in this step, shape (n,).
    silent
        Whether the host took no part in this step.
    """

    host: str
    layout: Layout
    poses: FloatArray
    actions: IntArray
    up: BoolArray
    polled: BoolArray
    silent: bool = False

    def in_target(self, target: int) -> BoolArray:
        """Which available robots are in the target zone now, shape (n,)."""
        inside: BoolArray = self.up & (self.layout.zone_of(self.poses) == target)
        return inside


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that one picture shows of one instant."""

    time_s: float
    step: int
    target: int
    arenas: tuple[ArenaView, ...]

    @property
    def counted(self) -> tuple[int, int]:
        """Robots in the target zone, and robots that are available in hosts that take part."""
        views = [view for view in self.arenas if not view.silent]
        inside = sum(int(view.in_target(self.target).sum()) for view in views)
        return inside, sum(int(view.up.sum()) for view in views)

    @property
    def share(self) -> float:
        """Share of available robots in the target zone, 0 when there are none."""
        inside, total = self.counted
        return inside / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What stays the same in all pictures of a film.

    Attributes
    ----------
    title
        First line.
    duration_s
        Length of the time axis, s.
    curve
        (time in s, share of robots in the target zone) in rising time.
    changes
        (time in s, target zone) where a target begins.
    speed
        How many times faster than the robots the film runs; None does not say.
    stills
        Where the painter keeps parts that it has drawn already.
    """

    title: str
    duration_s: float
    curve: Sequence[tuple[float, float]] = ()
    changes: Sequence[tuple[float, int]] = ()
    speed: float | None = None
    stills: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class _Track:
    """A host's log, ordered: step keys with rows, and poses on film time."""

    header: Header
    layout: Layout
    steps: Mapping[tuple[int, int], StepTaken]
    times_s: FloatArray
    poses: FloatArray


class Film:
    """The logs of a run's hosts as one sequence of moments.

    Parameters
    ----------
    folder
        Folder of the host logs, `*.jsonl`.
    polled
        Step t -> names of the robots that the controller asked in it.

    Raises
    ------
    InputError
        No log there has both poses in an arena and a step.
    """

    def __init__(self, folder: Path, polled: Mapping[int, set[str]] | None = None) -> None:
        self._polled = polled if polled is not None else {}
        logs = [log for path in sorted(folder.glob("*.jsonl")) if (log := _read(path)) is not None]
        self.steps = sorted({key for _, _, steps, _ in logs for key in steps})
        if not self.steps:
            raise InputError(f"no log in {folder} holds poses and steps to draw")
        self.option_s = logs[0][0].option_s
        index = {key: i for i, key in enumerate(self.steps)}
        self._tracks = [
            _track(header, layout, steps, rows, index, self.option_s)
            for header, layout, steps, rows in logs
        ]
        self.duration_s = len(self.steps) * self.option_s
        self._groups = _grouped(self._tracks)

    @property
    def targets(self) -> list[int]:
        """Target zone of each step."""
        return [self._target(i) for i in range(len(self.steps))]

    def at(self, time_s: float) -> Moment:
        """Return the moment at a film time, poses interpolated."""
        i = min(max(int(time_s / self.option_s), 0), len(self.steps) - 1)
        views = [self._view(track, i, time_s) for track in self._tracks]
        together = tuple(
            views[group[0]] if len(group) == 1 else _merged([views[j] for j in group])
            for group in self._groups
        )
        return Moment(time_s, self.steps[i][1], self._target(i), together)

    def scene(self, title: str, times_s: Sequence[float], speed: float | None = None) -> Scene:
        """Return what the pictures at these film times have in common."""
        targets = self.targets
        changes = [
            (i * self.option_s, target)
            for i, target in enumerate(targets)
            if i == 0 or target != targets[i - 1]
        ]
        curve = [(time_s, self.at(time_s).share) for time_s in times_s]
        return Scene(title, self.duration_s, curve, changes, speed)

    def _target(self, i: int) -> int:
        key = self.steps[i]
        return next(track.steps[key].g for track in self._tracks if key in track.steps)

    def _view(self, track: _Track, i: int, time_s: float) -> ArenaView:
        n = len(track.header.robots)
        key = self.steps[i]
        row = track.steps.get(key)
        asked = self._polled.get(key[1], set())
        return ArenaView(
            host=track.header.host,
            layout=track.layout,
            poses=_interpolate(track.times_s, track.poses, time_s),
            actions=np.array(row.a) if row is not None else np.full(n, HOLD),
            up=np.array(row.z) >= 0 if row is not None else np.ones(n, dtype=np.bool_),
            polled=np.array([name in asked for name in track.header.robots], dtype=np.bool_),
            silent=row is None,
        )


def _grouped(tracks: Sequence[_Track]) -> list[list[int]]:
    """Indices of the hosts that share an arena in the picture, in the order of the first."""
    groups: dict[object, list[int]] = {}
    for i, track in enumerate(tracks):
        layout = track.layout
        size = (layout.shape, layout.zones, layout.bounds_m, layout.robot_radius_m)
        own = track.header.backend in WORLDS
        groups.setdefault(i if own else (size, layout.obstacles), []).append(i)
    return list(groups.values())


def _merged(views: Sequence[ArenaView]) -> ArenaView:
    """Draw hosts as one; robots of a silent one are not available."""
    return ArenaView(
        host=f"{len(views)} hosts",
        layout=views[0].layout,
        poses=np.concatenate([view.poses for view in views]),
        actions=np.concatenate([view.actions for view in views]),
        up=np.concatenate([view.up & (not view.silent) for view in views]),
        polled=np.concatenate([view.polled for view in views]),
        silent=all(view.silent for view in views),
    )


_Log = tuple[Header, Layout, dict[tuple[int, int], StepTaken], list[tuple[tuple[int, int], Poses]]]


def _read(path: Path) -> _Log | None:
    """Read a log as header, steps, and pose rows with the step before each; None if undrawable."""
    header: Header | None = None
    steps: dict[tuple[int, int], StepTaken] = {}
    rows: list[tuple[tuple[int, int], Poses]] = []
    last: Poses | None = None
    key: tuple[int, int] | None = None
    try:
        for row in read_host_log(path):
            if isinstance(row, Header):
                header = row
            elif isinstance(row, StepTaken):
                key = (row.ep, row.t)
                steps[key] = row
                if last is not None:
                    # A pose at the step itself: a host that missed steps stood still until here.
                    rows.append((key, Poses(time_s=row.time_s, p=last.p)))
            elif isinstance(row, Poses):
                last = row
                if key is not None:
                    rows.append((key, row))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        # A line that was cut in two by a kill and then written over ends the log there.
        pass
    layout = layout_of_header(header.arena) if header is not None else None
    if header is None or layout is None or not rows:
        return None
    n = len(header.robots)
    if any(len(row.p) != n for _, row in rows) or any(len(s.a) != n for s in steps.values()):
        return None
    return header, layout, steps, rows


def _track(
    header: Header,
    layout: Layout,
    steps: dict[tuple[int, int], StepTaken],
    rows: list[tuple[tuple[int, int], Poses]],
    index: Mapping[tuple[int, int], int],
    option_s: float,
) -> _Track:
    """Put a log's poses on film time; a row later than its option counts as its end."""
    times = [
        index[key] * option_s + min(max(row.time_s - steps[key].time_s, 0.0), option_s)
        for key, row in rows
    ]
    poses = np.array([row.p for _, row in rows])
    poses[:, :, 2] = np.unwrap(poses[:, :, 2], axis=0)
    return _Track(header, layout, steps, np.array(times), poses)


def _interpolate(times_s: FloatArray, poses: FloatArray, time_s: float) -> FloatArray:
    """Poses at `time_s`, shape (n, 3); the first or last row outside the recorded times."""
    after = int(np.searchsorted(times_s, time_s, side="right"))
    if after == 0 or after == len(times_s):
        edge: FloatArray = poses[min(after, len(times_s) - 1)]
        return edge
    before_s, after_s = times_s[after - 1], times_s[after]
    part = (time_s - before_s) / (after_s - before_s) if after_s > before_s else 0.0
    between: FloatArray = (1.0 - part) * poses[after - 1] + part * poses[after]
    return between
