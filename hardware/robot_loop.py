# SPDX-License-Identifier: MIT
"""`RobotLoop`: the control loop of one driver, 10 times a second, with its dead-man beside it.

One tick: read odometry -> pose -> option controller -> `MotorGate` -> drive. Motors turn only while
there is an order that is younger than its option, whose giver beats, and whose robot is armed and
well (`Safety`):

    drive  iff  order given, now < until, now - beat < deadman_s, safety permits

Whatever ends an order, only a new one lets the robot move again. Beside the ticks a dead-man looks
at the same clocks, once in this event loop and once in a thread of its own (`watchdog`).

After a driver error the robot is in FAULT; the loop opens its device again once a second, and the
operator may clear the fault once that worked.

Pose from odometry (dx, dy, dyaw in the robot's frame):
x += dx cos yaw - dy sin yaw,  y += dx sin yaw + dy cos yaw,  yaw += dyaw.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import HOLD, Applied, Driver, DriverError, Observation
from kofn.hardware.geofence import Fence
from kofn.hardware.limits_file import Battery
from kofn.hardware.motor_gate import MotorGate
from kofn.hardware.option import OptionController
from kofn.hardware.safety import HasLimits, check_limits
from kofn.hardware.safety_states import Event, Mode
from kofn.hardware.safety_task import Safety, SafetySettings

_log = logging.getLogger(__name__)

Pose = tuple[float, float, float]

LEAST_PAUSE_S = 0.01
"""Between two looks of the dead-man, fleet seconds."""
REOPEN_S = 1.0
"""Between two tries to open a device again, fleet seconds."""
WAY_WITHOUT_FIX_M = 1.0
"""So far odometry alone carries the pose of a robot that is localised by others."""
HOME, HOME_SHARE, HOME_GAIN = 0, 0.25, 4.0
"""Local action after the way back into a fence; share of the limits on it; turn rate per error."""


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
    safety
        Who permits motion; None makes one that arms itself, with `deadman_s`.
    fence, battery
        Where the robot may be, and thresholds of its battery.
    localised
        Poses come from elsewhere (`fix`); odometry only fills in between them.
    trouble
        Why the self-check fails whatever the driver says; None where it does not.
    applied
        See `MotorGate`.
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
        safety: Safety | None = None,
        fence: Fence | None = None,
        battery: Battery | None = None,
        localised: bool = False,
        trouble: str | None = None,
        applied: Callable[[float, float, Applied], None] | None = None,
    ) -> None:
        if safety is None:
            settings = SafetySettings(deadman_s=deadman_s)
            safety = Safety(("robot",), clock, settings, self_arming=True)
        deadman_s = safety.settings.deadman_s
        if not 1.0 / deadman_s < rate_hz <= 100.0:
            raise InputError(
                f"rate_hz = {rate_hz} must be above {1 / deadman_s:g} (one tick in deadman_s) "
                "and at most 100"
            )
        if not all(math.isfinite(value) for value in start):
            raise InputError(f"start pose {start} must be finite")
        self._driver, self._controller, self._clock = driver, controller, clock
        self.safety = safety
        self.gate = MotorGate(driver, check_limits(limits), safety, clock, applied=applied)
        self._fence, self._battery, self._localised = fence, battery, localised
        self._tick_s, self._deadman_s = 1.0 / rate_hz, deadman_s
        self._order: Order | None = None
        self._started: Order | None = None
        self._beat_s = -math.inf
        self._wake, self._end = asyncio.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._opened = False
        self._broken = False  # the device has to be opened again
        self._reopen_s = -math.inf
        self._trouble = trouble
        self._way_m = 0.0
        self._creeping = False
        self._waits = False  # the localiser said so: no way ahead, turns only
        self.pose: Pose = start
        self.seen_s = -math.inf
        self.closing = False
        safety.on_stop.append(lambda which: self.ask_stop() if which[0] else None)

    def give(self, action: int, until_s: float) -> None:
        """Start an order where the robot is armed; -1 (HOLD) stops."""
        self.beat()
        self._creeping = False
        if action == HOLD or not self.well:
            self.hold()
            return
        self.safety.step(0)
        self._order = Order(action, until_s) if self.safety.permits(0) else None
        self._poke(self._wake)

    def creep_home(self, until_s: float) -> bool:
        """Let a robot outside its fence go back slowly; False where it may not move."""
        self._creeping = True
        self.safety.event(Event.CREEP_HOME, 0)
        if not self.safety.permits(0):
            self._creeping = False
            return False
        self._order = Order(HOME, until_s)
        self._poke(self._wake)
        return True

    def hold(self) -> None:
        """Stop now; idempotent, never raises."""
        self._order = None
        self.safety.pause(0)
        self._poke(self._wake)

    def beat(self) -> None:
        """Say that whoever gave the order is alive."""
        self._beat_s = self._clock.now()

    def fix(self, pose: Pose, age_s: float, wait: bool = False) -> None:
        """Take a pose from a localiser that was true `age_s` ago; `wait` for others from now on."""
        self._waits = wait
        if all(math.isfinite(value) for value in pose):
            self.pose, self._way_m = pose, 0.0
            self.seen_s = self._clock.now() - max(age_s, 0.0)
            if age_s <= self.safety.settings.pose_max_age_s:
                self.safety.see_pose(0)

    def finish(self) -> None:
        """Make `run` end; idempotent."""
        self.closing = True
        self._order = None
        self.safety.end()
        self._poke(self._end)

    @property
    def under_way(self) -> bool:
        """Whether an order is being acted out."""
        order = self._order
        return order is not None and self._clock.now() < order.until_s

    @property
    def fault(self) -> str | None:
        """Why the robot is out of order; None when it is not."""
        return self.safety.why(0) if self.safety.mode(0) in (Mode.FAULT, Mode.ESTOP) else None

    @property
    def deadman_stops(self) -> int:
        """How often the dead-man stopped the robot."""
        return self.safety.counts.get("deadman", 0)

    @property
    def well(self) -> bool:
        """Whether the robot would act on a step: armed, inside its fence, battery above `warn`."""
        return bool(self.safety.ready()[0])

    def ask_stop(self) -> None:
        """Have this loop stop the robot as soon as it can; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: motors are stopped
                self._loop.call_soon_threadsafe(self._stop_soon)

    def _stop_soon(self) -> None:
        task = asyncio.ensure_future(self.gate.stop(always=True))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _poke(self, event: asyncio.Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: motors are stopped
                self._loop.call_soon_threadsafe(event.set)

    async def open(self) -> None:
        """Open the driver and read once; then the robot is DISARMED. Raises `DriverError`."""
        self._loop = asyncio.get_running_loop()
        await self._driver.open()
        self._opened = True
        self._observe(await self._driver.read())
        self.safety.self_check(self._trouble)

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
            await self.gate.stop(always=True)
            await asyncio.gather(*self._stopping)
            await self._driver.close()

    async def tick(self) -> None:
        """Read, decide, drive: once."""
        if self._broken and not await self._reopen():
            return
        try:
            if self._order is None:  # a hold does not wait for a read
                await self.gate.stop()
            self._observe(await self._driver.read())
            order = self._order
            if order is None or not self._allowed(order):
                if self._order is order:  # not one that was given while this tick was waiting
                    self._order = None
                    self._end_option(order)
                await self.gate.stop()
                return
            await self._steer(order)
        except Exception as error:  # noqa: BLE001  whatever a driver raises, its robot must stop
            await self._fail(error)

    async def watch(self) -> None:
        """Stop a robot whose command or giver is silent for `deadman_s`, or that may not move."""
        self.look()
        if self.gate.moving and not self.safety.permits(0):
            self._order = None
            await self.gate.stop()

    def look(self) -> None:
        """Look at the timers once; from any thread."""
        if self._order is not None and self._beat_silent():
            self.safety.event(Event.DEADMAN, 0, why="the agent is silent")
        self.safety.check()
        if self._order is not None and not self.safety.permits(0):
            self._order = None

    def offends(self) -> bool:
        """Whether motors may be turning that must not."""
        return self.gate.moving and not self.safety.permits(0)

    def _allowed(self, order: Order) -> bool:
        if self._clock.now() >= order.until_s:
            return False
        self.look()
        return self.safety.permits(0)

    def _end_option(self, order: Order | None) -> None:
        """Note the normal end of an option: no command is due until the next step."""
        if order is not None and self._clock.now() >= order.until_s:
            self._creeping = False
            self.safety.pause(0)

    def _beat_silent(self) -> bool:
        return not self._creeping and self._clock.now() - self._beat_s >= self._deadman_s

    def _silence_s(self) -> float:
        """Time left before the older of the last drive command and the last beat is too old."""
        since_s = self.gate.driven_s if self._creeping else min(self.gate.driven_s, self._beat_s)
        return since_s + self._deadman_s - self._clock.now()

    async def _steer(self, order: Order) -> None:
        pose = np.array([self.pose])
        if self._started is not order:
            self._controller.start(np.array([order.action]), pose)
            self._started = order
        if self._creeping and self._fence is not None:
            x, y, yaw = self.pose
            dx, dy = self._fence.way_back((x, y))
            error = math.remainder(math.atan2(dy, dx) - yaw, math.tau)
            ahead = 0.0 if self._waits else HOME_SHARE * max(0.0, math.cos(error))
            await self.gate.drive(ahead, HOME_GAIN * error, share=HOME_SHARE)
        else:
            v, w = self._controller.command(pose)
            await self.gate.drive(0.0 if self._waits else float(v[0]), float(w[0]))
        if self._order is not order:  # held while the command was on its way
            await self.gate.stop()

    def _observe(self, seen: Observation) -> None:
        x, y, yaw = self.pose
        cos, sin = math.cos(yaw), math.sin(yaw)
        self.pose = (
            x + seen.dx_m * cos - seen.dy_m * sin,
            y + seen.dx_m * sin + seen.dy_m * cos,
            math.remainder(yaw + seen.dyaw_rad, math.tau),
        )
        self._way_m += math.hypot(seen.dx_m, seen.dy_m)
        if not self._localised:
            self.seen_s = self._clock.now()
            self.safety.see_pose(0)
        elif self._way_m > WAY_WITHOUT_FIX_M:
            self.seen_s = -math.inf
            self.safety.event(Event.POSE_STALE, 0)
        self._judge(seen)

    def _judge(self, seen: Observation) -> None:
        """Turn what the robot senses into events."""
        safety = self.safety
        safety.see_stop_input(0, pressed=seen.estop_input)
        if seen.faults and safety.mode(0) not in (Mode.FAULT, Mode.ESTOP):
            tilted = "tilt" in seen.faults
            kind = Event.TILT if tilted else Event.DRIVER_ERROR
            safety.fault(kind, 0, ", ".join(seen.faults))
        flat = False
        if self._battery is not None and seen.battery_v is not None:
            flat = seen.battery_v <= self._battery.critical
            safety.see_battery(0, ok=seen.battery_v > self._battery.warn)
            if flat and safety.mode(0) not in (Mode.FAULT, Mode.ESTOP):
                why = (
                    f"battery at {seen.battery_v:g} V, critical is {self._battery.critical:g} V "
                    "(charge it)"
                )
                safety.fault(Event.BATTERY_CRITICAL, 0, why)
        if not seen.faults and not flat and not self._broken and self._trouble is None:
            safety.see_cause(0, gone=True)
        if seen.bumper:
            self._order = None
            safety.pause(0, "bumper")
        if self._fence is not None:
            inside = bool(self._fence.allows(np.array([self.pose[:2]]))[0])
            if inside and self._creeping:
                self._creeping, self._order = False, None
                safety.pause(0, "back inside its fence")
            elif not inside and not self._creeping:
                safety.event(Event.GEOFENCE, 0)
        self.look()

    async def _fail(self, error: Exception) -> None:
        self._order = None
        self._broken, self._reopen_s = True, self._clock.now() + REOPEN_S
        await self.gate.stop(always=True)  # unknown after an error, so stop for certain
        known = isinstance(error, DriverError)
        why = str(error) if known else f"{type(error).__name__}: {error}"
        if self.safety.mode(0) is not Mode.FAULT:
            _log.error("driver fault=%s", why)
        self.safety.fault(Event.DRIVER_ERROR, 0, why)

    async def _reopen(self) -> bool:
        """Open the device again when it is time; motors stay stopped, the fault stays a fault."""
        if self._clock.now() < self._reopen_s:
            return False
        self._reopen_s = self._clock.now() + REOPEN_S
        with contextlib.suppress(Exception):
            await self._driver.close()
        try:
            await self._driver.open()
            await self.gate.stop(always=True)
            seen = await self._driver.read()
        except Exception as error:  # noqa: BLE001  still gone
            _log.info("driver reopen=%s", error)
            return False
        self._broken = False
        self._observe(seen)
        _log.warning("driver is back; its fault waits for the operator")
        return True

    async def _tick_always(self) -> None:
        while not self.closing:
            await self.tick()
            # Not wait_for: in Python 3.11 it swallows a cancellation that meets a set event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._clock.to_wall_s(self._tick_s)):
                    await self._wake.wait()
            self._wake.clear()

    async def _watch_always(self) -> None:
        while True:
            # A command that comes while this sleeps is due no earlier than the one known now.
            left_s = self._silence_s() if self.gate.moving else self._deadman_s
            await asyncio.sleep(self._clock.to_wall_s(max(left_s, LEAST_PAUSE_S)))
            await self.watch()
