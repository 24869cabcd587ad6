# SPDX-License-Identifier: MIT
"""The result of the newest self-test: kept beside the robot's state, asked for by `arm`."""

from pathlib import Path

import msgspec

from kofn.controller.core.errors import RunError
from kofn.controller.link.secret_files import PUBLIC, write_atomic

FILE = "selftest.json"


class SelftestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was tested when; `utc` is ISO 8601."""

    ok: bool
    driver: str
    utc: str
    failed: list[str] = msgspec.field(default_factory=list)


def write_result(folder: Path, result: SelftestResult) -> None:
    """Keep a result; raises `RunError` when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder}: {error.strerror}") from error
    write_atomic(folder / FILE, msgspec.json.encode(result), PUBLIC)


def read_result(folder: Path) -> SelftestResult | None:
    """Return the newest result; None without one that can be read."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=SelftestResult)
    except (OSError, msgspec.MsgspecError):
        return None


def selftest_objection(folder: Path) -> str | None:
    """Say why the robot's self-test does not count; None when it passed."""
    result = read_result(folder)
    if result is None:
        return "no self-test has passed here: run kofn hw selftest, wheels off the ground"
    if not result.ok:
        return f"the self-test of {result.utc} failed: {', '.join(result.failed)}"
    return None
