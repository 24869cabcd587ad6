# SPDX-License-Identifier: MIT
"""What every driver must do, as checks that anybody may run on theirs.

    from kofn.hardware.conformance import DRIVER_CHECKS, run_check

    @pytest.mark.parametrize("check", DRIVER_CHECKS, ids=lambda check: check.__name__)
    def test_my_driver(check):
        run_check(check, MyBench)

A bench is a driver together with its device, or with a stand-in for it that knows what the motors
really do. A check fails with an `AssertionError` of one sentence. No check may be skipped: what a
driver does not have, its `Capabilities` say.
"""

import asyncio
import inspect
import math
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from kofn.hardware.driver import Applied, Capabilities, Driver, DriverError, Observation

READ_BOUND_WALL_S = 1.0
"""A read returns or fails within that time, whatever the device does."""
STOP_BOUND_WALL_S = 0.3
SPEED_ABS, WAY_ABS = 0.02, 0.03
"""How far real speeds (m/s, rad/s) and ways (m, rad) may be from those told, beside 5 %."""


class Bench(Protocol):
    """One driver with its device; made new for each check."""

    driver: Driver
    settle_s: float
    """Time after which motors have followed a command, s; below any dead-man of the device."""

    async def start(self) -> None:
        """Make the device ready; the driver stays unopened."""
        ...

    async def finish(self) -> None:
        """Take the device away, whatever state it is in."""
        ...

    async def wait(self, duration_s: float) -> None:
        """Let the robot's time pass; the device does what it was told."""
        ...

    def motors(self) -> Applied:
        """What the motors really do now, m/s and rad/s, seen from outside the driver."""
        ...

    async def break_link(self) -> bool:
        """Pull the cable; False for a device that has none (arithmetic, pins)."""
        ...

    async def mend_link(self) -> None:
        """Put the cable back."""
        ...

    async def silence(self) -> bool:
        """Make the device stop answering; False where that cannot be."""
        ...

    def rival(self) -> Driver | None:
        """Return a second driver of the same device; None where everybody has their own."""
        ...


Check = Callable[[Bench], Coroutine[Any, Any, None]]


def run_check(check: Check, make: Callable[[], Bench]) -> None:
    """Run one check on a new bench; raises `AssertionError` with what is wrong.

    Also checks that the driver leaves no task and no thread behind.
    """

    async def whole() -> None:
        bench = make()
        await bench.start()
        try:
            tasks = asyncio.all_tasks()
            try:
                await check(bench)
            finally:
                await _close_quietly(bench.driver)
            await asyncio.sleep(0)
            left = [task for task in asyncio.all_tasks() - tasks if not task.done()]
            own = [task for task in left if _module_of(task) == type(bench.driver).__module__]
            _require(not own, f"the driver leaves tasks behind: {own}")
        finally:
            await bench.finish()

    threads = set(threading.enumerate())
    asyncio.run(whole())
    new = [thread.name for thread in set(threading.enumerate()) - threads]
    _require(not new, f"the driver leaves threads behind: {new}")


async def capabilities_are_known_before_open(bench: Bench) -> None:
    """The host plans with them before it touches the device."""
    known = bench.driver.capabilities()
    _require(isinstance(known, Capabilities), f"capabilities() returns {known!r}")
    _require(bool(known.kind), "kind is empty")
    for name in ("v_max", "w_max"):
        value = getattr(known, name)
        _require(math.isfinite(value) and value > 0, f"{name} = {value} is no limit")


async def open_leaves_motors_stopped(bench: Bench) -> None:
    """Whatever a controller did before, opening ends it."""
    await bench.driver.open()
    await bench.wait(bench.settle_s)
    _require_still(bench, "after open")


async def first_read_has_no_way_in_it(bench: Bench) -> None:
    """Odometry counts from open on, and a reading is whole."""
    await bench.driver.open()
    seen = await bench.driver.read()
    _require(isinstance(seen, Observation), f"read() returns {seen!r}")
    _require(all(abs(value) < 1e-9 for value in seen[:3]), f"the first way is {seen[:3]}")
    known = bench.driver.capabilities()
    if known.has_battery:
        _require(seen.battery_v is not None, "has_battery, but no battery_v")


async def drive_beyond_limits_returns_what_is_applied(bench: Bench) -> None:
    """The caller learns what the robot really does, and that is within the limits."""
    driver, known = bench.driver, bench.driver.capabilities()
    await driver.open()
    for v, w in ((9.0, 0.0), (-9.0, 0.0), (0.0, 99.0), (0.0, -99.0), (0.5 * known.v_max, 0.0)):
        told = await driver.drive(v, w)
        _require(isinstance(told, Applied), f"drive() returns {told!r}")
        _require(
            abs(told.v) <= known.v_max * 1.01 and abs(told.w) <= known.w_max * 1.01,
            f"drive({v}, {w}) applies {told}, beyond {known.v_max} m/s, {known.w_max} rad/s",
        )
        _require(told.v * v >= 0 and told.w * w >= 0, f"drive({v}, {w}) turns round: {told}")
        await bench.wait(bench.settle_s)
        real = bench.motors()
        _require(
            _near(real.v, told.v, SPEED_ABS) and _near(real.w, told.w, SPEED_ABS),
            f"drive({v}, {w}) tells {told}, the motors do {real}",
        )
        _require(
            abs(told.v) + abs(told.w) > 0.25 * min(known.v_max, known.w_max, abs(v) + abs(w)),
            f"drive({v}, {w}) applies {told}: it does not move",
        )


