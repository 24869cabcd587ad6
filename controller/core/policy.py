# SPDX-License-Identifier: MIT
"""The learned object: global action table, local policy, belief settings, and the game itself.

======  ===========  ====================  =======================================
symbol  name         shape                 meaning
======  ===========  ====================  =======================================
K       grid         scalar                size of the histogram grid of the table
pi_g    action       (S_g, M(K))           global action of each cell
pi_l    pi_l         (S_g, S_l, A_l)       law of the local action
m(s_g)  prior        (S_g, S_l)            pseudo-counts that a bare poll is pulled to
cap     memory       scalar or None        belief memory in agents, None: no memory
======  ===========  ====================  =======================================

A poll is a noisy picture of the fleet, and the table was solved for players who see it clearly. A
bare poll c of m agents, with nothing remembered, is therefore pulled towards what is usual: prior
m(s_g) is a number p of pseudo-agents spread as the fleet is on average while the global state is
s_g, and the cell is that of

    c + m(s_g) p / (p + m).

A `Belief` with memory is looked up as it is: it started from the law of the game and has weighed
all polls since, so that another pull only blurs it.

Where polls are so small that play without memory wants other local agents than play with it, a
policy carries a second pair for bare polls (`Policy.bare`).

A policy travels as one `.npz` file: arrays plus a JSON header, never pickle. The header carries the
SHA-256 of the content, so a damaged file is recognised. Needs numpy alone.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import (
    MAX_AGENTS,
    array_of,
    check_int,
    check_kind,
    check_mapping,
    check_path,
    check_real,
    shown,
    weights_table,
)
from kofn.controller.core.archive import content_of, pack, read_file, unpack, write_whole
from kofn.controller.core.belief import Belief, starting_weights
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import FloatArray, Game, InitialLaw
from kofn.controller.core.grid import check_grid, project, rank

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

#: Version 2 adds the pair for bare polls; a file without one is written as version 1.
VERSION = 2


class Policy:
    """A pair of policies for a game, with everything that is needed to apply them.

    Parameters
    ----------
    game : Game
        The game that the policy was made for.
    grid : int
        K, the number of agents in a histogram of the action table.
    action : array of int, shape (S_g, M(K))
        Global action of each cell.
    pi_l : array of shape (S_g, S_l, A_l)
        Local policy, rows over A_l.
    memory : float, optional
        Belief memory in agents, at least 1 (see `Belief`); None plays without memory.
    prior : array, shape (S_g, S_l), optional
        Pseudo-counts that are added to a bare poll before the look-up; none by default.
    provenance : mapping, optional
        How the policy was made; JSON values. Not part of its identity.
    bare : Policy, optional
        Another pair for the same game, with which play without memory is better, see `in_play`.
    """

    def __init__(
        self,
        game: Game,
        grid: int,
        action: npt.ArrayLike,
        pi_l: npt.ArrayLike,
        *,
        memory: float | None = None,
        prior: npt.ArrayLike | None = None,
        provenance: Mapping[str, object] | None = None,
        bare: Policy | None = None,
    ) -> None:
        check_kind("game", game, Game)
        points = check_grid(grid, game.n_local, game.n_global)
        raw = array_of("action", action)
        if raw.shape != (game.n_global, points):
            raise InputError(
                f"action has shape {raw.shape}, but grid {grid} asks for {(game.n_global, points)}"
            )
        if not np.issubdtype(raw.dtype, np.integer):
            raise InputError(f"action holds {raw.dtype}, not whole numbers")
        if raw.min() < 0 or raw.max() >= game.n_global_actions:
            bad = int(raw.min() if raw.min() < 0 else raw.max())
            raise InputError(f"action {bad} is not one of the {game.n_global_actions} of the game")
        cap = None if memory is None else check_real("memory", memory, least=1)
        shape = (game.n_global, game.n_local)
        pseudo = np.zeros(shape) if prior is None else weights_table("prior", prior, 2, shape)
        check_mapping("provenance", provenance)
        if bare is not None:
            check_kind("bare", bare, Policy).check_game(game)
            if bare.bare is not None or bare.memory is not None:
                raise InputError("the pair for bare polls has a memory or such a pair of its own")
        self.game = game
        self.bare: Policy | None = bare
        self.prior: FloatArray = pseudo
        self.prior.setflags(write=False)
        self.grid = int(grid)
        self.action: npt.NDArray[np.int32] = np.array(raw, dtype=np.int32, order="C")
        self.action.setflags(write=False)
        self.pi_l: FloatArray = game.local_policy(pi_l)
        self.pi_l.setflags(write=False)
        self.memory: float | None = cap
        self.provenance: dict[str, object] = dict(provenance or {})

    @classmethod
    def uniform(cls, game: Game, k: int) -> Policy:
        """Return the policy whose local agents act uniformly at random; its table is all zero."""
        check_kind("game", game, Game)
        action = np.zeros((game.n_global, check_grid(k, game.n_local, game.n_global)), np.int32)
        return cls(game, k, action, game.uniform_local_policy(), provenance={"kind": "uniform"})

    def decide(self, s_g: int, weights: npt.ArrayLike, *, remembered: bool = False) -> int:
        """Return the global action for a global state and counts or pseudo-counts of any total.

        Parameters
        ----------
        s_g : int
            Global state.
        weights : array of shape (S_l,)
            Counts of a poll, or the weights of a `Belief`.
        remembered : bool
            Whether the weights hold more than one poll, see `remembers`; the prior is left out.
        """
        s_g = check_int("s_g", s_g, 0, len(self.prior) - 1)
        known = weights_table("weights", weights, 1, self.prior.shape[1:])
        if not remembered:
            prior = self.prior[s_g]
            size = prior.sum()
            if size > 0:
                known = known + prior * (size / (size + known.sum()))
        return int(self.action[s_g, rank(project(known, self.grid))])

    def remembers(self, k: int, memory: float | str | None = "auto") -> bool:
        """Return whether anything outlives a full poll of k; `memory` as in `memory_cap`."""
        return self.memory_cap(k, memory) > k

    def in_play(self, k: int, memory: float | str | None = "auto") -> Policy:
        """Return the pair that is played: `bare`, if there is one, where nothing is remembered."""
        return self if self.bare is None or self.remembers(k, memory) else self.bare

    def belief(self, k: int, memory: float | str | None = "auto") -> Belief:
        """Return the belief before the first poll of size k; `memory` as in `memory_cap`."""
        cap = self.memory_cap(k, memory)
        game = self.game
        start = starting_weights(game.initial, game.n_global, game.n_local)
        if not self.remembers(k, memory):
            start = np.zeros(game.n_local)
        return Belief(game.marginals(self.pi_l)[0], cap, start)

    def memory_cap(self, k: int, memory: float | str | None = "auto") -> float:
        """Return the belief cap in agents for polls of size k.

        Parameters
        ----------
        k : int
            Poll size.
        memory : "auto", "none" or number
            The policy's own memory, none (the cap is k), or a number of agents, at least 1. A cap
            below k, the size of one poll, means none.
        """
        automatic = isinstance(memory, str) and memory == "auto"
        chosen: float | str | None = self.memory if automatic else memory
        polled = float(check_int("poll size", k, 1, MAX_AGENTS))
        if chosen is None or (isinstance(chosen, str) and chosen == "none"):
            return polled
        if isinstance(chosen, str):  # a number as the command line has it
            try:
                chosen = float(chosen)
            except ValueError:
                raise InputError(
                    f"memory {shown(chosen)} is not 'auto', 'none' or a number"
                ) from None
        return max(check_real("memory", chosen, least=1), polled)

    def check_game(self, game: Game) -> None:
        """Raise InputError unless the policy was made for exactly this game."""
        if self.game.sha256 != check_kind("game", game, Game).sha256:
            raise InputError(
                f"the policy was made for game {_label(self.game)}, not for {_label(game)}"
            )

    @cached_property
    def sha256(self) -> str:
        """Identity: a hash of the game, the pairs, their grids, priors and memory."""
        digest = hashlib.sha256(f"kofn-policy-1 {self.game.sha256}".encode())
        digest.update(repr((self.grid, self.memory)).encode())
        digest.update(self.action.astype("<i4").tobytes())
        digest.update(self.pi_l.astype("<f8").tobytes())
        digest.update(self.prior.astype("<f8").tobytes())
        if self.bare is not None:
            digest.update(self.bare.sha256.encode())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return the policy as the bytes of its file; equal policies give equal bytes."""
        game = self.game
        law_g, law_l = game.initial.resolve(game.n_global, game.n_local)
        header = {
            "sha256": self.sha256,
            "grid": self.grid,
            "memory": self.memory,
            "gamma": game.gamma,
            "local_sees": game.local_sees,
            "alpha": game.initial.alpha,
            "horizon": None if game.horizon is None else int(game.horizon),
            "name": game.name,
            "provenance": self.provenance,
        }
        arrays: dict[str, Any] = {
            "action": self.action.astype(np.min_scalar_type(game.n_global_actions - 1)),
            "pi_l": self.pi_l,
            "prior": self.prior,
            "P_g": game.P_g,
            "r_g": game.r_g,
            "P_l": game.P_l,
            "r_l": game.r_l,
            "initial_s_g": law_g,
            "initial_s_l": law_l,
        }
        if self.bare is not None:
            header["bare_grid"] = self.bare.grid
            arrays["bare_action"] = self.bare.action.astype(arrays["action"].dtype)
            arrays["bare_pi_l"] = self.bare.pi_l
            arrays["bare_prior"] = self.bare.prior
        return pack(arrays, header, "policy", 1 if self.bare is None else VERSION)

    @classmethod
    def from_bytes(cls, data: bytes, source: str = "policy") -> Policy:
        """Return the policy whose file has these bytes; `source` names them in errors."""
        arrays, header = unpack(data, source, "policy", VERSION)
        with content_of(source):
            alpha = header["alpha"]
            game = Game(
                arrays["P_g"],
                arrays["r_g"],
                arrays["P_l"],
                arrays["r_l"],
                header["gamma"],
                local_sees=header["local_sees"],
                initial=InitialLaw(
                    s_g=arrays["initial_s_g"],
                    s_l=None if alpha is not None else arrays["initial_s_l"],
                    alpha=alpha,
                ),
                horizon=header["horizon"],
                name=header["name"],
            )
            bare = None
            if "bare_grid" in header:
                bare = cls(
                    game,
                    header["bare_grid"],
                    arrays["bare_action"],
                    arrays["bare_pi_l"],
                    prior=arrays["bare_prior"],
                )
            policy = cls(
                game,
                header["grid"],
                arrays["action"],
                arrays["pi_l"],
                memory=header["memory"],
                prior=arrays["prior"],
                provenance=header["provenance"],
                bare=bare,
            )
            intact = policy.sha256 == header["sha256"]
        if not intact:
            raise InputError(f"{source} is damaged: its content does not match its SHA-256")
        return policy

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy to a file, completely or not at all."""
        target = check_path("path of the policy", path)
        write_whole(target, self.to_bytes(), "policy")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a policy file; any damage is an InputError of one sentence."""
        data = read_file(check_path("path of the policy", path), "policy")
        return cls.from_bytes(data, source=str(path))


def check_policy(policy: Policy, game: Game, *, same: bool = False) -> None:
    """Refuse what is no policy for a game of this shape, or for exactly this game."""
    check_kind("game", game, Game)
    check_kind("policy", policy, Policy)
    if same or not policy.game.same_shape(game):
        policy.check_game(game)


def _label(game: Game) -> str:
    return f"{game.name or 'unnamed'} ({game.sha256[:12]})"
