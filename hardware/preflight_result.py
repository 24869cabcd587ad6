# SPDX-License-Identifier: MIT
"""The result of the newest preflight: kept beside the robot's state, asked for by `arm`."""

from pathlib import Path

import msgspec

from kofn.hardware.kept_result import keep, kept

FILE = "preflight.json"


class PreflightResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked when; `utc` is ISO 8601, `policy` a sha256, `failed` lines in words."""

    ok: bool
    policy: str
    run: str
    utc: str
    failed: list[str] = msgspec.field(default_factory=list)


def write_preflight(folder: Path, result: PreflightResult) -> None:
    """Keep a result; raises `RunError` when the folder cannot be written."""
    keep(folder / FILE, result)


def preflight_objection(folder: Path) -> str | None:
    """Say why no policy is known to be fit for this robot; None when one passed."""
    result = kept(folder / FILE, PreflightResult)
    if result is None:
        return "no policy has passed its preflight here: run kofn hw preflight RUN .. --host HOST"
    if not result.ok:
        return f"the preflight of {result.utc} failed: {'; '.join(result.failed)}"
    return None
