# SPDX-License-Identifier: MIT
"""`RobotLoop`: the control loop of one driver, 10 times a second, with its dead-man beside it.

One tick: read odometry -> pose -> option controller -> `safety.limit` -> drive. Motors turn only
while there is an order that is younger than its option, whose giver beats, and whose robot is well:

    drive  iff  order given, now < until, now - beat < deadman_s, no fault and no stop input

Whatever ends an order, only a new one lets the robot move again. A second task, the dead-man,
watches drive commands and beats: a read that blocks the tick for `deadman_s` ends in a stop too.

Pose from odometry (dx, dy, dyaw in the robot's frame):
x += dx cos yaw - dy sin yaw,  y += dx sin yaw + dy cos yaw,  yaw += dyaw.
"""

import asyncio
import contextlib
import logging
import math
from typing import NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import HOLD, Driver, DriverError, Observation
from kofn.hardware.option import OptionController
from kofn.hardware.safety import HasLimits, Limits, limit

_log = logging.getLogger(__name__)

Pose = tuple[float, float, float]

LEAST_PAUSE_S = 0.01
"""Between two looks of the dead-man, fleet seconds."""


class Order(NamedTuple):
    """A local action to act out until fleet time `until_s`."""

    action: int
    until_s: float


class RobotLoop:
    """Drives one robot; `give`, `hold` and `beat` may be called from any thread.

    Parameters
    ----------
    driver
        The robot; opened and closed by this loop.
    controller
        Options of one robot (n = 1).
    start
        Pose at the start: m, m, rad in the arena's frame.
    clock
        Fleet time.
    limits
        Greatest speeds.
    rate_hz
        Ticks a fleet second.
    deadman_s
        0.1 to 2.0 fleet seconds without a fresh command, or without a beat of the giver, stop it.
    """

    def __init__(
        self,
        driver: Driver,
        controller: OptionController,
        *,
        start: Pose,
        clock: Clock,
        limits: HasLimits,
        rate_hz: float = 10.0,
        deadman_s: float = 0.5,
    ) -> None:
        if not 0.1 <= deadman_s <= 2.0:
            raise InputError(f"deadman_s = {deadman_s} s must lie in 0.1..2.0 s")
        if not 1.0 / deadman_s < rate_hz <= 100.0:
            raise InputError(
                f"rate_hz = {rate_hz} must be above {1 / deadman_s:g} (one tick in deadman_s) "
                "and at most 100"
            )
        if not all(math.isfinite(value) for value in start):
            raise InputError(f"start pose {start} must be finite")
        self._driver, self._controller, self._clock = driver, controller, clock
        self._limits = Limits(limits.v_max, limits.w_max)
        self._tick_s, self._deadman_s = 1.0 / rate_hz, deadman_s
        self._order: Order | None = None
        self._started: Order | None = None
        self._beat_s = self._driven_s = -math.inf
        self._moving = False
        self._wake, self._end = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._blocked = False
        self.pose: Pose = start
        self.seen_s = -math.inf
        self.fault: str | None = None
        self.deadman_stops = 0
        self.closing = False

    def give(self, action: int, until_s: float) -> None:
        """Start an order; -1 (HOLD) stops."""
        self.beat()
        self._order = None if action == HOLD or self.fault else Order(action, until_s)
        self._poke(self._wake)

    def hold(self) -> None:
        """Stop now; idempotent, never raises."""
        self._order = None
        self._poke(self._wake)

    def beat(self) -> None:
        """Say that whoever gave the order is alive."""
        self._beat_s = self._clock.now()

    def finish(self) -> None:
        """Make `run` end; idempotent."""
        self.closing = True
        self._order = None
        self._poke(self._end)

    @property
    def under_way(self) -> bool:
        """Whether an order is being acted out."""
        order = self._order
        return order is not None and self._clock.now() < order.until_s

    @property
    def well(self) -> bool:
        """Whether the robot can take orders: no fault, no stop input."""
        return self.fault is None and not self._blocked

    def _poke(self, event: asyncio.Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: motors are stopped
                self._loop.call_soon_threadsafe(event.set)

    async def open(self) -> None:
        """Open the driver and read once. Raises `DriverError`."""
        self._loop = asyncio.get_running_loop()
        await self._driver.open()
        self._observe(await self._driver.read())

    async def run(self) -> None:
        """Tick until `finish`; ends with motors stopped and the driver closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch_always())
                ticks = tasks.create_task(self._tick_always())
                await self._end.wait()
                watch.cancel()
                ticks.cancel()
        finally:
            self._order = None
            await self._stop()
            await self._driver.close()

    async def tick(self) -> None:
        """Read, decide, drive: once."""
        try:
            if self._order is None:  # a hold does not wait for a read
                await self._stop()
            self._observe(await self._driver.read())
            order = self._order
            if order is None or not self._allowed(order):
                if self._order is order:  # not one that was given while this tick was waiting
                    self._order = None
                await self._stop()
                return
            await self._steer(order)
        except Exception as error:  # noqa: BLE001  whatever a driver raises, its robot must stop
            await self._fail(error)

    async def watch(self) -> None:
        """Stop a robot whose command or giver is silent for `deadman_s`: once."""
        if self._moving and self._silence_s() <= 0:
            if self._order is not None:
                self._count_deadman()
            self._order = None
            await self._stop()

    def _allowed(self, order: Order) -> bool:
        now_s = self._clock.now()
        if not self.well or now_s >= order.until_s:
            return False
        if now_s - self._beat_s >= self._deadman_s:
            self._count_deadman()
            return False
        return True

    def _silence_s(self) -> float:
        """Time left before the older of the last drive command and the last beat is too old."""
        return min(self._driven_s, self._beat_s) + self._deadman_s - self._clock.now()

    async def _steer(self, order: Order) -> None:
        pose = np.array([self.pose])
        if self._started is not order:
            self._controller.start(np.array([order.action]), pose)
            self._started = order
        v, w = self._controller.command(pose)
        speeds = limit(float(v[0]), float(w[0]), self._limits)
        self._moving = True  # before the await: the dead-man must see a drive that blocks
        self._driven_s = self._clock.now()
        await self._driver.drive(*speeds)
        if self._order is not order:  # held while the command was on its way
            await self._stop()

    def _observe(self, seen: Observation) -> None:
        x, y, yaw = self.pose
        cos, sin = math.cos(yaw), math.sin(yaw)
        self.pose = (
            x + seen.dx_m * cos - seen.dy_m * sin,
            y + seen.dx_m * sin + seen.dy_m * cos,
            math.remainder(yaw + seen.dyaw_rad, math.tau),
        )
        self.seen_s = self._clock.now()
        if seen.bumper or seen.estop_input or seen.faults:
            self._order = None
        self._blocked = seen.estop_input or bool(seen.faults)

    async def _stop(self) -> None:
        if self._moving:
            # A driver's stop must not raise; one that does is tried again by the dead-man.
            with contextlib.suppress(Exception):
                await self._driver.stop()
                self._moving = False

    async def _fail(self, error: Exception) -> None:
        self._order = None
        self._moving = True  # unknown after an error, so stop for certain
        await self._stop()
        if self.fault is None:
            known = isinstance(error, DriverError)
            self.fault = str(error) if known else f"{type(error).__name__}: {error}"
            _log.error("driver fault=%s", self.fault)

    def _count_deadman(self) -> None:
        self.deadman_stops += 1
        now_s = self._clock.now()
        _log.warning(
            "deadman=stop drive_age_s=%.3f beat_age_s=%.3f",
            now_s - self._driven_s,
            now_s - self._beat_s,
        )

    async def _tick_always(self) -> None:
        while self.fault is None and not self.closing:
            await self.tick()
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets a set event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._clock.to_wall_s(self._tick_s)):
                    await self._wake.wait()
            self._wake.clear()

    async def _watch_always(self) -> None:
        while True:
            # A command that comes while this sleeps is due no earlier than the one known now.
            left_s = self._silence_s() if self._moving else self._deadman_s
            await asyncio.sleep(self._clock.to_wall_s(max(left_s, LEAST_PAUSE_S)))
            await self.watch()
