# SPDX-License-Identifier: MIT
"""`doctor`: is everything there that a robot needs? One line a thing, one hint a failed line.

Reads only; opens the driver (which stops the motors) unless its agent is running.
"""

import asyncio
import contextlib
import importlib.util
import os
import sys
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.bench_run import Line
from kofn.hardware.driver import Driver, DriverError
from kofn.hardware.limits_file import read_limits
from kofn.hardware.local_socket import FILE as SOCKET
from kofn.hardware.local_socket import Ask, ask_agent
from kofn.hardware.operator_token import FILE as TOKEN
from kofn.hardware.preflight_result import preflight_objection
from kofn.hardware.selftest_result import selftest_objection

LIBRARIES = {
    "serial": ("serial lines", "pip install kofn[hardware]"),
    "websockets": ("rosbridge", "pip install kofn[hardware]"),
    "gpiozero": ("GPIO pins", "sudo apt install python3-gpiozero python3-lgpio"),
}


def machine_lines(driver: str | None = None) -> list[Line]:
    """What this machine has for one driver, or for all: libraries, ports, the right to open."""
    lines = [Line("python", ok=True, seen=sys.version.split()[0])]
    needs = {"create2": "serial", "rosbridge": "websockets", "gpio": "gpiozero"}
    for module, (what, hint) in LIBRARIES.items():
        if driver is None or needs.get(driver, driver) == module:
            there = importlib.util.find_spec(module) is not None
            lines.append(Line(f"library for {what}", there, module if there else "missing", hint))
    if driver in (None, "serial", "create2"):
        lines += _port_lines()
    if driver in (None, "gpio"):
        chips = sorted(map(str, Path("/dev").glob("gpiochip*")))
        seen = ", ".join(chips) or "none"
        hint = "only boards with pins have them, as a Raspberry Pi"
        lines.append(Line("GPIO chips", bool(chips), seen, hint))
    return lines


def _port_lines() -> list[Line]:
    ports = sorted({*Path("/dev").glob("ttyUSB*"), *Path("/dev").glob("ttyACM*"), *_by_id()})
    hint = "plug a board in; `ls /dev/serial/by-id` lists it"
    seen = ", ".join(map(str, ports)) or "none attached"
    lines = [Line("serial ports", bool(ports), seen, hint)]
    for port in ports:
        allowed = os.access(port, os.R_OK | os.W_OK)
        seen = "read and write" if allowed else "no permission"
        lines.append(Line(str(port), allowed, seen, "sudo usermod -aG dialout $USER, log in again"))
    return lines


def state_lines(folder: Path) -> list[Line]:
    """What the robot remembers: limits, token, self-test; and its agent, if it runs."""
    lines = []
    limits = folder / "limits.toml"
    if limits.exists():
        try:
            read = read_limits(limits)
            lines.append(Line("limits", ok=True, seen=f"v {read.v:g} m/s, w {read.w:g} rad/s"))
        except InputError as error:
            lines.append(Line("limits", ok=False, seen=str(error), hint="mend the file"))
    else:
        hint = "write one: v, w, accel in SI units (docs/safety.md)"
        lines.append(Line("limits", ok=False, seen=f"no {limits}", hint=hint))
    token = (folder / TOKEN).exists()
    seen = "set" if token else "none"
    lines.append(Line("operator token", token, seen, "kofn hw token on this machine"))
    objection = selftest_objection(folder)
    lines.append(
        Line("self-test", objection is None, objection or "passed", "kofn hw selftest, wheels up")
    )
    objection = preflight_objection(folder)
    hint = "simulate the policy, then kofn hw preflight RUN .. --host HOST"
    lines.append(Line("preflight", objection is None, objection or "passed", hint))
    return lines


def key_line(path: Path) -> Line:
    """Whether a private key is there, PEM, and readable by its owner only."""
    hint = f"chmod 600 {path}; a key comes from kofn ca enroll, as PEM"
    try:
        text, mode = path.read_bytes(), path.stat().st_mode & 0o777
    except OSError as error:
        return Line(path.name, ok=False, seen=f"cannot be read: {error.strerror}", hint=hint)
    pem = b"-----BEGIN" in text and b"PRIVATE KEY" in text
    seen = f"mode {mode:04o}" + ("" if pem else ", no PEM key (boards take DER, this machine PEM)")
    return Line(path.name, pem and mode & 0o077 == 0, seen, hint)


def agent_lines(folder: Path) -> list[Line]:
    """State of the robot's agent; nothing where none runs."""
    with contextlib.suppress(RunError, InputError):
        answer = ask_agent(folder / SOCKET, Ask(op="status"))
        return [
            Line(
                f"robot {row['robot']}",
                row["mode"] in ("ARMED", "DISARMED"),
                row["mode"] + (f": {row['why']}" if row["why"] else ""),
                "kofn hw arm --clear or --release, once its cause is gone",
            )
            for row in answer.robots
        ]
    return []


async def _look_at(driver: Driver) -> list[Line]:
    known, lines = driver.capabilities(), []
    try:
        await driver.open()
    except DriverError as error:
        return [Line(f"driver {known.kind}", ok=False, seen=error.cause, hint=error.hint)]
    try:
        seen = await driver.read()
        identity = getattr(driver, "identity", "")  # of drivers whose device says what it is
        answers = f"opens, motors stopped{f'; {identity}' if identity else ''}"
        lines.append(Line(f"driver {known.kind}", ok=True, seen=answers))
        if known.has_battery:
            there = seen.battery_v is not None
            volts = f"{seen.battery_v:.2f} V" if seen.battery_v is not None else "no reading"
            lines.append(Line("battery", there, volts, "check its wiring"))
        if known.has_estop_input:
            free = not seen.estop_input
            word = "open" if free else "pressed, or its wire is broken"
            lines.append(Line("stop input", free, word, "release it; check its wire"))
        hint = "see the driver's page in docs/drivers.md"
        lines += [Line("fault", ok=False, seen=fault, hint=hint) for fault in seen.faults]
    except DriverError as error:
        lines.append(Line(f"driver {known.kind}", ok=False, seen=error.cause, hint=error.hint))
    finally:
        with contextlib.suppress(Exception):
            await driver.close()
    return lines


def driver_lines(driver: Driver) -> list[Line]:
    """Open the driver, look, close; never raises."""
    try:
        return asyncio.run(_look_at(driver))
    except Exception as error:  # noqa: BLE001  a driver of somebody else: a line, no traceback
        hint = "the driver is broken: run its conformance checks"
        return [Line("driver", ok=False, seen=f"{type(error).__name__}: {error}", hint=hint)]


def _by_id() -> list[Path]:
    folder = Path("/dev/serial/by-id")
    return list(folder.iterdir()) if folder.exists() else []
