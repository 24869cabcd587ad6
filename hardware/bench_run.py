# SPDX-License-Identifier: MIT
"""A robot on the bench: moved by its operator at the robot, without broker, controller or agent.

Everything still goes through `MotorGate`, at a share of the limits, and ends in a stop. The
dead-man of the bench is this process: the driver's read fails or the process ends, motors stop.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Applied, Driver, DriverError, Observation
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.motor_gate import MotorGate
from kofn.hardware.safety_states import Event
from kofn.hardware.safety_task import Safety, SafetySettings

TICK_S = 0.05


class Line(NamedTuple):
    """One line of a report: what was looked at, whether it is well, what was seen, what to do.

    `warn`: it is well enough to go on with, but should be mended.
    """

    name: str
    ok: bool
    seen: str
    hint: str = ""
    warn: bool = False


class BenchRun:
    """A driver in the operator's hands; use with `async with`.

    Parameters
    ----------
    driver, clock
        The robot and its time.
    limits
        Of its file.
    share
        Share of the limits that may be used.
    """

    def __init__(
        self, driver: Driver, clock: Clock, limits: RobotLimits, *, share: float = 0.2
    ) -> None:
        known = driver.capabilities()
        self.driver, self.share = driver, share
        self.limits = limits.capped(known.v_max, known.w_max)
        self._clock = clock
        self.safety = Safety(("bench",), clock, SafetySettings(), self_arming=True)
        self.gate = MotorGate(driver, self.limits, self.safety, clock)
        self.way = (0.0, 0.0, 0.0)

    async def __aenter__(self) -> Self:
        await self.driver.open()
        self.safety.self_check()
        await self.driver.read()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.safety.end()
        await self.gate.stop(always=True)
        await self.driver.close()

    async def move(
        self, v: float, w: float, until: Callable[[tuple[float, float, float]], bool], most_s: float
    ) -> tuple[float, float, float]:
        """Drive until the way (m ahead, m aside, rad turned) is enough; return it. Stops after."""
        ahead = aside = turned = 0.0
        self.safety.step()
        end_s = self._clock.now() + most_s
        try:
            while self._clock.now() < end_s and not until((ahead, aside, turned)):
                self.safety.command()
                await self.gate.drive(v, w, share=self.share)
                await asyncio.sleep(self._clock.to_wall_s(TICK_S))
                seen = await self.driver.read()
                cos, sin = math.cos(turned), math.sin(turned)
                ahead += seen.dx_m * cos - seen.dy_m * sin
                aside += seen.dx_m * sin + seen.dy_m * cos
                turned += seen.dyaw_rad
                if seen.bumper or seen.estop_input or seen.faults:
                    raise DriverError(
                        f"stopped by {_why(seen)}", "free the robot and start the bench run again"
                    )
        finally:
            self.safety.event(Event.PAUSE)
            await self.gate.stop(always=True)
        return ahead, aside, turned


async def selftest(run: BenchRun) -> list[Line]:
    """Test an opened robot, wheels off the ground: motors, signs, inputs, dead-man."""
    known, lines = run.driver.capabilities(), []
    v, w = run.limits.v_max * run.share, run.limits.w_max * run.share
    for name, speeds in (
        ("forward", (v, 0.0)),
        ("backward", (-v, 0.0)),
        ("left", (0.0, w)),
        ("right", (0.0, -w)),
    ):
        way = await run.move(*speeds, until=lambda _: False, most_s=0.6)
        moved, wanted = (way[0], speeds[0]) if speeds[0] else (way[2], speeds[1])
        if not known.has_odometry:
            lines.append(Line(name, ok=True, seen="driven; no odometry: look at the wheels"))
            continue
        good = moved * wanted > 0
        hint = "" if good else "swap the motor's wires, or flip_left / flip_right, or the encoder"
        unit = "m" if speeds[0] else "rad"
        lines.append(Line(f"{name}, encoder sign", good, f"{moved:+.3f} {unit}", hint))
    still = await run.driver.read()
    await asyncio.sleep(0.1)
    still = await run.driver.read()
    rests = abs(still.dx_m) < 0.01 and abs(still.dyaw_rad) < 0.05
    lines.append(Line("stop", rests, f"{still.dx_m:+.3f} m after it", "" if rests else "cut power"))
    if known.has_estop_input:
        free = not still.estop_input
        lines.append(
            Line("stop input", free, "open" if free else "pressed", "" if free else "release it")
        )
    if known.has_battery:
        there = still.battery_v is not None
        seen = f"{still.battery_v:.2f} V" if still.battery_v is not None else "no reading"
        lines.append(Line("battery", there, seen, "" if there else "check its divider"))
    lines.append(await _dead_man(run))
    return lines


async def _dead_man(run: BenchRun) -> Line:
    """Let the commands end and see the safety refuse the next one."""
    run.safety.step()
    await run.gate.drive(run.limits.v_max * run.share, 0.0, share=run.share)
    began_s = time.monotonic()
    limit_s = run.safety.settings.deadman_s
    for _ in range(200):
        if not run.safety.permits():
            break
        await asyncio.sleep(limit_s / 100)
    took_s = time.monotonic() - began_s
    run.safety.check()
    applied = await run.gate.drive(run.limits.v_max * run.share, 0.0, share=run.share)
    good = applied == Applied(0.0, 0.0) and took_s <= limit_s + 0.05
    return Line("dead-man", good, f"{took_s:.3f} s", "" if good else "do not run this robot")


def _why(seen: Observation) -> str:
    pressed = (("bumper", seen.bumper), ("stop input", seen.estop_input))
    return ", ".join([*seen.faults, *(name for name, is_on in pressed if is_on)])
