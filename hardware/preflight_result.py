# SPDX-License-Identifier: MIT
"""The result of the newest preflight: kept beside the robot's state, asked for by `arm`."""

from pathlib import Path

import msgspec

from kofn.controller.core.errors import RunError
from kofn.controller.link.secret_files import PUBLIC, write_atomic

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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {folder}: {error.strerror}") from error
    write_atomic(folder / FILE, msgspec.json.encode(result), PUBLIC)


def preflight_objection(folder: Path) -> str | None:
    """Say why no policy is known to be fit for this robot; None when one passed."""
    try:
        result = msgspec.json.decode((folder / FILE).read_bytes(), type=PreflightResult)
    except (OSError, msgspec.MsgspecError):
        return "no policy has passed its preflight here: run kofn hw preflight RUN .. --host HOST"
    if not result.ok:
        return f"the preflight of {result.utc} failed: {'; '.join(result.failed)}"
    return None
