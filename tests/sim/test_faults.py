# SPDX-License-Identifier: MIT
"""Faults: who is struck, what it does to robots and answers, and that a seed repeats it all."""

from typing import Any

import numpy as np
import pytest

from kofn.controller.core import load_game
from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import HostLogRow, Incident
from kofn.controller.link.memory import MemoryBus
from kofn.controller.link.messages import Flag, Reply, Row, Step, decode, encode
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Session
from kofn.sim.bank import WorldBank
from kofn.sim.faults import Fault, check_faults, faults_of_hosts
from kofn.sim.faulty_transport import FaultyTransport
from kofn.sim.finite import FiniteWorld
from kofn.sim.injector import Injector
from kofn.sim.kinematic import KinematicWorld
from kofn.sim.motion import MotionKernel
from kofn.sim.world import World

KERNEL = MotionKernel.of_game(load_game("arena"))
TOPICS = Topics("f")


class Rows:
    def __init__(self) -> None:
        self.rows: list[HostLogRow] = []

    def write(self, row: HostLogRow) -> None:
        self.rows.append(row)

    def incidents(self, kind: str) -> list[Incident]:
        return [row for row in self.rows if isinstance(row, Incident) and row.kind == kind]


def _bank(world: World, *faults: Fault, seed: int = 1) -> tuple[WorldBank, Rows]:
    rows, n = Rows(), world.spec.n
    injector = Injector(faults, n, seed=seed, host="h")
    names = [f"h.r{i}" for i in range(n)]
    bank = WorldBank(
        world, names, seed=3, pace="lockstep", clock=FakeClock(), log=rows, injector=injector
    )
    bank.open()
    return bank, rows


def _step(bank: WorldBank, t: int, action: int = 1) -> Any:
    bank.see_step(t, 0)
    reading = bank.read()
    bank.apply(np.full(len(bank.robots), action))
    while bank.advance():
        pass
    return reading


