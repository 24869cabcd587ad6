# SPDX-License-Identifier: MIT
"""A small fleet on the memory bus: real host agents, robots that do exactly what they are told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from kofn.controller.config import ControllerConfig
from kofn.controller.core.game import Game, InitialLaw
from kofn.controller.core.grid import check_grid
from kofn.controller.core.policy import Policy
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import Header, HostLog
from kofn.controller.link.memory import Faults, MemoryBus, MemoryTransport
from kofn.controller.link.messages import Pace
from kofn.controller.loop import ControlLoop
from kofn.controller.record import RunFolder
from kofn.controller.results import Decision, Summary
from kofn.hardware.agent import HostAgent
from kofn.hardware.driver import Reading

ZONES = 4


class RingBank:
    """Robots on a ring of zones: action 1 goes one zone on, 2 one back, 0 and hold stay."""

    n_zones = ZONES
    n_actions = 3
    option_s = 6.0

    def __init__(self, robots: tuple[str, ...], pace: Pace = "lockstep", slices: int = 3) -> None:
        self.robots = robots
        self.pace: Pace = pace
        self.up = np.ones(len(robots), dtype=np.bool_)
        self._zones = np.arange(len(robots), dtype=np.int64) % ZONES
        self._actions = np.zeros(len(robots), dtype=np.int64)
        self._slices = slices
        self._left = 0
        self._time_s = 0.0

    def open(self) -> None:
        self._left = 0

    def read(self) -> Reading:
        return Reading(self._zones.copy(), self.up.copy(), self._time_s)

    def apply(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions, self._left = actions.copy(), self._slices

    def advance(self) -> bool:
        self._left -= 1
        if self._left == 0:
            moves = np.array([0, 1, -1, 0])[self._actions]  # index -1, hold, is the last
            self._zones = (self._zones + moves) % ZONES
            self._time_s += self.option_s
        return self._left > 0

    def hold(self) -> None:
        self._left = 0

    def close(self) -> None:
        self._left = 0


class SilentAgent(HostAgent):
    """An agent that takes part until step `mute_at`, and then says neither answer nor done."""

    mute_at = 0

    def _publish(self, kind: str, message: Any, *, qos: int = 0) -> None:
        if kind in {"rep", "done"} and message.t >= self.mute_at:
            return
        super()._publish(kind, message, qos=qos)


def small_game(**changes: Any) -> Game:
    """A ring of 4 zones and targets; the dispatcher moves the target where it wants, mostly."""
    eye = np.eye(ZONES)
    P_g = np.broadcast_to(0.9 * eye + 0.1 / ZONES, (ZONES, ZONES, ZONES)).copy()
    moves = np.stack([np.roll(eye, shift, axis=1) for shift in (0, 1, -1)], axis=1)
    P_l = np.broadcast_to(moves, (ZONES, ZONES, 3, ZONES)).copy()
    r_l = np.broadcast_to(eye[:, :, None], (ZONES, ZONES, 3)).copy()
    settings: dict[str, Any] = {"initial": InitialLaw(), "name": "small"} | changes
    return Game(P_g, np.ones((ZONES, ZONES)), P_l, r_l, 0.9, **settings)


def small_policy(grid: int = 4, **changes: Any) -> Policy:
    """Send the target to zone (first cells' rank) mod 4; robots walk towards the target."""
    game = small_game(**changes)
    points = check_grid(grid, ZONES)
    action = np.tile(np.arange(points) % ZONES, (ZONES, 1))
    pi_l = np.full((ZONES, ZONES, 3), 0.1)
    for g in range(ZONES):
        for z in range(ZONES):
            pi_l[g, z, 0 if g == z else (1 if (g - z) % ZONES <= 2 else 2)] = 0.8
    return Policy(game, grid, action, pi_l, memory=8.0)


class MakeFleet(Protocol):
    """What the fixture `make_fleet` returns."""

    def __call__(self, *sizes: int, faults: Faults | None = None) -> "SmallFleet": ...


class SmallFleet:
    """Hosts `h0`, `h1`, .. on a bus, each with some robots, and a controller's loop on demand."""

    def __init__(self, folder: Path, sizes: tuple[int, ...], faults: Faults | None) -> None:
        self.root = folder
        self.clock = FakeClock()
        self.bus = MemoryBus(self.clock, faults)
        self.transports: dict[str, MemoryTransport] = {}
        self.banks: dict[str, RingBank] = {}
        self.agents: dict[str, HostAgent] = {}
        self.folder: RunFolder | None = None
        self.logs = folder / "host-logs"
        self._open_logs: list[HostLog] = []
        for index, size in enumerate(sizes):
            self.add(f"h{index}", size)

    def add(
        self,
        host: str,
        size: int,
        *,
        pace: Pace = "lockstep",
        mute_at: int | None = None,
        robots: tuple[str, ...] | None = None,
    ) -> HostAgent:
        """Start a host with `size` robots."""
        names = robots or tuple(f"{host}-{i}" for i in range(size))
        transport = self.bus.transport()
        bank = RingBank(names, pace)
        log = HostLog(self.logs / f"{host}.jsonl")
        self._open_logs.append(log)
        log.write(
            Header(
                host=host,
                robots=list(names),
                arena={"zones": ZONES},
                option_s=bank.option_s,
                seed=7,
                backend="ring",
                versions={},
            )
        )
        kind = HostAgent if mute_at is None else SilentAgent
        agent = kind(
            fleet="test",
            host=host,
            bank=bank,
            transport=transport,
            clock=self.clock,
            seed=7,
            log=log,
            boot=f"boot-{host}",
        )
        if isinstance(agent, SilentAgent) and mute_at is not None:
            agent.mute_at = mute_at
        agent.open()
        self.bus.attach(agent, transport)
        self.transports[host], self.banks[host], self.agents[host] = transport, bank, agent
        return agent

    def close(self) -> None:
        """Close the hosts' logs."""
        for log in self._open_logs:
            log.close()

    def kill(self, host: str) -> None:
        """Do what `kill -9` of a host does."""
        self.bus.break_connection(self.transports[host])

    def loop(
        self,
        *,
        policy: Policy | None = None,
        progress: Callable[[Decision], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        epoch: int = 1,
        **settings: Any,
    ) -> ControlLoop:
        """Make a control loop for this fleet."""
        robots = sum(len(bank.robots) for bank in self.banks.values())
        base: dict[str, Any] = {"fleet": "test", "k": 3, "steps": 12, "robots": robots}
        config = ControllerConfig(**(base | settings))
        self.folder = RunFolder.create(self.root / "runs", config.name)
        return ControlLoop(
            config,
            policy or small_policy(),
            self.bus.transport(),
            self.clock,
            self.folder,
            epoch,
            progress=progress,
            should_stop=should_stop,
        )

    def run(self, **settings: Any) -> tuple[Summary, list[Decision]]:
        """Run a loop to its end; return the summary and the decisions."""
        decisions: list[Decision] = []
        watch = settings.pop("progress", None)

        def keep(decision: Decision) -> None:
            decisions.append(decision)
            if watch is not None:
                watch(decision)

        return self.loop(progress=keep, **settings).run(), decisions


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    """Return a factory: `make_fleet(3, 2)` has hosts `h0` of three robots and `h1` of two."""
    made: list[SmallFleet] = []

    def make(*sizes: int, faults: Faults | None = None) -> SmallFleet:
        made.append(SmallFleet(tmp_path / f"fleet{len(made)}", sizes, faults))
        return made[-1]

    yield make
    for fleet in made:
        fleet.close()


@pytest.fixture
def policy() -> Policy:
    """Return the small policy."""
    return small_policy()
