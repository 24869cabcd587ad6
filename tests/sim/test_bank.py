# SPDX-License-Identifier: MIT
"""A world as a bank: slices, pacing, the pose log."""

import logging
from pathlib import Path

import numpy as np
import pytest
from jump_world import JumpWorld

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import Header, HostLog, Poses, read_host_log
from kofn.controller.link.messages import Pace
from kofn.hardware.driver import Bank
from kofn.sim.bank import WorldBank
from kofn.sim.finite import FiniteWorld
from kofn.sim.motion import MotionKernel
from kofn.sim.world import digest_of

NAMES = ("a", "b", "c")
GO = np.array([1, 2, 0])


def _bank(pace: Pace, clock: FakeClock, log: HostLog | None = None) -> WorldBank:
    bank = WorldBank(JumpWorld(), NAMES, seed=3, pace=pace, clock=clock, log=log, host="h0")
    bank.open()
    return bank


def test_world_bank_is_a_bank() -> None:
    bank = _bank("lockstep", FakeClock())
    for name in ("open", "read", "apply", "advance", "hold", "close"):
        assert callable(getattr(bank, name))
        assert hasattr(Bank, name)
    assert (bank.robots, bank.n_zones, bank.n_actions, bank.option_s) == (NAMES, 5, 3, 1.0)


def test_lockstep_option_takes_one_slice_per_control_tick_and_no_clock() -> None:
    bank = _bank("lockstep", FakeClock())
    before = bank.read()
    bank.apply(GO)
    under_way = [bank.advance() for _ in range(10)]
    assert under_way == [True] * 9 + [False]
    after = bank.read()
    assert after.time_s == pytest.approx(1.0)
    assert after.zones.tolist() == ((before.zones + np.array([1, -1, 0])) % 5).tolist()
    assert bank.advance() is False
    assert bank.read().time_s == pytest.approx(1.0)


def test_realtime_world_is_never_more_than_a_tick_ahead_of_the_clock() -> None:
    clock = FakeClock(100.0)
    bank = _bank("realtime", clock)
    bank.apply(GO)
    for now_s in np.arange(100.0, 100.9, 0.013):
        clock.advance_to(float(now_s))
        assert bank.advance()
        assert bank.read().time_s <= now_s - 100.0 + 0.1 + 1e-9
    clock.advance_to(100.95)
    while bank.advance():
        pass
    assert bank.read().time_s == pytest.approx(1.0)
    assert bank.achieved_factor == 1.0


def test_world_that_is_too_slow_skips_no_physics_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    bank = _bank("realtime", clock)
    bank.apply(GO)
    ticks = 1
    with caplog.at_level(logging.WARNING):
        while bank.advance():
            clock.advance_to(clock.now() + 0.2)  # each tick of 0.1 s takes 0.2 s to compute
            ticks += 1
    assert ticks == 10
    assert bank.read().time_s == pytest.approx(1.0)
    assert bank.achieved_factor == pytest.approx(1.0 / 1.8)
    assert "world=slow" in caplog.text


def test_new_step_restarts_the_option_of_a_slow_world() -> None:
    clock = FakeClock()
    bank = _bank("realtime", clock)
    bank.apply(GO)
    bank.advance()
    clock.advance_to(1.0)
    bank.apply(GO)
    assert bank.achieved_factor == pytest.approx(0.1)
    assert sum(bank.advance() for _ in range(5)) == 5
    assert bank.read().time_s == pytest.approx(0.2)  # only what is due since the new step


@pytest.mark.parametrize("pace", ["lockstep", "realtime"])
def test_hold_ends_the_option_and_stops_every_robot(pace: Pace) -> None:
    world = JumpWorld()
    bank = WorldBank(world, NAMES, seed=3, pace=pace, clock=FakeClock())
    bank.hold()  # before open: nothing to stop, nothing raised
    bank.open()
    bank.apply(GO)
    bank.advance()
    bank.hold()
    bank.hold()
    assert world.applied[-1] == [-1, -1, -1]
    assert bank.advance() is False
    bank.close()
    bank.close()
    bank.hold()


def test_log_has_a_header_and_five_pose_rows_a_second(tmp_path: Path) -> None:
    path = tmp_path / "h0.jsonl"
    with HostLog(path) as log:
        bank = _bank("lockstep", FakeClock(), log)
        for _ in range(2):
            bank.apply(GO)
            while bank.advance():
                pass
        bank.close()
    header, *rows = read_host_log(path)
    assert isinstance(header, Header)
    assert header.host == "h0"
    assert header.robots == list(NAMES)
    assert header.arena["zones"] == 5
    times = [row.time_s for row in rows if isinstance(row, Poses)]
    assert times == pytest.approx(np.arange(11) * 0.2)


@pytest.mark.parametrize(
    ("names", "pace", "sentence"),
    [
        (("a", "b"), "lockstep", "2 robot names for a world of 3 robots"),
        (("a", "b", "a"), "lockstep", "twice"),
        (NAMES, "fast", "'fast' is neither"),
    ],
)
def test_impossible_bank_is_refused_in_one_sentence(
    names: tuple[str, ...], pace: Pace, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        WorldBank(JumpWorld(), names, seed=1, pace=pace, clock=FakeClock())


def test_a_reading_names_the_state_now_whatever_was_written_into_the_last_one() -> None:
    world = FiniteWorld(3, MotionKernel([[[0.0, 1.0]], [[1.0, 0.0]]]), period_s=1.0)
    bank = WorldBank(world, NAMES, seed=3, pace="lockstep", clock=FakeClock())
    bank.open()
    first = bank.read()
    assert bank.read().digest == first.digest == digest_of(world.observe())
    first.zones[:] = 1 - first.zones  # what the world will be
    bank.apply(np.zeros(3, dtype=np.int64))
    while bank.advance():
        pass
    after = bank.read()
    assert after.digest == digest_of(world.observe()) != first.digest
    world.condition.up[1] = False
    assert bank.read().digest == digest_of(world.observe()) != after.digest
