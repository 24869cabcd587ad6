# SPDX-License-Identifier: MIT
r"""The game: one global agent, n identical local agents, finite states and actions.

.. math:: s_g' \sim P_g(\cdot|s_g, a_g), \quad s_i' \sim P_l(\cdot|s_i, s_g, a_i), \quad
   r = r_g(s_g, a_g) + \frac1n \sum_i r_l(s_i, s_g, a_i)

discounted by `gamma`. All tables have s_g first:

======  ================  ==========================  =======
symbol  name              shape                       unit
======  ================  ==========================  =======
P_g     global kernel     (S_g, A_g, S_g)             1
r_g     global reward     (S_g, A_g)                  reward
P_l     local kernel      (S_g, S_l, A_l, S_l)        1
r_l     local reward      (S_g, S_l, A_l)             reward
pi_l    local policy      (S_g, S_l, A_l)             1
P^pi    local marginal    (S_g, S_l, S_l)             1
r^pi    mean reward       (S_g, S_l)                  reward
======  ================  ==========================  =======

With `local_sees="current"` the local agents move with s_g(t), by P^pi[s_g(t)]. With "next" they
move after the global state has changed, by P^pi[s_g(t+1)]; they earn at s_g(t) in both cases.

Reference: Anand & Karmarkar 2026, arXiv 2603.03759, section 2.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from kofn.controller.core._arguments import (
    MAX_AGENTS,
    MAX_TIMES,
    check_choice,
    check_int,
    check_kind,
    check_real,
    distribution,
    rewards,
)
from kofn.controller.core.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LocalSees = Literal["current", "next"]


def _shape(name: str, array: FloatArray, expected: tuple[int, ...], why: str) -> None:
    if array.shape != expected:
        raise InputError(f"{name} has shape {array.shape}, but {why} ask for {expected}")


@dataclass(frozen=True, eq=False, kw_only=True)
class InitialLaw:
    """Where an episode starts.

    Parameters
    ----------
    s_g : array of shape (S_g,), optional
        Distribution of the global state; uniform by default.
    s_l : array of shape (S_l,), optional
        Fixed distribution from which all local states are drawn independently; uniform by default.
    alpha : float, optional
        Instead of `s_l`: each episode first draws the local distribution itself, from the
        symmetric Dirichlet law with this parameter.
    """

    s_g: npt.ArrayLike | None = None
    s_l: npt.ArrayLike | None = None
    alpha: float | None = None

    def resolve(self, n_global: int, n_local: int) -> tuple[FloatArray, FloatArray]:
        """Return the law of s_g, shape (S_g,), and of s_l, shape (S_l,), marginal over draws."""
        s_g = np.full(n_global, 1 / n_global) if self.s_g is None else self.s_g
        s_l = np.full(n_local, 1 / n_local) if self.s_l is None else self.s_l
        law_g, law_l = distribution("initial s_g", s_g, 1), distribution("initial s_l", s_l, 1)
        _shape("initial s_g", law_g, (n_global,), "the global states")
        _shape("initial s_l", law_l, (n_local,), "the local states")
        if self.alpha is not None:
            if self.s_l is not None:
                raise InputError("the initial law takes s_l or alpha, not both")
            check_real("initial alpha", self.alpha, above=0, most=MAX_AGENTS)
        return law_g, law_l


@dataclass(frozen=True, eq=False)
class Game:
    """A validated game; its tables are read-only.

    Parameters
    ----------
    P_g, r_g, P_l, r_l : array_like
        The tables of the module docstring. Rows of kernels are checked and renormalised.
    gamma : float
        Discount factor, 0 <= gamma < 1.
    local_sees : {"current", "next"}
        Which global state moves the local agents.
    initial : InitialLaw
        Law of the start.
    horizon : int, optional
        Steps of an episode; None means discounted for ever.
    name : str
        A label for people; not part of the game's identity.

    Raises
    ------
    InputError
        Naming the table, the index and the value at fault.
    """

    P_g: FloatArray
    r_g: FloatArray
    P_l: FloatArray
    r_l: FloatArray
    gamma: float
    local_sees: LocalSees = field(default="current", kw_only=True)
    initial: InitialLaw = field(default_factory=InitialLaw, kw_only=True)
    horizon: int | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)

    if TYPE_CHECKING:  # what is given may be any array-like; what is kept is an array

        def __init__(
            self,
            P_g: npt.ArrayLike,
            r_g: npt.ArrayLike,
            P_l: npt.ArrayLike,
            r_l: npt.ArrayLike,
            gamma: float,
            *,
            local_sees: LocalSees = "current",
            initial: InitialLaw = ...,
            horizon: int | None = None,
            name: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        P_g, r_g = distribution("P_g", self.P_g, 3), rewards("r_g", self.r_g, 2)
        P_l, r_l = distribution("P_l", self.P_l, 4), rewards("r_l", self.r_l, 3)
        S_g, A_g, _ = P_g.shape
        _, S_l, A_l, _ = P_l.shape
        _shape("P_g", P_g, (S_g, A_g, S_g), "its own states and actions")
        _shape("r_g", r_g, (S_g, A_g), "the states and actions of P_g")
        _shape("P_l", P_l, (S_g, S_l, A_l, S_l), "the global states of P_g and its local states")
        _shape("r_l", r_l, (S_g, S_l, A_l), "the states and actions of P_l")
        gamma = check_real("gamma", self.gamma, least=0, below=1)
        check_choice("local_sees", self.local_sees, get_args(LocalSees))
        horizon = None if self.horizon is None else check_int("horizon", self.horizon, 1, MAX_TIMES)
        check_kind("name", self.name, str)
        law_g, law_l = check_kind("initial", self.initial, InitialLaw).resolve(S_g, S_l)
        alpha = self.initial.alpha
        # A plain whole number stays one: it is part of a game's identity as it was written.
        alpha = alpha if alpha is None or type(alpha) is int else float(alpha)
        initial = InitialLaw(s_g=law_g, s_l=None if alpha else law_l, alpha=alpha)
        for name, array in (("P_g", P_g), ("r_g", r_g), ("P_l", P_l), ("r_l", r_l)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "horizon", horizon)
        object.__setattr__(self, "initial", initial)

    @property
    def n_global(self) -> int:
        """Number of global states, S_g."""
        return int(self.P_g.shape[0])

    @property
    def n_global_actions(self) -> int:
        """Number of global actions, A_g."""
        return int(self.P_g.shape[1])

    @property
    def n_local(self) -> int:
        """Number of local states, S_l."""
        return int(self.P_l.shape[1])

    @property
    def n_local_actions(self) -> int:
        """Number of local actions, A_l."""
        return int(self.P_l.shape[2])

    def same_shape(self, other: Game) -> bool:
        """Return whether the other game has as many states and actions of each kind."""
        return self.P_l.shape == other.P_l.shape and self.P_g.shape == other.P_g.shape

    def local_policy(self, pi_l: npt.ArrayLike) -> FloatArray:
        """Return a local policy as a checked table, shape (S_g, S_l, A_l)."""
        return distribution("pi_l", pi_l, 3, self.r_l.shape)

    def uniform_local_policy(self) -> FloatArray:
        """Return the local policy that draws each action equally often, shape (S_g, S_l, A_l)."""
        return np.full(self.r_l.shape, 1 / self.n_local_actions)

    def marginals(self, pi_l: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return P^pi, shape (S_g, S_l, S_l), and r^pi, shape (S_g, S_l), under a local policy."""
        pi = self.local_policy(pi_l)
        P_pi: FloatArray = np.einsum("gja,gjal->gjl", pi, self.P_l)
        r_pi: FloatArray = np.einsum("gja,gja->gj", pi, self.r_l)
        return P_pi, r_pi

    @cached_property
    def sha256(self) -> str:
        """Identity of the game: a hash of all tables and settings except the name."""
        law_g, law_l = self.initial.resolve(self.n_global, self.n_local)
        digest = hashlib.sha256(b"kofn-game-1")
        for array in (self.P_g, self.r_g, self.P_l, self.r_l, law_g, law_l):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        settings = (self.gamma, self.local_sees, self.initial.alpha, self.horizon)
        digest.update(repr(settings).encode())
        return digest.hexdigest()
