# SPDX-License-Identifier: MIT
"""Files of arrays with a JSON header, one `.npz` each: written whole, and never trusted when read.

No pickle: nothing that is read can execute. What a file says of its content (a hash, as a rule) is
for the reader to check, inside `content_of`.
"""

from __future__ import annotations

import io
import json
import secrets
import zipfile
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: What reading a damaged or foreign file can raise inside numpy, zipfile and json.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def pack(arrays: Mapping[str, Any], header: Mapping[str, object], kind: str, version: int) -> bytes:
    """Return the bytes of a file; equal content gives equal bytes.

    Parameters
    ----------
    arrays, header
        What it holds; JSON values.
    kind, version
        As for `unpack`; they go into the header.
    """
    buffer = io.BytesIO()
    full = {**header, "format": f"kofn-{kind}", "version": version}
    text = json.dumps(full, sort_keys=True).encode()
    np.savez_compressed(buffer, **arrays, header=np.frombuffer(text, np.uint8))
    return buffer.getvalue()


def unpack(
    data: bytes, source: str, kind: str, newest: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return arrays and header of a file.

    Parameters
    ----------
    data
        Bytes of the file.
    source
        Its name in errors.
    kind
        What it must be, as "policy": the header's format is then "kofn-policy".
    newest
        Versions 1 to this one are known.

    Raises
    ------
    InputError
        Another kind of file, a damaged one, or one of an unknown version.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop("header").tobytes())
        foreign = header.get("format") != f"kofn-{kind}"
    except (*DAMAGE, AttributeError):
        raise InputError(f"{source} is not a kofn {kind}, or is truncated or damaged") from None
    if foreign:
        raise InputError(f"{source} is not a kofn {kind}")
    if header.get("version") not in range(1, newest + 1):
        raise InputError(
            f"{source} has {kind} format version {header.get('version')}, "
            f"but 1 to {newest} are known"
        )
    return arrays, header


@contextmanager
def content_of(source: str) -> Iterator[None]:
    """Turn whatever the content of a damaged file raises into one sentence."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{source} is damaged: {error}") from None


def read_file(path: Path, kind: str) -> bytes:
    """Return the bytes of a file; raises `InputError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {kind} {path}: {error.strerror}") from None


def write_whole(path: Path, data: bytes, kind: str) -> None:
    """Write a file, completely or not at all; raises `InputError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {kind} {path}: {error.strerror}") from None
