# SPDX-License-Identifier: MIT
"""The shared local policy as a file on the wire, and the hashes of the spaces it is made for.

A policy travels on `pol/<hex>`, where `<hex>` is the SHA-256 of exactly the payload's bytes; a step
names it as `sha256:<hex>`. Arrival switches nothing: the step's `pol` field does.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import LocalPolicy, decode, encode


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
    message = decode(LocalPolicy, payload)
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
