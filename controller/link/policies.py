# SPDX-License-Identifier: MIT
"""The shared local policy as a file on the wire, and the hashes of the spaces it is made for.

A policy travels on `pol/<hex>`, where `<hex>` is the SHA-256 of exactly the payload's bytes; a step
names it as `sha256:<hex>`. Arrival switches nothing: the step's `pol` field does.

A file of more than 48 kB travels in parts: `Parts` lists their hashes, each part is a message on
its own `pol/<hex>`, and steps name the hash of the `Parts` message.
"""

import hashlib
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import (
    MAX_POLICY_BYTES,
    LocalPolicy,
    Parts,
    decode,
    encode,
)

PART_BYTES = 48_000


class Spaces(NamedTuple):
    """Hashes of the zone (S), target (G) and local-action (A) spaces; both ends must agree."""

    S: str
    G: str
    A: str


def space_hash(kind: str, size: int) -> str:
    """Hash of a finite space of `size` elements called `kind` ("zone", "target", "action")."""
    return hashlib.sha256(f"kofn1:{kind}:{size}".encode()).hexdigest()[:16]


def spaces_of(n_zones: int, n_targets: int, n_actions: int) -> Spaces:
    """Hashes of the spaces of a game with S_l zones, S_g targets and A_l local actions."""
    return Spaces(
        space_hash("zone", n_zones),
        space_hash("target", n_targets),
        space_hash("action", n_actions),
    )


def pack_policy(pi_l: npt.NDArray[np.float64]) -> tuple[str, bytes]:
    """Return (hex SHA-256, payload) of a local policy `pi_l` of shape (S_g, S_l, A_l)."""
    n_targets, n_zones, n_actions = pi_l.shape
    S, G, A = spaces_of(n_zones, n_targets, n_actions)
    payload = encode(LocalPolicy(S=S, G=G, A=A, pi_l=pi_l.tolist()))
    return hashlib.sha256(payload).hexdigest(), payload


class PolicyFile(NamedTuple):
    """A policy as it travels: the hash that steps name, and the messages by the hash of each."""

    digest: str
    messages: dict[str, bytes]


def pack_file(pi_l: npt.NDArray[np.float64]) -> PolicyFile:
    """Return a local policy `pi_l`, shape (S_g, S_l, A_l), in as many messages as it needs.

    Raises
    ------
    InputError
        It takes more than 3 MB.
    """
    n_targets, n_zones, n_actions = pi_l.shape
    S, G, A = spaces_of(n_zones, n_targets, n_actions)
    whole = msgspec.json.encode(LocalPolicy(S=S, G=G, A=A, pi_l=pi_l.tolist()))
    if len(whole) <= PART_BYTES:
        digest = hashlib.sha256(whole).hexdigest()
        return PolicyFile(digest, {digest: whole})
    if len(whole) > MAX_POLICY_BYTES:
        raise InputError(
            f"a local policy of {len(whole)} bytes exceeds the limit of {MAX_POLICY_BYTES} bytes"
        )
    pieces = [whole[at : at + PART_BYTES] for at in range(0, len(whole), PART_BYTES)]
    parts = {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}
    # Listed piece by piece: two equal pieces are one message.
    listed = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    head = encode(Parts(size=len(whole), parts=listed))
    digest = hashlib.sha256(head).hexdigest()
    return PolicyFile(digest, {**parts, digest: head})


class Assembler:
    """Puts files together from messages that come in any order.

    Parts that no `Parts` message has asked for yet wait, the oldest go first beyond `limit` bytes.

    Parameters
    ----------
    limit
        Bytes of parts that are kept.
    """

    def __init__(self, limit: int = 2 * MAX_POLICY_BYTES) -> None:
        self._limit = limit
        self._pieces: dict[str, bytes] = {}
        self._heads: dict[str, Parts] = {}

    def add(self, digest: str, payload: bytes) -> list[tuple[str, npt.NDArray[np.float64]]]:
        """Take a message; return the policies (hash, pi_l) that are complete now.

        Raises
        ------
        InputError
            The payload does not hash to `digest`, or completes something that is no policy.
        """
        if hashlib.sha256(payload).hexdigest() != digest:
            raise InputError(f"policy payload does not hash to its topic {digest[:12]}..")
        if not _is_json(payload):
            self._pieces.pop(digest, None)
            self._pieces[digest] = payload
            while sum(map(len, self._pieces.values())) > self._limit:
                del self._pieces[next(iter(self._pieces))]
        elif b'"parts"' in payload[:64]:
            self._heads[digest] = decode(Parts, payload)
            while len(self._heads) > 4:
                del self._heads[next(iter(self._heads))]
        else:
            return [(digest, unpack_policy(digest, payload))]
        return self._complete()

    def _complete(self) -> list[tuple[str, npt.NDArray[np.float64]]]:
        found = []
        for digest, head in list(self._heads.items()):
            if not all(part in self._pieces for part in head.parts):
                continue
            del self._heads[digest]
            whole = b"".join(self._pieces[part] for part in head.parts)
            for part in head.parts:
                self._pieces.pop(part, None)
            if len(whole) != head.size:
                raise InputError(
                    f"policy {digest[:12]}.. has {len(whole)} bytes in its parts, not {head.size}"
                )
            found.append((digest, _table(digest, decode(LocalPolicy, whole, limit=head.size))))
        return found


def _is_json(payload: bytes) -> bool:
    """Whether a payload is a whole JSON object; a part of a longer one is not."""
    try:
        msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def unpack_policy(digest: str, payload: bytes) -> npt.NDArray[np.float64]:
    """Return `pi_l` of shape (S_g, S_l, A_l) after checking the hash before parsing.

    Raises
    ------
    InputError
        Wrong hash, not a policy, ragged table, spaces that do not fit, or a row that is no
        distribution.
    """
    if hashlib.sha256(payload).hexdigest() != digest:
        raise InputError(f"policy payload does not hash to its topic {digest[:12]}..")
    return _table(digest, decode(LocalPolicy, payload))


def _table(digest: str, message: LocalPolicy) -> npt.NDArray[np.float64]:
    """Check a decoded policy; return `pi_l`."""
    try:
        pi_l = np.asarray(message.pi_l, dtype=np.float64)
    except ValueError:
        raise InputError(f"policy {digest[:12]}.. has rows of different lengths") from None
    if pi_l.ndim != 3 or 0 in pi_l.shape:
        raise InputError(f"policy {digest[:12]}.. has shape {pi_l.shape}, not (S_g, S_l, A_l)")
    n_targets, n_zones, n_actions = pi_l.shape
    if spaces_of(n_zones, n_targets, n_actions) != (message.S, message.G, message.A):
        raise InputError(f"policy {digest[:12]}.. has a shape that its space hashes deny")
    if not (np.isfinite(pi_l).all() and (pi_l >= 0).all()):
        raise InputError(f"policy {digest[:12]}.. has an entry that is no probability")
    if np.abs(pi_l.sum(axis=-1) - 1).max() > 1e-9:
        raise InputError(f"policy {digest[:12]}.. has a row that does not sum to 1")
    return pi_l
