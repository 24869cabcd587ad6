# SPDX-License-Identifier: MIT
"""`Driver`: what a robot must be able to do to take part; `Bank`: the vector form for a host.

A driver moves one robot and knows nothing of policies, timers or brokers. The host agent speaks to
a bank: many robots as arrays. `driver_bank.DriverBank` makes a bank of one out of a driver; a
simulated world is a bank of n.

| symbol | meaning | shape | unit |
|---|---|---|---|
| v | forward speed | - | m/s |
| w | turn rate, left positive | - | rad/s |
| n | robots behind one host | - | - |
| zones | local state s_l of each robot | (n,) | index |
| actions | local action a_l of each robot, -1 = hold | (n,) | index |
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kofn.controller.link.messages import Pace

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

HOLD = -1
"""Local action that means: stay where you are, motors at zero."""


class Capabilities(NamedTuple):
    """What a driver offers; valid before `open`. `simulated`: nothing moves that can hurt."""

    kind: str
    v_max: float
    w_max: float
    has_odometry: bool
    has_battery: bool
    has_estop_input: bool
    simulated: bool = False


class Observation(NamedTuple):
    """Odometry since the last read (m, m, rad in the robot's frame) and the other senses."""

    dx_m: float
    dy_m: float
    dyaw_rad: float
    battery_v: float | None
    bumper: bool
    estop_input: bool
    faults: tuple[str, ...]
    stamp_s: float


class Applied(NamedTuple):
    """The speeds that were really applied, after clipping and rounding (m/s, rad/s)."""

    v: float
    w: float


class DriverError(Exception):
    """A driver failed: the cause, and one hint for the person at the robot."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(f"{cause} ({hint})")
        self.cause = cause
        self.hint = hint


class Driver(Protocol):
    """One robot's motors and senses. Constructors touch nothing; no timers, no policy inside."""

    def capabilities(self) -> Capabilities:
        """Return what the driver offers; valid before `open`."""
        ...

    async def open(self) -> None:
        """Take the device; ends with motors stopped. Raises `DriverError`."""
        ...

    async def read(self) -> Observation:
        """Return the newest reading. Raises `DriverError` when the device is gone."""
        ...

    async def drive(self, v: float, w: float) -> Applied:
        """Set speeds (m/s, rad/s), clipped to the capabilities; NaN raises `ValueError`."""
        ...

    async def stop(self) -> None:
        """Motors to zero: idempotent, never raises, legal in every state, also before `open`."""
        ...

    async def close(self) -> None:
        """Stop, then release the device, then raise an `ExceptionGroup` of what failed."""
        ...


class Reading(NamedTuple):
    """State at one instant: zones (n,), which robots are available (n,), world time in s.

    `altered`, shape (n,): robots that did something else than they were told in the option that
    ends, because a safety layer stepped in; None is nobody. Their transition is not reported.
    `digest` names the exact state of a simulated world; empty elsewhere.
    """

    zones: IntArray
    up: BoolArray
    time_s: float
    altered: BoolArray | None = None
    digest: str = ""


class Bank(Protocol):
    """n robots as arrays; what the host agent steers.

    An action is an option of fixed length `option_s`: `apply` starts it, `advance` works on it in
    small slices so that the agent can answer polls in between.
    """

    robots: tuple[str, ...]
    n_zones: int
    n_actions: int
    pace: Pace
    option_s: float

    def open(self) -> None:
        """Make the robots ready; ends with motors stopped."""
        ...

    def read(self) -> Reading:
        """Return zones and availability now."""
        ...

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot; -1 (HOLD) stops it."""
        ...

    def advance(self) -> bool:
        """Do one short slice of work; True while the option is still under way."""
        ...

    def hold(self) -> None:
        """Stop all robots now; idempotent, never raises."""
        ...

    def close(self) -> None:
        """Stop and release everything; idempotent."""
        ...


@runtime_checkable
class SteppedBank(Protocol):
    """What a bank may have beside `Bank`: it is told the step, and has news of its robots."""

    def see_step(self, t: int, target: int) -> None:
        """Take step t with target g, before its `read` and `apply`."""
        ...

    def news(self) -> list[tuple[str, str]]:
        """Return (code, sentence) of what happened since the last call."""
        ...


@runtime_checkable
class IdleBank(Protocol):
    """What a bank may have beside `Bank`: it is looked at while no option is under way."""

    def idle(self) -> None:
        """Take note of what robots say; called several times a second instead of `advance`."""
        ...


@runtime_checkable
class LocalisedBank(Protocol):
    """What a bank of one robot may have beside `Bank`: somebody else knows where it is."""

    def fix(self, pose: tuple[float, float, float], age_s: float, wait: bool = False) -> None:
        """Take a pose (m, m, rad) that was true `age_s` ago; `wait` for others from now on."""
        ...


@runtime_checkable
class TimedBank(Protocol):
    """What a bank that moves by itself may have beside `Bank`: it says when it has work.

    A bank without is looked at a hundred times a second, which is most of what a host of many
    robots without bodies costs.
    """

    def due_s(self) -> float:
        """Fleet time before which `advance` has nothing to do, while an option is under way."""
        ...
