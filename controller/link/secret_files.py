# SPDX-License-Identifier: MIT
"""Files with secrets: read only when nobody else can, written whole or not at all.

A write goes to a temporary file beside its target, reaches the disk, and then takes the target's
name. So a crash at any instant leaves the old file or the new one, and never a readable half.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError

PRIVATE = 0o600
PUBLIC = 0o644


def read_secret(path: Path) -> bytes:
    """Return the bytes of a file that only its owner may read.

    Raises
    ------
    InputError
        There is no such file, or others may read or write it.
    """
    try:
        with path.open("rb") as file:
            # Of the open file, not of the name, which may mean another file a moment later.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise InputError(
                    f"{path} has mode {mode:03o}, so others can use the secret in it; "
                    f"run: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def write_atomic(path: Path, data: bytes | str, mode: int = PRIVATE) -> Path:
    """Replace a file as a whole, with access rights `mode`; return its path.

    Raises
    ------
    RunError
        The file cannot be written; what was there before is untouched.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            # Created with no more than 0600 whatever the umask; opened up once it is complete.
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as file:  # noqa: PTH123
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk: a rename alone may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
