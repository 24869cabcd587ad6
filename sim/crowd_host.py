# SPDX-License-Identifier: MIT
"""A host whose robots are a `Crowd`: a million robots, and a step costs what it costs for ten.

To the fleet it is a host like any other: the same messages, latch, epochs, timers and orders
(`HostAgent`, `HostCore`). Robots are alike and named only to be polled, so the host keeps how many
of them are where and gives a robot a zone of its own when somebody asks for it. What the robots
asked say, and the counts in the host's log, have the law of as many single robots: a poll of k
names is a sample of the counts without replacement, a robot that is asked again continues its own
path, and z_prev and a_prev are what led to its zone (`sim.crowd`, tested against enumeration).

Step t in this order: the option of t-1 ends, robots move; z(t) is latched; actions are drawn and
logged. The move waits for step t+1, so a poll for t, however late, is answered from before it. An
option that is cut short moves nobody, as in `FiniteWorld`.

What it cannot do: faults that single robots out, paths of robots before they were first asked, and
draws that do not depend on who was asked before (a seed repeats a run where polls arrive in the
same order, as in lockstep without losses).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import NAMED_ROBOTS, Header, HostLog, HostLogRow, StepTaken
from kofn.controller.link.messages import Flag, Pace, Poll, Reply, Row, Step
from kofn.hardware.agent import WHOLE_SHARE, HostAgent
from kofn.hardware.driver import Reading
from kofn.hardware.host_core import HostCore, Latch, target_of
from kofn.sim.crowd import Crowd
from kofn.sim.world import IntArray

_NOBODY = np.zeros(0, dtype=np.int64)


class CrowdLog(HostLog):
    """A host's log in which each step tells how many robots did what."""

    def __init__(self, path: Path, crowd: Crowd) -> None:
        super().__init__(path)
        self._crowd = crowd

    def write(self, row: HostLogRow) -> None:
        """Append one row."""
        if isinstance(row, StepTaken):
            acting = self._crowd.acting
            z, a = np.nonzero(acting)
            row = msgspec.structs.replace(row, z=z.tolist(), a=a.tolist(), w=acting[z, a].tolist())
        super().write(row)


