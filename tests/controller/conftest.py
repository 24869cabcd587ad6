# SPDX-License-Identifier: MIT
"""A small fleet on the memory bus: real host agents, robots that do exactly what they are told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from small_fleet import ZONES, RingBank, small_policy

from kofn.controller.config import ControllerConfig
from kofn.controller.core.policy import Policy
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import Header, HostLog
from kofn.controller.link.memory import Faults, MemoryBus, MemoryTransport
from kofn.controller.link.messages import Pace
from kofn.controller.loop import ControlLoop
from kofn.controller.record import RunFolder
from kofn.controller.results import Decision, Summary
from kofn.hardware.agent import HostAgent


class SilentAgent(HostAgent):
    """An agent that takes part until step `mute_at`, and then says neither answer nor done."""

    mute_at = 0

    def _publish(self, kind: str, message: Any, *, qos: int = 0) -> None:
        if kind in {"rep", "done"} and message.t >= self.mute_at:
            return
        super()._publish(kind, message, qos=qos)


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
        boot: str | None = None,
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
            boot=boot or f"boot-{host}",
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
