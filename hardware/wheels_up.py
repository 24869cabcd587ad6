# SPDX-License-Identifier: MIT
"""Calibration with the wheels in the air: which way they turn, and from which share on.

Odometry cannot tell the direction: where motor and encoder are both mounted the other way round, it
says what was commanded. So somebody looks. The deadband is where the wheels begin to turn while the
command rises slowly from zero,

    deadband' = d + (1 - d) v / v_max,      d the deadband that the driver makes up for already.
"""

import asyncio
from typing import NamedTuple

from kofn.controller.core.errors import RunError
from kofn.hardware.bench_run import TICK_S, BenchRun
from kofn.hardware.safety_states import Event

STEP = 0.01
"""Share of the greatest speed by which the command rises."""
STEP_S = 0.2
MOST = 0.6
"""Share at which a robot that still stands is broken, not sticky."""
MOVED_M = 0.002


class Start(NamedTuple):
    """The least share of the greatest speed that moves the wheels, and how far they went at it."""

    share: float
    moved_m: float


async def show(run: BenchRun) -> tuple[float, float]:
    """Turn both wheels forward for a second; return what odometry says: m ahead, rad turned."""
    way = await run.move(run.limits.v_max * run.share, 0.0, until=lambda _: False, most_s=1.0)
    return way[0], way[2]


async def find_start(run: BenchRun) -> Start:
    """Raise the command until odometry sees the wheels turn, and stop.

    Raises
    ------
    RunError
        They do not turn at `MOST` of the greatest speed.
    """
    steps = round(MOST / STEP)
    try:
        for step in range(1, steps + 1):
            share, way_m = step * STEP, 0.0
            run.safety.step()
            for _ in range(max(1, round(STEP_S / TICK_S))):
                run.safety.command()
                await run.gate.drive(share * run.limits.v_max, 0.0)
                await asyncio.sleep(TICK_S)
                way_m += abs((await run.driver.read()).dx_m)
            if way_m >= min(MOVED_M, 0.5 * share * run.limits.v_max * STEP_S):
                return Start(share, way_m)
    finally:
        run.safety.event(Event.PAUSE)
        await run.gate.stop(always=True)
    raise RunError(
        f"the wheels do not turn at {100 * MOST:.0f} % of {run.limits.v_max:g} m/s, or their "
        "encoders do not count: check the motor supply and the encoders' wires"
    )


def deadband_of(start: Start, made_up: float) -> float:
    """Deadband of the motor, a share, from what moved it; one step lower, so as not to leap."""
    share = max(0.0, start.share - STEP)
    return made_up + (1.0 - made_up) * share
