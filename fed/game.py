# SPDX-License-Identifier: MIT
r"""Client selection as a game of one server and n clients, for `controller.core`.

A **call** c says which bins it recruits (B_c) and until when models count (D_c, a multiple of the
speed limit L). The call in force and the phase of the run are the global state, the next call is
the global action; a client's state is offline or its bin, its action an effort:

.. math:: P_l(s'|s, (\phi, c), a) &= q_{sc} T(s'|s, a) + (1 - q_{sc}) N(s'|s) \\
   r_l(s, (\phi, c), a) &= \frac nm\, q_{sc} \bigl(v_\phi(s)\, g(a)\, F_c(s, a) - e\, g(a)\bigr) \\
   P_g((\phi', c')|(\phi, c), a_g) &= [c' = a_g]\, u(\phi'|\phi, c), \qquad
   r_g((\phi, c), a_g) = -\gamma \lambda D_{a_g}

q_sc is the chance to train: to be polled and recruited, or to fill a seat that is left. A
call costs its time one round after it was chosen, hence gamma. lambda is the price of time. It is
set to what a second usually earns (the ratio of mean value to mean length over the calls, raised
to the ratio that the best constant call reaches: Dinkelbach 1967), so that raising r means raising
value *per second*.

======  ===========  =============  ======================================================
symbol  name         shape          meaning
======  ===========  =============  ======================================================
phi     phase        3              early, mid, late, by the mean loss of participants
g       efforts      (A_l,)         worth of skip, partial, full effort; full is 1
e       energy       scalar         price of a full effort, in units of value
======  ===========  =============  ======================================================

What this template cannot say: that exactly m clients are chosen, that a round lasts as long as its
slowest client, that two like clients are worth less than two unlike ones, that the phase depends on
who took part (docs/federated.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game, InitialLaw
from kofn.fed.kernel import OFFLINE

if TYPE_CHECKING:
    from kofn.fed.kernel import Posterior
    from kofn.fed.status import Bins

FloatArray = npt.NDArray[np.float64]

PHASES = ("early", "mid", "late")

#: Mean loss of participants, relative to that of the first round, below which a phase ends.
PHASE_ENDS = (0.6, 0.3)

SKIP, PARTIAL, FULL = 0, 1, 2
EFFORTS = ("skip", "partial", "full")


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call.

    Attributes
    ----------
    name : str
    value, speed : str
        The bin that is recruited, "any" for all; value "high" is the highest.
    deadline : float
        As a multiple of the speed limit L, the time of a full round that half the clients keep.
    """

    name: str
    value: str = "any"
    speed: str = "any"
    deadline: float = 1.0

    def recruits(self, bins: Bins) -> tuple[int, ...]:
        """Return the bins that the call recruits."""
        for what, known in ((self.value, bins.value), (self.speed, bins.speed)):
            if what not in {"any", *known}:
                raise InputError(f"call {self.name} recruits {what!r}, which no declared bin is")
        found = []
        for bin_ in range(bins.size):
            value, speed = bins.split(bin_)
            if self.value in {"any", bins.value[value]} and self.speed in {
                "any",
                bins.speed[speed],
            }:
                found.append(bin_)
        return tuple(found)


#: The calls of a run unless others are given. A round needs clients, so there is no call to rest:
#: `long` takes its place, which waits for slow devices.
CALLS = (
    Call(name="all"),
    Call(name="high", value="high", deadline=0.8),
    Call(name="fast", speed="fast", deadline=0.8),
    Call(name="both", value="high", speed="fast", deadline=0.7),
    Call(name="long", deadline=1.5),
)


class GameSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the game takes as given.

    Attributes
    ----------
    gamma : float
        Discount factor of a round.
    horizon : int
        Rounds of the episodes by which policies are compared.
    partial_worth : float
        g of a partial effort (one epoch), relative to a full one.
    high_worth : float
        Prior worth of a client of the highest value bin, relative to the lowest.
    value_power : float
        v is the relative loss to this power: 0 makes all clients alike.
    energy : float
        e, the price of a full effort.
    """

    gamma: float = 0.9
    horizon: int = 20
    partial_worth: float = 0.5
    high_worth: float = 1.5
    value_power: float = 4.0
    energy: float = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the game, and its indices."""

    bins: Bins
    calls: tuple[Call, ...]

    @property
    def n_global(self) -> int:
        """Number of global states."""
        return len(PHASES) * len(self.calls)

    def state(self, phase: int, call: int) -> int:
        """Return the index of a global state."""
        return phase * len(self.calls) + call

    def admitted(self, shares: FloatArray, *, m: int, n: int, k: int) -> FloatArray:
        """Return the chance to train, shape (C, S_l), by the usual states of clients.

        A call recruits among the k that were polled; the seats that they cannot fill go to clients
        online that were not polled, or that do not match where all were.
        """
        chance = np.zeros((len(self.calls), self.bins.n_states))
        polled = min(k / n, 1.0)
        online = n * (1 - shares[OFFLINE])
        for c, call in enumerate(self.calls):
            recruited = [1 + bin_ for bin_ in call.recruits(self.bins)]
            matching = polled * n * shares[recruited].sum()
            left = max(m - matching, 0.0)
            pool = (1 - polled) * online if polled < 1 else online - matching
            fill = min(1.0, left / max(pool, 1e-9))
            unasked = 1 - polled if polled < 1 else 1.0
            chance[c, 1:] = unasked * fill
            own = min(1.0, m / max(matching, 1e-9))
            chance[c, recruited] = polled * own + (1 - polled) * fill
        return chance


def build_game(
    shape: Shape, found: Posterior, settings: GameSettings, *, m: int, n: int, k: int
) -> Game:
    """Return the game that a posterior describes; tables as in `controller.core.game`."""
    bins, calls = shape.bins, shape.calls
    C, S, A = len(calls), bins.n_states, len(EFFORTS)
    worth = np.array([0.0, settings.partial_worth, 1.0])
    chance = shape.admitted(found.shares, m=m, n=n, k=k)
    P_l = np.empty((shape.n_global, S, A, S))
    r_l = np.zeros((shape.n_global, S, A))
    P_g = np.zeros((shape.n_global, C, shape.n_global))
    moves = found.trained.copy()
    moves[:, SKIP] = found.rest
    for phase in range(len(PHASES)):
        value = found.value[phase] ** settings.value_power
        for c in range(C):
            g = shape.state(phase, c)
            q = chance[c][:, None, None]
            P_l[g] = q * moves + (1 - q) * found.rest[:, None, :]
            for bin_ in range(bins.size):
                value_bin, speed = bins.split(bin_)
                earned = value[value_bin] * worth * found.on_time[c, speed]
                r_l[g, 1 + bin_] = n / m * chance[c, 1 + bin_] * (earned - settings.energy * worth)
            up = found.up[phase, c]
            for a in range(C):
                P_g[g, a, shape.state(min(phase + 1, len(PHASES) - 1), a)] += up
                P_g[g, a, shape.state(phase, a)] += 1 - up
    price = time_price(shape, r_l, found)
    r_g = np.tile(-settings.gamma * price * found.seconds, (shape.n_global, 1))
    return Game(
        P_g,
        r_g,
        P_l,
        r_l,
        settings.gamma,
        initial=InitialLaw(s_l=found.shares),
        horizon=settings.horizon,
        name="federated",
    )


def time_price(shape: Shape, r_l: FloatArray, found: Posterior) -> float:
    """Return lambda: the most value per second that any constant call earns, efforts at their best.

    With the shares of clients as they usually are, and the phase the middle one.
    """
    middle = len(PHASES) // 2
    best = r_l[[shape.state(middle, c) for c in range(len(shape.calls))]].max(axis=2)
    ratio = (best @ found.shares) / found.seconds
    return float(ratio.max())


def greedy_efforts(game: Game) -> FloatArray:
    """Return the local policy that raises each stage reward, shape (S_g, S_l, A_l)."""
    pi_l = np.zeros(game.r_l.shape)
    best = game.r_l.argmax(axis=2)
    np.put_along_axis(pi_l, best[..., None], 1.0, axis=2)
    return pi_l