def test_a_count_of_robots_is_drawn_over_the_whole_fleet_and_by_the_seed() -> None:
    hosts = {"a": 10, "b": 10}
    fault = Fault(kind="dead", robots=6)
    drawn = [faults_of_hosts([fault], hosts, seed) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len({str(d) for d in drawn}) > 1
    for shared in drawn:
        assert sum(len(f.which or ()) for faults in shared.values() for f in faults) == 6
    # Hypergeometric: over many seeds each host gets half of them.
    ones = [
        sum(len(f.which or ()) for f in faults_of_hosts([fault], hosts, s)["a"]) for s in range(400)
    ]
    assert abs(np.mean(ones) - 3.0) < 0.2


def test_dead_robots_are_unavailable_from_their_step_to_its_end() -> None:
    bank, rows = _bank(KinematicWorld(6), Fault(kind="dead", at=2, until=4, which=(1, 4)))
    up = [_step(bank, t).up.tolist() for t in range(5)]
    both = [True, False, True, True, False, True]
    assert up == [[True] * 6, [True] * 6, both, both, [True] * 6]
    assert [row.i for row in rows.incidents("dead")] == [1, 4, 1, 4]
    assert [row.text for row in rows.incidents("trouble")] == ["is dead"] * 2 + ["is back"] * 2
    assert bank.news() == [
        ("robot_down", "robot h.r1 is dead"),
        ("robot_down", "robot h.r4 is dead"),
    ]


def test_robots_that_do_not_hear_a_step_stand_and_report_no_transition() -> None:
    fault = Fault(kind="step_loss", p=0.5, at=1)
    bank, rows = _bank(FiniteWorld(400, MotionKernel(np.roll(np.eye(5), 1, 1)[:, None])), fault)
    before = _step(bank, 0, 0).zones
    heard = _step(bank, 1, 0)
    after = bank.read()
    moved = after.zones != heard.zones
    assert np.array_equal(heard.zones, (before + 1) % 5)
    assert after.altered is not None
    assert np.array_equal(moved, ~after.altered)
    assert 150 < moved.sum() < 250
    assert len(rows.incidents("step_loss")) == 1 + (~moved).sum()


def test_a_battery_drains_by_driving_and_the_charging_zone_fills_it() -> None:
    stay = MotionKernel(np.repeat(np.eye(5)[:, None], 2, axis=1))
    bank, _ = _bank(FiniteWorld(50, stay), Fault(kind="battery", capacity_s=30.0, zone=2))
    zones = bank.read().zones
    down = [~_step(bank, t, 1).up for t in range(12)]
    assert not down[0].any()
    # 30 s last 5 options of driving; a robot that stands in zone 2 comes back, others do not.
    assert down[8][zones != 2].all()
    assert down[11][zones != 2].all()
    up_again = [~down[t] & down[t - 1] for t in range(1, 12)]
    assert np.any(up_again, axis=0)[zones == 2].all()


@pytest.mark.parametrize("kind", ["stuck_wheel", "slow"])
def test_a_robot_with_bad_wheels_does_not_get_as_far(kind: str) -> None:
    healthy, _ = _bank(KinematicWorld(1))
    broken, _ = _bank(KinematicWorld(1), Fault(kind=kind, factor=0.2))  # type: ignore[arg-type]
    way = []
    for bank in (healthy, broken):
        before = bank._world.observe().poses
        _step(bank, 0)
        after = bank._world.observe().poses
        assert before is not None
        assert after is not None
        way.append(float(np.hypot(*(after - before)[0, :2])))
    assert way[1] < 0.5 * way[0]


def _reply(t: int, n: int) -> Reply:
    rows = [Row(f"h.r{i}", 0, Flag.OK, 0) for i in range(n)]
    return Reply(ep=1, t=t, q="0" * 16, b="b", n=n, r=rows)


def _wire(*faults: Fault, n: int, zones: Any = None) -> tuple[Any, Any, Injector, FakeClock]:
    """A faulty transport, what its peer hears, its injector."""
    clock = FakeClock()
    bus = MemoryBus(clock)
    peer = bus.transport()
    peer.open(Session("peer", [(TOPICS.of("rep", "h"), 0)], lambda _: None, lambda _: []))
    injector = Injector(faults, n, seed=1, host="h")
    names = [f"h.r{i}" for i in range(n)]
    faulty = FaultyTransport(bus.transport(), injector, robots=names, clock=clock, fleet="f")
    faulty.open(Session("h", [(TOPICS.step, 0)], lambda _: None, lambda _: []))
    world = FiniteWorld(n, KERNEL)
    world.reset(1)
    injector.begin(0, world.condition, 0.0)
    injector.hear(np.zeros(n, dtype=np.int64), np.zeros(n, int) if zones is None else zones)
    return faulty, peer, injector, clock


def _heard(peer: Any, timeout_s: float = 0.0) -> list[Reply]:
    heard = []
    while (message := peer.receive(timeout_s)) is not None:
        heard.append(decode(Reply, message.payload))
    return heard


def test_lost_answers_are_taken_out_of_the_reply_by_the_zone_of_their_robot() -> None:
    n, zones = 2000, np.arange(2000) % 2
    faulty, peer, _, _ = _wire(Fault(kind="loss", by_zone=(0.0, 0.6)), n=n, zones=zones)
    faulty.publish(TOPICS.of("rep", "h"), encode(_reply(0, 400)))
    (reply,) = _heard(peer)
    left = {int(row.id.removeprefix("h.r")) for row in reply.r}
    assert {i for i in range(400) if i % 2 == 0} <= left
    assert 50 < len([i for i in left if i % 2]) < 110


def test_a_reply_of_lost_answers_only_is_not_sent() -> None:
    faulty, peer, _, _ = _wire(Fault(kind="loss", p=1.0), n=3)
    assert faulty.publish(TOPICS.of("rep", "h"), encode(_reply(0, 3)))
    assert _heard(peer) == []


def test_delayed_answers_come_later_and_doubled_ones_twice() -> None:
    delay = Fault(kind="delay", delay_s=(0.5, 0.5))
    faulty, peer, _, clock = _wire(delay, Fault(kind="duplicate", p=1.0), n=3)
    faulty.publish(TOPICS.of("rep", "h"), encode(_reply(0, 3)))
    assert _heard(peer) == []
    clock.advance_to(0.49)
    faulty.receive(0.0)
    assert _heard(peer) == []
    clock.advance_to(0.51)
    faulty.receive(0.0)
    assert len(_heard(peer)) == 2


def test_a_partition_cuts_both_ways_and_ends_with_its_step() -> None:
    faulty, peer, _, _ = _wire(Fault(kind="partition", at=3, until=5), n=2)

    def passes(t: int) -> bool:
        step = Step(ep=1, t=t, up=0, g=0, u=0, ttl=0, pol="", k=1, m=(0, 0, 0, 0))
        return bool(faulty._passes(Inbound(TOPICS.step, encode(step), False, 0.0)))

    for t, through in ((2, True), (3, False), (4, False), (5, True)):
        assert passes(t) is through
        faulty.publish(TOPICS.of("rep", "h"), encode(_reply(t, 1)))
        assert bool(_heard(peer)) is through


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "loss"}, "fault 'loss' needs either p or by_zone"),
        ({"kind": "loss", "p": 1.2}, "1.2 is not a probability"),
        ({"kind": "dead", "at": 5, "until": 5}, "until 5 must be above at 5"),
        ({"kind": "partition", "robots": 3}, "strikes whole hosts"),
        ({"kind": "delay", "delay_s": (2.0, 1.0)}, "0 <= least <= most"),
        ({"kind": "battery", "capacity_s": 0.0}, "capacity_s = 0.0 must be finite and above 0"),
        ({"kind": "position_noise", "noise_m": -1.0}, "noise_m = -1.0 must be finite"),
    ],
)
def test_impossible_fault_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Fault(**settings)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(kind="dead", robots=9), "strikes 9 robots, there are 5"),
        (Fault(kind="dead", host="c"), "no host 'c' of simulated robots; known: a, b"),
        (Fault(kind="dead", host="a", which=(2,)), "robot 2 of a host of 2"),
        (Fault(kind="dead", which=(1,)), "so it needs host too"),
        (Fault(kind="loss", by_zone=(0.1, 0.2)), "2 entries by_zone for 5 zones"),
        (Fault(kind="battery", zone=5), r"zone 5 must lie in 0\.\.4"),
    ],
)
def test_fault_that_does_not_fit_the_fleet_is_refused(fault: Fault, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        check_faults([fault], {"a": 2, "b": 3}, 5)
