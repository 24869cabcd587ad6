# SPDX-License-Identifier: MIT
"""Going over to another policy in mid-run."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from small_fleet import small_policy

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import StepTaken, read_host_log
from kofn.controller.link.memory import Faults, MemoryBus
from kofn.controller.link.messages import Step
from kofn.controller.link.policies import pack_file
from kofn.controller.record import read_run
from kofn.controller.results import Decision
from kofn.controller.resume import read_checkpoint, read_settings
from kofn.hardware.agent import HostAgent
from kofn.launch.link_host import HopBank

OLD = small_policy()
STAY = np.broadcast_to(np.array([1.0, 0.0, 0.0]), OLD.pi_l.shape).copy()
STILL = Policy(OLD.game, OLD.grid, np.zeros_like(OLD.action), STAY, memory=8.0)


def switching(
    fleet: Any, at: int, policy: Policy = STILL, **settings: Any
) -> tuple[Any, list[Decision]]:
    decisions: list[Decision] = []

    def act(decision: Decision) -> None:
        decisions.append(decision)
        retained = [topic for topic in fleet.bus._retained if "/pol/" in topic]
        assert len(retained) <= 2
        if decision.t == at:
            loop.change_policy(policy)

    loop = fleet.loop(policy=OLD, progress=act, **settings)
    return loop.run(), decisions


def policies(fleet: Any) -> list[str]:
    records = [entry.message for entry in read_run(fleet.folder.path)]
    return [record.pol for record in records if isinstance(record, Step)]


def slow() -> Faults:
    return Faults(delay_s={"done": (0.5, 0.5), "pol": (0.7, 0.7)})


def test_all_hosts_change_at_one_step_and_the_older_policy_is_withdrawn(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())
    summary, decisions = switching(fleet, at=3, steps=10)
    old, new = pack_file(OLD.pi_l), pack_file(STILL.pi_l)
    seen = policies(fleet)
    assert [name for name, _ in groupby(seen)] == [f"sha256:{p.digest}" for p in (old, new)]
    assert 4 < seen.index(f"sha256:{new.digest}") < 8  # it had to reach them first
    assert not [topic for topic in fleet.bus._retained if "/pol/" in topic]
    assert all(decision.missing == decision.unavailable == 0 for decision in decisions)
    assert summary.policy_sha256 == STILL.sha256
    switched = seen.index(f"sha256:{new.digest}")
    for host in ("h0", "h1"):
        log = read_host_log(fleet.logs / f"{host}.jsonl")
        taken = [row for row in log if isinstance(row, StepTaken)]
        assert all(set(row.a) == {0} for row in taken[switched:])
        assert any(set(row.a) != {0} for row in taken[:switched])


def test_belief_goes_on_across_the_switch(make_fleet: Any) -> None:
    _, decisions = switching(make_fleet(4, 3), at=5, steps=9)
    totals = [sum(decision.belief) for decision in decisions]
    assert totals[6] >= totals[5] * 0.5


def test_run_is_resumed_with_the_policy_that_it_went_over_to(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)
    stop: list[Decision] = []

    def act(decision: Decision) -> None:
        if decision.t == 2:
            loop.change_policy(STILL)
        if decision.t == 6:
            stop.append(decision)

    loop = fleet.loop(policy=OLD, steps=12, progress=act, should_stop=lambda: bool(stop))
    loop.run()
    _, policy = read_settings(fleet.folder.path)
    assert policy.sha256 == STILL.sha256
    assert read_checkpoint(fleet.folder.path).policy_sha256 == STILL.sha256


def deaf(fleet: Any, *hosts: str) -> Callable[[], None]:
    """Return what makes hosts deaf to policies."""

    def make() -> None:
        for host in hosts:
            agent = fleet.agents[host]
            hear = agent.on_message
            agent.on_message = lambda m, hear=hear: None if "/pol/" in m.topic else hear(m)

    return make


def test_host_without_the_policy_is_left_behind_by_name(
    make_fleet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = make_fleet(4, 3, faults=slow())
    loop = fleet.loop(policy=OLD, steps=20, wait_s=4.0)
    seen: list[Decision] = []

    def act(decision: Decision) -> None:
        seen.append(decision)
        if decision.t == 2:
            deaf(fleet, "h1")()
            loop.change_policy(STILL)

    loop._progress = act
    assert loop.run().completed
    assert [frame for frame, _ in groupby(d.frame for d in seen)] == [7, 4]
    assert "policy lacking hosts=h1" in caplog.text


def test_policy_that_reaches_nobody_changes_nothing(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())
    loop = fleet.loop(policy=OLD, steps=20, wait_s=4.0)

    def act(decision: Decision) -> None:
        if decision.t == 2:
            deaf(fleet, "h0", "h1")()
            loop.change_policy(STILL)

    loop._progress = act
    summary = loop.run()
    assert summary.completed
    assert summary.policy_sha256 == OLD.sha256
    assert len(set(policies(fleet))) == 1


def test_policy_for_other_spaces_is_refused(make_fleet: Any) -> None:
    fleet = make_fleet(4)
    game = OLD.game
    wide = np.zeros((4, 4, 4, 4))
    wide[...] = 0.25
    other = type(game)(game.P_g, game.r_g, wide, np.zeros((4, 4, 4)), 0.9)
    policy = Policy(other, OLD.grid, OLD.action, np.full((4, 4, 4), 0.25))
    loop = fleet.loop(policy=OLD, steps=3)
    loop._progress = lambda _: loop.change_policy(policy)
    with pytest.raises(InputError, match="this run plays one of"):
        loop.run()


def test_host_takes_a_policy_in_parts_over_the_wire() -> None:
    """A local policy of some 70 kB, which no single message holds."""
    clock = FakeClock()
    bus = MemoryBus(clock)
    pi_l = np.random.default_rng(0).dirichlet(np.ones(3), size=(30, 40))
    bank: Any = HopBank(["r0", "r1"], 1.0, clock)  # type: ignore[arg-type]
    bank.n_zones = 40
    transport = bus.transport()
    agent = HostAgent(
        fleet="f", host="h0", bank=bank, transport=transport, clock=clock, seed=0, n_targets=30
    )
    agent.open()
    bus.attach(agent, transport)

    class Forgetful:
        def write(self, kind: str, message: Any, host: str = "") -> None: ...

        def flush(self) -> None: ...

    config = ControllerConfig(fleet="f", k=1, steps=1, robots=2)
    link = FleetLink(config, 1, pi_l, transport=bus.transport(), clock=clock, record=Forgetful())
    link.open(1.0)
    while len(link.frame.ids) < 2:
        assert link.receive(1.0)
    assert len([topic for topic in bus._retained if "/pol/" in topic]) == 3
    link.close()
    assert not [topic for topic in bus._retained if "/pol/" in topic]
