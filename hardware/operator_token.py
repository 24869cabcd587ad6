# SPDX-License-Identifier: MIT
"""The operator's token: a robot keeps its salted hash only.

Arming, clearing a fault and releasing an emergency stop need the token; stopping never does.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

import msgspec

from kofn.controller.core.errors import InputError
from kofn.controller.link.secret_files import read_secret, write_atomic

FILE = "operator.json"
_COST = {"n": 2**12, "r": 8, "p": 1}


class _Kept(msgspec.Struct, frozen=True):
    salt: str
    scrypt: str


def make_token(folder: Path) -> str:
    """Draw a new token, keep its hash in `folder` (mode 0600), return the token.

    The token before, if any, is void from now on.
    """
    token, salt = secrets.token_urlsafe(18), secrets.token_bytes(16)
    folder.mkdir(parents=True, exist_ok=True)
    kept = _Kept(salt.hex(), _hash(token, salt))
    write_atomic(folder / FILE, msgspec.json.encode(kept))
    return token


def token_objection(folder: Path, token: str) -> str | None:
    """Say why a token does not count on this robot; None when it does."""
    path = folder / FILE
    if not path.exists():
        return f"this robot has no operator token yet: run kofn hw token on it ({path})"
    try:
        kept = msgspec.json.decode(read_secret(path), type=_Kept)
        right = hmac.compare_digest(_hash(token, bytes.fromhex(kept.salt)), kept.scrypt)
    except InputError as error:
        return str(error)
    except (msgspec.MsgspecError, ValueError):
        return f"{path} is damaged: run kofn hw token on the robot again"
    return None if right else "the operator token is wrong"


def _hash(token: str, salt: bytes) -> str:
    return hashlib.scrypt(token.encode(), salt=salt, **_COST).hex()
