# SPDX-License-Identifier: MIT
"""Results that are kept beside a robot's state and asked for by `arm`: self-test and preflight."""

from pathlib import Path
from typing import TypeVar

import msgspec

from kofn.controller.core.errors import RunError
from kofn.controller.link.secret_files import PUBLIC, write_atomic

ResultT = TypeVar("ResultT", bound=msgspec.Struct)


def keep(path: Path, result: msgspec.Struct) -> None:
    """Keep a result in a file; raises `RunError` when its folder cannot be made or written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomic(path, msgspec.json.encode(result), PUBLIC)


def kept(path: Path, kind: type[ResultT]) -> ResultT | None:
    """Return the result in a file; None without one that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
