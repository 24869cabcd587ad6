# SPDX-License-Identifier: MIT
"""The result of the newest self-test: kept beside the robot's state, asked for by `arm`."""

from pathlib import Path

import msgspec

from kofn.hardware.kept_result import keep, kept

FILE = "selftest.json"


class SelftestResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was tested when; `utc` is ISO 8601."""

    ok: bool
    driver: str
    utc: str
    failed: list[str] = msgspec.field(default_factory=list)


def write_result(folder: Path, result: SelftestResult) -> None:
    """Keep a result; raises `RunError` when the folder cannot be written."""
    keep(folder / FILE, result)


def selftest_objection(folder: Path) -> str | None:
    """Say why the robot's self-test does not count; None when it passed."""
    result = kept(folder / FILE, SelftestResult)
    if result is None:
        return "no self-test has passed here: run kofn hw selftest, wheels off the ground"
    if not result.ok:
        return f"the self-test of {result.utc} failed: {', '.join(result.failed)}"
    return None