async def speed_that_is_no_number_is_refused(bench: Bench) -> None:
    """NaN and infinity raise `ValueError` and never speed a motor up."""
    await bench.driver.open()
    for v, w in ((math.nan, 0.0), (0.0, math.nan), (math.inf, 0.0), (0.0, -math.inf)):
        try:
            await bench.driver.drive(v, w)
        except ValueError:
            pass
        else:
            raise AssertionError(f"drive({v}, {w}) is not refused")
        await bench.wait(bench.settle_s)
        _require_still(bench, f"after drive({v}, {w})")


async def drive_and_read_before_open_are_driver_errors(bench: Bench) -> None:
    """A driver that is not open says so, with a hint."""
    await _fails_with_hint(bench.driver.read(), "read() before open()")
    await _fails_with_hint(bench.driver.drive(0.1, 0.0), "drive() before open()")


async def stop_is_legal_in_every_state(bench: Bench) -> None:
    """Before open, twice, and after close: it never raises, and motors stand still."""
    driver = bench.driver
    await _stops(bench, "before open")
    await driver.open()
    await driver.drive(0.1, 0.0)
    await _stops(bench, "while driving")
    await _stops(bench, "twice")
    await bench.wait(bench.settle_s)
    _require_still(bench, "after stop")
    await driver.drive(0.1, 0.0)
    await driver.close()
    await _stops(bench, "after close")
    await bench.wait(bench.settle_s)
    _require_still(bench, "after close")


async def stop_while_a_read_is_under_way(bench: Bench) -> None:
    """A stop does not wait for a read, also not for one of a silent device."""
    driver = bench.driver
    await driver.open()
    await driver.drive(0.1, 0.0)
    await bench.wait(bench.settle_s)
    reading = asyncio.ensure_future(driver.read())
    await asyncio.sleep(0)
    await _stops(bench, "during a read")
    await asyncio.gather(reading, return_exceptions=True)
    await bench.wait(bench.settle_s)
    _require_still(bench, "after a stop during a read")


async def stop_works_from_another_thread(bench: Bench) -> None:
    """The watchdog stops a robot whose own loop is busy; see `watchdog`."""
    await bench.driver.open()
    await bench.driver.drive(0.1, 0.0)
    await bench.wait(bench.settle_s)
    await asyncio.to_thread(lambda: asyncio.run(bench.driver.stop()))
    await bench.wait(bench.settle_s)
    _require_still(bench, "after a stop from another thread")


async def close_stops_and_open_works_again(bench: Bench) -> None:
    """Close is idempotent; the device may be opened again at once."""
    driver = bench.driver
    await driver.open()
    await driver.drive(0.1, 0.0)
    await bench.wait(bench.settle_s)
    await driver.close()
    await bench.wait(bench.settle_s)
    _require_still(bench, "after close")
    await driver.close()
    await driver.open()
    await bench.wait(bench.settle_s)
    _require_still(bench, "after open again")
    seen = await driver.read()
    _require(
        all(abs(value) < WAY_ABS for value in seen[:3]), f"reopened, the first way is {seen[:3]}"
    )


async def second_open_is_refused(bench: Bench) -> None:
    """Opening an open driver is an error, and a rival is told who has the device."""
    await bench.driver.open()
    await _fails_with_hint(bench.driver.open(), "open() twice")
    rival = bench.rival()
    if rival is not None:
        try:
            error = await _fails_with_hint(rival.open(), "open() of a device in use")
            _require(
                any(letter.isdigit() for letter in error.cause),
                f"the refusal names no process id: {error.cause}",
            )
        finally:
            await _close_quietly(rival)
    await bench.driver.drive(0.1, 0.0)  # the owner was not disturbed


async def odometry_is_positive_forward_and_to_the_left(bench: Bench) -> None:
    """Signs and sizes of odometry agree with what the motors do."""
    driver, known = bench.driver, bench.driver.capabilities()
    await driver.open()
    if not known.has_odometry:
        return
    for v, w in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.5), (0.0, -0.5)):
        await driver.stop()
        await bench.wait(bench.settle_s)
        await driver.read()
        await driver.drive(v, w)
        await bench.wait(0.2)  # shorter than any dead-man of the device
        seen = await driver.read()
        await driver.stop()
        _require(
            seen.dx_m * v >= 0 and abs(seen.dx_m) <= abs(v) * 1.0 + WAY_ABS,
            f"drive({v}, {w}) for 0.2 s goes {seen.dx_m:.3f} m ahead",
        )
        if v:
            _require(abs(seen.dx_m) > 0.1 * abs(v), f"{v} m/s for 0.2 s is {seen.dx_m:.3f} m")
        if w:
            _require(
                seen.dyaw_rad * w > 0 and abs(seen.dyaw_rad) > 0.1 * abs(w),
                f"{w} rad/s for 0.2 s turns {seen.dyaw_rad:.3f} rad",
            )


