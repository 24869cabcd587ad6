# SPDX-License-Identifier: MIT
"""`DriverBank`: a bank of one, made of an asynchronous driver in a ring arena.

The driver lives in an event loop in a thread of its own (`robot_loop`), so that its control loop
and its dead-man keep their beat whatever the agent waits for. The agent's thread only exchanges
values with it: an order in, pose and health out. Each `advance` is a beat: an agent that stops
calling it, crashed or stuck, stops its robot within `deadman_s`. A third thread, the watchdog,
looks at the same timers and stops a robot whose driver blocks its loop.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
from importlib.metadata import version

import numpy as np

from kofn.controller.core.errors import RunError
from kofn.controller.link.clock import Clock
from kofn.controller.link.hostlog import Header, HostLog, Poses
from kofn.controller.link.messages import Pace
from kofn.hardware.black_box import BlackBox
from kofn.hardware.driver import HOLD, Applied, Driver, DriverError, IntArray, Reading
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.localise.zones import ZoneHysteresis
from kofn.hardware.option import OptionController, OptionSettings
from kofn.hardware.ring import N_ACTIONS, RingLayout, sector_centres
from kofn.hardware.robot_loop import Pose, RobotLoop
from kofn.hardware.safety import HasLimits, lower
from kofn.hardware.safety_task import Safety, SafetySettings
from kofn.hardware.watchdog import Watchdog

_log = logging.getLogger(__name__)

OPEN_TIMEOUT_WALL_S = 10.0
CLOSE_TIMEOUT_WALL_S = 5.0
POSE_LOG_S = 0.1
"""Least time between two rows of poses in the log, fleet seconds."""


def pose_in_zone(layout: RingLayout, zone: int) -> Pose:
    """Pose in the middle of a zone, on the parking radius, heading counter-clockwise."""
    angle = float(sector_centres(layout)[zone])
    radius = layout.middle_m
    return radius * float(np.cos(angle)), radius * float(np.sin(angle)), angle + float(np.pi) / 2


class DriverBank:
    """One robot with a driver, as a bank; paced in real time.

    Parameters
    ----------
    driver
        The robot; owned by this bank from `open` to `close`.
    robot
        Its name.
    layout
        The arena.
    clock
        Fleet time.
    start
        Pose at `open` (m, m, rad); None is the middle of zone 0.
    option_s
        Length of an option.
    settings
        Gains of the option controller.
    limits
        Lower limits than the driver's own, m/s and rad/s.
    rate_hz, deadman_s, localised
        See `RobotLoop`.
    safety
        Who permits motion. None makes one with `deadman_s` and neither memory nor record; it arms
        itself where the driver says that nothing moves.
    robot_limits
        Limits, fence and battery of the robot's own file.
    trouble
        Why the robot must not leave FAULT after opening: a limits file that cannot be read.
    record
        The black box; None records nothing.
    seed
        Seed of the speed factors of options.
    log, host
        Where to write poses, and the host's name in a header that is written at `open`; None
        leaves the header to whoever made the log.
    """

    pace: Pace = "realtime"

    def __init__(
        self,
        driver: Driver,
        *,
        robot: str,
        layout: RingLayout,
        clock: Clock,
        start: Pose | None = None,
        option_s: float = 6.0,
        settings: OptionSettings | None = None,
        limits: HasLimits | None = None,
        rate_hz: float = 10.0,
        deadman_s: float = 0.5,
        localised: bool = False,
        safety: Safety | None = None,
        robot_limits: RobotLimits | None = None,
        trouble: str | None = None,
        record: BlackBox | None = None,
        seed: int = 0,
        log: HostLog | None = None,
        host: str | None = None,
    ) -> None:
        self.robots: tuple[str, ...] = (robot,)
        self.n_zones = layout.zones
        self.n_actions = N_ACTIONS
        self.option_s = option_s
        self._layout, self._clock = layout, clock
        self._log, self._host, self._seed = log, host, seed
        capabilities = driver.capabilities()
        digest = hashlib.sha256(f"kofn1:option:{seed}:{robot}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:16], "little"))
        own = (robot_limits or RobotLimits()).checked()
        capped = own.capped(capabilities.v_max, capabilities.w_max)
        self.safety = safety or Safety(
            (robot,),
            clock,
            SafetySettings(deadman_s=deadman_s),
            self_arming=capabilities.simulated,
        )
        self._record = record
        self._loop = RobotLoop(
            driver,
            OptionController(layout, 1, generator, settings),
            start=start if start is not None else pose_in_zone(layout, 0),
            clock=clock,
            limits=capped if limits is None else lower(capped, limits),
            rate_hz=rate_hz,
            safety=self.safety,
            fence=own.fence(),
            battery=own.battery_v,
            localised=localised,
            trouble=trouble,
            applied=None if record is None else self._record_applied,
        )
        self._zones = ZoneHysteresis(layout.zone_of, 1)
        self._watchdog = Watchdog(
            self._loop.look,
            self._loop.offends,
            self._loop.ask_stop,
            self._loop.gate.stop_from_thread,
            name=f"watchdog-{robot}",
        )
        self._kind = capabilities.kind
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: Exception | None = None
        self._opened_s = self._logged_s = float("-inf")

    def open(self) -> None:
        """Start the loop, open the driver, write the head of the log; motors are stopped.

        Raises
        ------
        RunError
            The driver could not be opened: its cause and hint.
        """
        if self._thread is not None:
            raise RunError(f"robot {self.robots[0]} was opened before; make a new bank")
        self._opened_s = self._clock.now()
        # No daemon: a thread that holds motors must end by its own stop.
        self._thread = threading.Thread(target=self._serve, name=f"robot-{self.robots[0]}")
        self._thread.start()
        self._watchdog.start()
        if not self._ready.wait(OPEN_TIMEOUT_WALL_S):
            self.close()
            raise RunError(
                f"driver {self._kind} of robot {self.robots[0]} did not open within "
                f"{OPEN_TIMEOUT_WALL_S:g} s"
            )
        if self._failure is not None:
            failure = self._failure
            self.close()
            raise RunError(
                f"driver {self._kind} of robot {self.robots[0]} did not open: {failure}"
            ) from failure
        if self._log is not None and self._host is not None:
            self._log.write(
                Header(
                    host=self._host,
                    robots=list(self.robots),
                    arena=self._layout.as_arena(),
                    option_s=self.option_s,
                    seed=self._seed,
                    backend=self._kind,
                    versions={"kofn": version("kofn")},
                )
            )

    def read(self) -> Reading:
        """Return zone and availability by the newest pose."""
        now_s = self._clock.now()
        zones = self._zones.see(np.array([self._loop.pose]))
        fresh = now_s - self._loop.seen_s <= self.safety.settings.pose_max_age_s
        up = np.array([fresh and self._loop.well]) & (zones >= 0)
        return Reading(zones=zones, up=up, time_s=now_s - self._opened_s)

    def apply(self, actions: IntArray) -> None:
        """Start an option of `option_s`; -1 (HOLD) stops. Returns at once."""
        action = int(actions[0])
        if not HOLD <= action < self.n_actions:
            raise ValueError(f"local action {action} must be -1 (hold) to {self.n_actions - 1}")
        self._loop.give(action, self._clock.now() + self.option_s)

    def advance(self) -> bool:
        """Beat, log the pose; True while the option is under way."""
        self._loop.beat()
        now_s = self._clock.now()
        if now_s - self._logged_s >= POSE_LOG_S:
            self._logged_s = now_s
            self._zones.see(np.array([self._loop.pose]))
            x, y, yaw = (round(value, 3) for value in self._loop.pose)
            if self._log is not None:
                self._log.write(Poses(time_s=now_s - self._opened_s, p=[(x, y, yaw)]))
            if self._record is not None:
                self._record.write("pose", x=x, y=y, yaw=yaw)
        return self._loop.under_way

    def hold(self) -> None:
        """Stop now; idempotent, never raises."""
        self._loop.hold()

    def close(self) -> None:
        """Stop, close the driver, end the thread; idempotent."""
        self._loop.finish()
        thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(CLOSE_TIMEOUT_WALL_S)
            if thread.is_alive():
                _log.error("robot=%s driver=%s does not let go", self.robots[0], self._kind)
        self._watchdog.close()  # last: it watches how the driver lets go

    @property
    def pose(self) -> Pose:
        """Newest pose by odometry: m, m, rad."""
        return self._loop.pose

    def fix(self, pose: Pose, age_s: float, wait: bool = False) -> None:
        """Take a pose from a localiser that was true `age_s` ago; `wait` for others from now on."""
        self._loop.fix(pose, age_s, wait)
        self._zones.see(np.array([self._loop.pose]))

    def creep_home(self) -> bool:
        """Let a robot outside its fence go back slowly; False where it may not move."""
        return self._loop.creep_home(self._clock.now() + self.option_s)

    @property
    def fault(self) -> str | None:
        """Why the robot is out of order; None when it is not."""
        return self._loop.fault

    @property
    def deadman_stops(self) -> int:
        """How often the dead-man stopped the robot."""
        return self._loop.deadman_stops

    def _record_applied(self, v: float, w: float, applied: Applied) -> None:
        assert self._record is not None  # noqa: S101
        still = applied == (0.0, 0.0)  # nothing may follow for long, so to the disk at once
        self._record.write("drive", urgent=still, v=v, w=w, applied=[applied.v, applied.w])

    def _serve(self) -> None:
        try:
            asyncio.run(self._live())
        except Exception as error:  # noqa: BLE001  a driver that fails while closing: report, end
            causes = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
            _log.error("robot=%s closing: %s", self.robots[0], "; ".join(map(str, causes)))

    async def _live(self) -> None:
        try:
            await self._open_driver()
        except Exception as error:  # noqa: BLE001  handed to the thread that called `open`
            self._failure = error
            return
        finally:
            self._ready.set()
        await self._loop.run()

    async def _open_driver(self) -> None:
        opening = asyncio.create_task(self._loop.open())
        while not opening.done() and not self._loop.closing:
            await asyncio.wait({opening}, timeout=0.1)
        if not opening.done():
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await opening
            raise DriverError("opening was given up", "is the device attached and free?")
        opening.result()
