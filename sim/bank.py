# SPDX-License-Identifier: MIT
"""`WorldBank`: a simulated world as the bank of robots that a host agent steers.

One slice of `advance` is one control tick, so that the agent answers polls while a world computes.

- lockstep: a slice computes a tick at once; the option is over after T of world time.
- realtime: tick i of an option is computed when the clock has reached start + i * tick. A world
  that is too slow computes every tick all the same, late; `achieved_factor` says how late.

World time passes only while an option is under way.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import NAMED_ROBOTS, Header, HostLogRow, Incident, Poses
from kofn.controller.link.messages import Pace
from kofn.hardware.driver import HOLD, Reading
from kofn.sim.injector import Injector
from kofn.sim.world import Condition, FloatArray, IntArray, Snapshot, World, digest_of

_log = logging.getLogger(__name__)

POSE_ROW_TICKS = 2
"""Control ticks between two rows of poses in the host log: 5 rows a second of world time."""
POSES_PER_S = 1500
"""Poses logged per second of world time at most; larger hosts log rarer rows, one per option."""
SLOW_FACTOR = 0.95
"""Achieved share of the demanded pace below which a world is reported as too slow."""


class RowSink(Protocol):
    """Where a bank writes its rows: a `HostLog`, or whoever stands for one."""

    def write(self, row: HostLogRow) -> None:
        """Take one row."""
        ...


class WorldBank:
    """The robots of one world; implements `kofn.hardware.driver.Bank`.

    Parameters
    ----------
    world
        The world; the bank resets and closes it.
    robots
        Names, one per robot of the world, in its order.
    seed
        Seed of the world.
    pace
        "lockstep" or "realtime".
    clock
        Fleet time; read only in realtime.
    log, host
        Where to write the header and poses, and the host's name in that header.
    config
        What the world was built from, for the header: a replay builds it again.
    injector
        Faults of these robots.

    Raises
    ------
    InputError
        Not as many names as robots, a name twice, an unknown pace, or faults in a world that has
        none.
    """

    def __init__(
        self,
        world: World,
        robots: Sequence[str],
        *,
        seed: int,
        pace: Pace,
        clock: Clock,
        log: RowSink | None = None,
        host: str = "host",
        config: Mapping[str, Any] | None = None,
        injector: Injector | None = None,
    ) -> None:
        spec = world.spec
        if len(robots) != spec.n:
            raise InputError(f"{len(robots)} robot names for a world of {spec.n} robots")
        if len(set(robots)) != len(robots):
            raise InputError("a robot name occurs twice in one world")
        if pace not in {"lockstep", "realtime"}:
            raise InputError(f"pace {pace!r} is neither lockstep nor realtime")
        self.robots = tuple(robots)
        self.n_zones = spec.n_zones
        self.n_actions = spec.n_actions
        self.pace: Pace = pace
        self.option_s = spec.period_s
        self._world, self._seed, self._clock = world, seed, clock
        self._host_log, self._host = log, host
        self._config = dict(config or {})
        condition = getattr(world, "condition", None)
        if injector is not None and not isinstance(condition, Condition):
            raise InputError(f"world {spec.backend!r} cannot have faults: it has no condition")
        self._injector = injector
        self._actions = np.full(spec.n, HOLD, dtype=np.int64)
        self._trouble: Mapping[int, str] = {}
        self._news: list[tuple[str, str]] = []
        self._digested: tuple[Snapshot, str] | None = None
        self._open = False
        self._option_ticks = round(spec.period_s / spec.tick_s)
        self._ticks_left = 0
        self._ticks_logged = 0
        rows_per_s = max(POSES_PER_S / spec.n, 1.0 / spec.period_s)
        self._row_ticks = max(POSE_ROW_TICKS, round(1.0 / (rows_per_s * spec.tick_s)))
        self._started_s = 0.0
        self._simulated_s = 0.0
        self._spent_s = 0.0
        self._reported = False

    def open(self) -> None:
        """Build the world, place the robots, and write the head of the log."""
        self._world.reset(self._seed)
        self._open = True
        spec = self._world.spec
        if self._host_log is not None:
            self._host_log.write(
                Header(
                    host=self._host,
                    robots=list(self.robots) if len(self.robots) <= NAMED_ROBOTS else [],
                    config=self._config,
                    arena=spec.arena,
                    option_s=spec.period_s,
                    seed=self._seed,
                    backend=spec.backend,
                    versions=spec.versions,
                    calibrated=getattr(self._world, "calibrated", None),
                )
            )
        self._write_poses()

    def see_step(self, t: int, target: int) -> None:
        """Switch faults on and off for step t; hand the target to a world that asks for it."""
        see_target = getattr(self._world, "see_target", None)
        if see_target is not None:
            see_target(target)
        if self._injector is not None:
            snapshot = self._world.observe()
            # What the last option did comes before what this step brings, whoever looked when.
            self._note_trouble(snapshot)
            self._log_incidents(self._injector.begin(t, self._condition, snapshot.time_s))

    def news(self) -> list[tuple[str, str]]:
        """Return (code, sentence) about robots that went out of play since the last call."""
        news, self._news = self._news, []
        return news

    def read(self) -> Reading:
        """Return zones, availability and world time now."""
        snapshot = self._world.observe()
        self._note_trouble(snapshot)
        return Reading(
            zones=snapshot.zones,
            up=snapshot.up,
            time_s=snapshot.time_s,
            altered=None if self._injector is None else self._injector.deaf,
            digest=self._digest(snapshot),
        )

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot now; -1 stops it."""
        if self._ticks_left > 0:
            self._finish()
        if self._injector is not None:
            snapshot = self._world.observe()
            actions, incidents = self._injector.hear(actions, snapshot.zones)
            self._log_incidents(incidents)
        self._actions = actions
        self._world.apply(actions)
        self._ticks_left = self._option_ticks
        self._started_s = self._clock.now()

    def advance(self) -> bool:
        """Compute one control tick if it is due; True while the option is under way."""
        if self._ticks_left == 0:
            return False
        tick_s = self._world.spec.tick_s
        if self.pace == "realtime" and self._clock.now() < self.due_s():
            return True
        self._world.advance(tick_s)
        if self._injector is not None:
            self._injector.tick(self._actions, self._world.observe().zones, self._condition)
        self._ticks_left -= 1
        self._ticks_logged += 1
        if self._ticks_logged % self._row_ticks == 0 or self._ticks_left == 0:
            self._write_poses()
        if self._ticks_left == 0:
            self._finish()
        return self._ticks_left > 0

    def due_s(self) -> float:
        """Fleet time of the next control tick of a realtime option."""
        done = self._option_ticks - self._ticks_left
        return self._started_s + done * self._world.spec.tick_s

    def hold(self) -> None:
        """Stop all robots now; idempotent, never raises."""
        if self._ticks_left > 0:
            self._finish()
        self._ticks_left = 0
        if self._open:
            try:
                self._world.apply(np.full(len(self.robots), HOLD, dtype=np.int64))
            except (InputError, RunError):
                _log.exception("hold=failed host=%s", self._host)

    def close(self) -> None:
        """Release the world; idempotent. The log is the caller's to close."""
        self._open = False
        self._ticks_left = 0
        self._world.close()

    @property
    def time_s(self) -> float:
        """World time, s."""
        return self._world.observe().time_s

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what the world computes with."""
        return self._world.spec.versions

    @property
    def achieved_factor(self) -> float:
        """Simulated seconds per fleet second over all realtime options so far, at most 1."""
        return self._simulated_s / self._spent_s if self._spent_s > 0 else 1.0

    def _finish(self) -> None:
        """Note what pace the option that ends now was computed at, if one is under way."""
        if self._ticks_left == self._option_ticks or self.pace != "realtime":
            return
        simulated_s = (self._option_ticks - self._ticks_left) * self._world.spec.tick_s
        spent_s = max(self._clock.now() - self._started_s, simulated_s)
        self._simulated_s += simulated_s
        self._spent_s += spent_s
        if simulated_s < SLOW_FACTOR * spent_s and not self._reported:
            self._reported = True
            _log.warning(
                "world=slow host=%s achieved=%.2f of the demanded pace; no physics is skipped",
                self._host,
                simulated_s / spent_s,
            )

    @property
    def _condition(self) -> Condition:
        condition: Condition = self._world.condition  # type: ignore[attr-defined]
        return condition

    def _digest(self, snapshot: Snapshot) -> str:
        """Name the state; one that was named at the last reading is not hashed again."""
        if snapshot.poses is not None:
            return digest_of(snapshot)
        if self._digested is not None:
            last, name = self._digested
            if np.array_equal(last.zones, snapshot.zones) and np.array_equal(last.up, snapshot.up):
                return name
        # The copy is ours: whoever gets the reading may write into it.
        kept = snapshot._replace(zones=snapshot.zones.copy(), up=snapshot.up.copy())
        self._digested = kept, digest_of(snapshot)
        return self._digested[1]

    def _note_trouble(self, snapshot: Snapshot) -> None:
        """Log robots that have gone out of play, or come back, since the last look."""
        before, self._trouble = self._trouble, dict(snapshot.trouble)
        incidents = []
        for i, why in self._trouble.items():
            if before.get(i) != why:
                text = f"robot {self.robots[i]} {why}"
                self._news.append(("robot_down", text))
                _log.warning("robot=down host=%s %s", self._host, text)
                incidents.append(Incident(time_s=snapshot.time_s, i=i, kind="trouble", text=why))
        incidents += [
            Incident(time_s=snapshot.time_s, i=i, kind="trouble", text="is back")
            for i in before
            if i not in self._trouble
        ]
        self._log_incidents(incidents)

    def _log_incidents(self, incidents: Sequence[Incident]) -> None:
        if self._host_log is not None:
            for incident in incidents:
                self._host_log.write(incident)

    def _write_poses(self) -> None:
        if self._host_log is None:
            return
        snapshot = self._world.observe()
        if snapshot.poses is not None:
            self._host_log.write(Poses(time_s=snapshot.time_s, p=_rows(snapshot.poses)))


def _rows(poses: FloatArray) -> list[tuple[float, float, float]]:
    """Poses (n, 3) as log rows, to the millimetre and milliradian."""
    return [(x, y, yaw) for x, y, yaw in np.round(poses, 3).tolist()]