class CrowdBank:
    """The robots of a crowd; implements `kofn.hardware.driver.Bank` and `SteppedBank`.

    Nobody's zone can be read here: readings hold the time and who is available, which is everybody.

    Parameters
    ----------
    crowd
        The robots.
    robots
        Names, one per robot.
    seed, pace, clock, log, host, config
        As for `WorldBank`.
    option_s
        Length T of an option.
    """

    def __init__(
        self,
        crowd: Crowd,
        robots: Sequence[str],
        *,
        seed: int,
        pace: Pace,
        clock: Clock,
        option_s: float,
        log: HostLog | None = None,
        host: str = "host",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if len(robots) != crowd.n:
            raise InputError(f"{len(robots)} robot names for a crowd of {crowd.n} robots")
        if pace not in {"lockstep", "realtime"}:
            raise InputError(f"pace {pace!r} is neither lockstep nor realtime")
        self.crowd = crowd
        self.robots = tuple(robots)
        self.n_zones = crowd.kernel.n_zones
        self.n_actions = crowd.kernel.n_actions
        self.pace: Pace = pace
        self.option_s = option_s
        self._seed, self._clock, self._host_log, self._host = seed, clock, log, host
        self._config = dict(config or {})
        self._everybody = np.ones(crowd.n, dtype=np.bool_)
        self._nowhere = np.full(crowd.n, -1, dtype=np.int64)
        self._started_s: float | None = None  # fleet time at which the option began
        self._drawn = False  # actions of a step that robots do not act on yet
        self._time_s = 0.0  # world time at which it began, or of the last one's end

    def open(self) -> None:
        """Place the robots, and write the head of the log."""
        self.crowd.reset(self._seed)
        if self._host_log is not None:
            self._host_log.write(
                Header(
                    host=self._host,
                    robots=list(self.robots) if len(self.robots) <= NAMED_ROBOTS else [],
                    config=self._config,
                    arena={},
                    option_s=self.option_s,
                    seed=self._seed,
                    backend="finite",
                    versions={"numpy": np.__version__},
                )
            )

    def see_step(self, t: int, target: int) -> None:  # noqa: ARG002
        """Let the option before this step end: whoever was not stopped moves now."""
        self._end()
        self.crowd.move()
        self._drawn = True

    def news(self) -> list[tuple[str, str]]:
        """Return nothing: robots of a crowd have no troubles."""
        return []

    def read(self) -> Reading:
        """Return who is available, and world time."""
        return Reading(
            zones=self._nowhere, up=self._everybody, time_s=self._time_s + self._passed_s
        )

    def apply(self, actions: IntArray) -> None:  # noqa: ARG002
        """Start the clock of an option; what robots do in it the crowd has drawn already."""
        self._drawn = False
        self._started_s = self._clock.now()

    def advance(self) -> bool:
        """Return whether the option is still under way: in lockstep it takes no time."""
        if self._started_s is None:
            return False
        if self.pace == "realtime" and self._passed_s < self.option_s:
            return True
        self._time_s += self.option_s
        self._started_s = None
        return False

    def hold(self) -> None:
        """Stop all robots now; idempotent, never raises."""
        if self._drawn:  # stopped before anybody set off
            self._drawn = False
            self.crowd.rest()
        self._end()

    def close(self) -> None:
        """Stop; idempotent."""
        self._started_s = None

    @property
    def _passed_s(self) -> float:
        """World time of the option under way."""
        if self._started_s is None or self.pace == "lockstep":
            return 0.0
        return min(self._clock.now() - self._started_s, self.option_s)

    def _end(self) -> None:
        """End the option under way now; if it is cut short, nobody moves."""
        if self._started_s is None:
            return
        passed_s = self._passed_s
        self._time_s += passed_s
        self._started_s = None
        if passed_s < WHOLE_SHARE * self.option_s:
            self.crowd.rest()


class CrowdCore(HostCore):
    """The state of a host between messages, without arrays of robots.

    Parameters
    ----------
    crowd
        The robots.
    robots
        Their names.
    keys
        As for `HostCore`.
    """

    def __init__(self, crowd: Crowd, *, robots: Sequence[str], **keys: Any) -> None:
        super().__init__(robots=(), **keys)
        self._crowd = crowd
        self._places = {name: i for i, name in enumerate(robots)}
        self._moved = False

    def see(self, step: Step, reading: Reading, *, received_s: float, now_s: float) -> list[Reply]:
        """Latch the counts and draw who does what; return replies of polls that waited."""
        old, target = self.latch, target_of(step)
        self._moved = old is not None and self._whole and (old.ep, old.t + 1) == (step.ep, step.t)
        cdf = self.shelf.cdf(step.pol)[target]
        self._crowd.act(np.diff(cdf, axis=-1, prepend=0.0), target)
        nobody = reading._replace(zones=_NOBODY, up=_NOBODY > 0, altered=None)
        return super().see(step, nobody, received_s=received_s, now_s=now_s)

    def _replies(self, poll: Poll, latch: Latch | None, flag: Flag, now_s: float) -> list[Reply]:
        if latch is not None:  # names for all who are new, at once
            places = (self._places.get(name, -1) for name in poll.ids)
            self._crowd.ask(np.array([i for i in places if i >= 0], dtype=np.int64))
        replies = super()._replies(poll, latch, flag, now_s)
        alive = self._crowd.n if latch else 0
        return [msgspec.structs.replace(reply, n=alive) for reply in replies]

    def _row(self, name: str, latch: Latch | None, flag: Flag, age_ms: int) -> Row:
        i = self._places.get(name)
        if i is None or latch is None:
            return Row(name, None, Flag.UNKNOWN if i is None else Flag.UNAVAILABLE, 0)
        zones, before, actions = (int(x[0]) for x in self._crowd.ask(np.array([i])))
        if flag is not Flag.OK or not self._moved or before < 0:
            return Row(name, zones, flag, age_ms)
        return Row(name, zones, flag, age_ms, before, actions)


class CrowdAgent(HostAgent):
    """The agent of a `CrowdBank`; parameters as for `HostAgent`."""

    def _make_core(self, **settings: Any) -> HostCore:
        assert isinstance(self._bank, CrowdBank)  # noqa: S101  whoever makes the agent chose both
        return CrowdCore(self._bank.crowd, **settings)
