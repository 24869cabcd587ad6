# SPDX-License-Identifier: MIT
"""Shared local policies that a host holds, and how its robots draw their actions from one.

    a_i ~ pi_l(. | z_i, g)   by inverse CDF:   a_i = #{ j < A_l - 1 : C(g, z_i, j) <= x_i }

The uniforms x come from a counter-based generator (Philox): its key is made from the run's seed and
the host's name, its counter from t. So x is a function of (seed, host, t) alone, whatever was lost,
repeated or restarted before, and a host's draws do not shift those of another.

| symbol | name | shape | unit |
|---|---|---|---|
| C | cdf of the local policy | (S_g, S_l, A_l) | - |
| z | zones, -1 = unknown | (n,) | index |
| x | uniforms in [0, 1) | (n,) | - |
| a | actions, -1 = hold | (n,) | index |
"""

import hashlib

import numpy as np
import numpy.typing as npt

from kofn.controller.link.policies import Assembler
from kofn.hardware.driver import HOLD

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

KEPT = 4
"""Policies that a host keeps; the oldest goes first."""

PREFIX = "sha256:"
"""How steps and rosters write a policy's hash."""


class Uniforms:
    """Uniforms of one host, step by step.

    The epoch is left out: it counts starts of the controller, and a run is a function of its seed.
    """

    def __init__(self, seed: int, host: str) -> None:
        digest = hashlib.sha256(f"kofn1:host:{seed}:{host}".encode()).digest()
        # One generator that is set back for each step: a new one asks the operating system for
        # randomness that nobody uses, which is most of a small host's step.
        self._bits = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8"))
        self._generator = np.random.Generator(self._bits)
        self._fresh = self._bits.state

    def draw(self, t: int, n: int) -> FloatArray:
        """Return those of step t, shape (n,), in [0, 1)."""
        # The low words count the blocks drawn, so that streams of different steps never meet.
        self._fresh["state"]["counter"] = np.array([0, 0, t, 0], dtype=np.uint64)
        self._bits.state = self._fresh
        return self._generator.random(n)


def uniforms(seed: int, host: str, t: int, n: int) -> FloatArray:
    """Return the uniforms of host `host` for step t, shape (n,), in [0, 1); see `Uniforms`."""
    return Uniforms(seed, host).draw(t, n)


def draw_actions(cdf: FloatArray, target: int, zones: IntArray, x: FloatArray) -> IntArray:
    """Local actions, shape (n,); `HOLD` where the zone is unknown.

    Parameters
    ----------
    cdf
        Shape (S_g, S_l, A_l), each row ending in exactly 1.
    target
        g, 0 <= g < S_g.
    zones
        Shape (n,), -1 unknown.
    x
        Uniforms in [0, 1), shape (n,).
    """
    known = zones >= 0
    rows = cdf[target]
    at = np.where(known, zones, 0)
    actions = np.zeros(zones.size, dtype=np.int64)
    # One column after the other: a table of (n, A_l) would be most of a large host's step.
    for j in range(rows.shape[1] - 1):
        actions += rows[:, j].take(at) <= x
    actions[~known] = HOLD
    return actions


class PolicyShelf:
    """The newest local policies that arrived, by hash.

    Arrival switches nothing: a step names the policy that it wants.

    Parameters
    ----------
    n_targets, n_zones, n_actions
        S_g, S_l, A_l of the spaces that the host declares.
    """

    def __init__(self, n_targets: int, n_zones: int, n_actions: int) -> None:
        self._shape = (n_targets, n_zones, n_actions)
        self._cdf: dict[str, FloatArray] = {}
        self._assembler = Assembler()

    def add(self, digest: str, payload: bytes) -> bool:
        """Keep a policy that arrived; return whether the list of held policies changed.

        Raises
        ------
        InputError
            The payload does not hash to `digest` (hex) or is no policy.
        """
        held = tuple(self._cdf)
        for name, pi_l in self._assembler.add(digest, payload):
            cdf = np.cumsum(pi_l, axis=-1)
            self._cdf.pop(name, None)
            self._cdf[name] = cdf / cdf[..., -1:]
        while len(self._cdf) > KEPT:
            del self._cdf[next(iter(self._cdf))]
        return set(held) != set(self._cdf)

    @property
    def have(self) -> list[str]:
        """Hashes held, as steps name them, oldest first."""
        return [PREFIX + digest for digest in self._cdf]

    def objection(self, name: str) -> str | None:
        """Why a step may not use policy `name` ("sha256:<hex>"); None when it may."""
        cdf = self._cdf.get(name.removeprefix(PREFIX))
        if not name.startswith(PREFIX) or cdf is None:
            return f"policy {name[:19]} is not held"
        if cdf.shape != self._shape:
            return f"policy {name[:19]} is for spaces {cdf.shape}, this host has {self._shape}"
        return None

    def cdf(self, name: str) -> FloatArray:
        """CDF of a policy to which there is no objection, shape (S_g, S_l, A_l)."""
        return self._cdf[name.removeprefix(PREFIX)]