async def read_takes_no_longer_than_a_second(bench: Bench) -> None:
    """Also with a device that does not answer: it then raises `DriverError`."""
    driver = bench.driver
    await driver.open()
    began_s = time.monotonic()
    await driver.read()
    _require(time.monotonic() - began_s < READ_BOUND_WALL_S, "a read takes longer than 1 s")
    if not await bench.silence():
        return
    began_s = time.monotonic()
    await _eventually_fails(bench, driver)
    _require(
        time.monotonic() - began_s < 3 * READ_BOUND_WALL_S,
        "reads of a silent device do not fail within 3 s",
    )
    await _stops(bench, "with a silent device")


async def loss_of_the_device_is_a_driver_error_with_a_hint(bench: Bench) -> None:
    """Reads and drives then fail, stop does not raise, close frees the device, it opens again."""
    driver = bench.driver
    await driver.open()
    await driver.drive(0.1, 0.0)
    if not await bench.break_link():
        return
    await _eventually_fails(bench, driver)
    await _fails_with_hint(driver.drive(0.1, 0.0), "drive() without a device")
    await _stops(bench, "without a device")
    await _close_quietly(driver)
    await _fails_with_hint(driver.open(), "open() without a device")
    await bench.mend_link()
    await driver.open()
    await bench.wait(bench.settle_s)
    _require_still(bench, "after the device came back")
    await driver.read()


DRIVER_CHECKS: list[Check] = [
    capabilities_are_known_before_open,
    open_leaves_motors_stopped,
    first_read_has_no_way_in_it,
    drive_beyond_limits_returns_what_is_applied,
    speed_that_is_no_number_is_refused,
    drive_and_read_before_open_are_driver_errors,
    stop_is_legal_in_every_state,
    stop_while_a_read_is_under_way,
    stop_works_from_another_thread,
    close_stops_and_open_works_again,
    second_open_is_refused,
    odometry_is_positive_forward_and_to_the_left,
    read_takes_no_longer_than_a_second,
    loss_of_the_device_is_a_driver_error_with_a_hint,
]


def check_driver(make: Callable[[], Bench]) -> list[str]:
    """Run every check; return one line for each that fails."""
    failed = []
    for check in DRIVER_CHECKS:
        try:
            run_check(check, make)
        except Exception as error:  # noqa: BLE001  whatever a driver of somebody else raises
            failed.append(f"{check.__name__}: {type(error).__name__}: {error}")
    return failed


def _module_of(task: "asyncio.Task[Any]") -> str:
    coroutine = task.get_coro()
    frame = getattr(coroutine, "cr_frame", None)
    module = inspect.getmodule(frame.f_code) if frame is not None else None
    return module.__name__ if module is not None else ""


async def _stops(bench: Bench, when: str) -> None:
    began_s = time.monotonic()
    try:
        await bench.driver.stop()
    except Exception as error:
        raise AssertionError(f"stop() {when} raises {type(error).__name__}: {error}") from error
    took_s = time.monotonic() - began_s
    _require(took_s < STOP_BOUND_WALL_S, f"stop() {when} takes {took_s:.2f} s")


async def _fails_with_hint(call: Coroutine[Any, Any, Any], what: str) -> DriverError:
    try:
        await call
    except DriverError as error:
        _require(bool(error.cause and error.hint), f"{what}: the error has no cause or no hint")
        return error
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__}, no DriverError") from error
    raise AssertionError(f"{what} is not refused")


async def _eventually_fails(bench: Bench, driver: Driver) -> None:
    """Read until a `DriverError` comes: what is on its way already may still arrive."""
    for _ in range(30):
        try:
            await driver.read()
        except DriverError as error:
            _require(bool(error.cause and error.hint), "the error has no cause or no hint")
            return
        except Exception as error:
            raise AssertionError(f"read() raises {type(error).__name__}, no DriverError") from error
        await bench.wait(bench.settle_s)
    raise AssertionError("read() of a lost device does not fail")


async def _close_quietly(driver: Driver) -> None:
    try:
        await driver.close()
    except ExceptionGroup:
        return
    except Exception as error:
        raise AssertionError(f"close() raises {type(error).__name__}, no ExceptionGroup") from error


def _near(value: float, other: float, within: float) -> bool:
    return abs(value - other) <= within + 0.05 * abs(other)


def _require_still(bench: Bench, when: str) -> None:
    real = bench.motors()
    _require(abs(real.v) < 1e-3 and abs(real.w) < 1e-3, f"{when} the motors do {real}")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)
