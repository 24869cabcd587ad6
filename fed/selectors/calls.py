# SPDX-License-Identifier: MIT
"""What rules that issue calls share: the poll of k, the reference, the choice, the log.

Each round k names are drawn evenly from all registered clients. One that is not online (which the
server knows without a message) or stays silent counts as offline, so that the k-subset is uniform.
The call in force picks up to m of those that replied and are recruited; the seats left over go to
clients online that were not polled, drawn evenly. So with k = m and no filter the choice is
random, and k < m is not refused: it only polls fewer candidates.

The speed limit L, by which clients find their speed bin and of which deadlines are multiples, is
the length of the first round (which ends with half of its models), and then follows the polls: it
moves until `fast_share` of those that reply call themselves fast. It stays above what messages
take (`Outcome.grace_s`): where those dominate, nobody's speed is worth a deadline.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.checks import check_size
from kofn.fed.game import CALLS, FULL, PARTIAL, PHASE_ENDS, SKIP, Call, Shape
from kofn.fed.kernel import OFFLINE, RoundLog
from kofn.fed.selectors.base import BaseSelector, draw
from kofn.fed.selectors.protocol import EPOCHS_BY_BIN, PollRequest, Reference, Selection
from kofn.fed.status import FIVE, debias, reference_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kofn.fed.kernel import FloatArray
    from kofn.fed.selectors.protocol import Outcome, Status
    from kofn.fed.status import Bins

Frame = Literal["registered", "online"]

#: Weight of a new round in the mean loss, and step of the speed limit.
LOSS_STEP, LIMIT_STEP = 0.3, 0.5

#: Replies from which on the speed limit takes full steps.
SURE_REPLIES = 10


class CallSelector(BaseSelector):
    """Polls k clients and chooses m under a call; subclasses say which call.

    Parameters
    ----------
    k : int
        Clients polled in a round.
    calls : sequence of Call
        What can be called.
    epochs : int
        Epochs of a full effort; a partial one is a single epoch.
    fast_share : float
        Share of clients that count as fast (of two speeds).
    frame : {"registered", "online"}
        Among whom the k are drawn. Only draws among all registered clients tell how many are
        offline; draws among those online waste no poll.
    flip : float
        Probability with which clients randomise their bin, see `kofn.fed.status`.
    bins : Bins
    """

    def __init__(
        self,
        *,
        k: int,
        calls: Sequence[Call] = CALLS,
        epochs: int = 5,
        fast_share: float = 0.5,
        frame: Frame = "registered",
        flip: float = 0.0,
        bins: Bins = FIVE,
    ) -> None:
        super().__init__(bins=bins)
        if frame not in get_args(Frame):
            raise InputError(f"frame is {frame!r}, not 'registered' or 'online'")
        self.frame: Frame = frame
        if not 0 < fast_share < 1:
            raise InputError(f"fast_share {fast_share} is not between 0 and 1")
        self.k = check_size("poll size", k)
        self.epochs = check_size("epochs", epochs)
        self.calls = tuple(calls)
        self.fast_share, self.flip = fast_share, flip
        self.shape = Shape(bins, self.calls)
        self.recruits = [frozenset(call.recruits(bins)) for call in self.calls]
        self.log = RoundLog(bins, len(self.calls))
        self.limit_s: float | None = None
        self.grace_s = 0.0
        self.loss: float | None = None
        self.first_loss: float | None = None
        self.phase = 0
        self.m = 1
        self._pool: list[str] = []
        self._asked: tuple[str, ...] = ()
        self._seen: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._trained: dict[str, int] = {}
        self._call = 0
        self._opening = True
        self.counts: FloatArray = np.zeros(bins.n_states)

    def call_index(self, name: str) -> int:
        """Return the index of a call, by its name."""
        names = [known.name for known in self.calls]
        if name not in names:
            raise InputError(f"there is no call {name!r}; known are {', '.join(names)}")
        return names.index(name)

    def decide(self, server_round: int, rng: np.random.Generator) -> tuple[int, float]:
        """Return the call in force in this round, and the probability with which it was drawn."""
        raise NotImplementedError

    def efforts(self, call: int) -> Sequence[int]:
        """Return the effort of each bin under a call, shape (B,): slow partial, fast full."""
        del call
        fastest = len(self.bins.speed) - 1
        return [
            FULL if self.bins.split(bin_)[1] == fastest else PARTIAL
            for bin_ in range(self.bins.size)
        ]

    def fill_efforts(self, call: int) -> Sequence[int]:
        """Return the effort of each bin where clients fill seats; those that skip train too."""
        return [max(effort, PARTIAL) for effort in CallSelector.efforts(self, call)]

    def after_round(self, server_round: int) -> None:
        """Do what is to be done once a round is logged; nothing by default."""

    def register(self, names: Sequence[str]) -> None:
        """Learn which clients exist."""
        super().register(names)
        self._pool = sorted(self.registered)

    @property
    def reference(self) -> Reference:
        """What clients compare themselves with."""
        n_limits = len(self.bins.speed) - 1
        limits = () if self.limit_s is None or not n_limits else (self.limit_s,) * n_limits
        # More than two speeds: limits at half, once, twice L, and so on.
        if n_limits > 1:
            steps = np.arange(n_limits) - (n_limits - 1) / 2
            limits = tuple(float(x) for x in np.array(limits) * 2.0**steps) if limits else ()
        return Reference(loss=self.loss, duration_s=limits)

    def wants(
        self, server_round: int, online: Sequence[str], rng: np.random.Generator
    ) -> PollRequest:
        """Poll k of the registered clients."""
        del server_round
        pool = self._pool if self.frame == "registered" else sorted(online)
        size = min(self.k, len(pool))
        drawn = rng.choice(len(pool), size, replace=False) if size else ()
        self._asked = tuple(pool[i] for i in drawn)
        return PollRequest(clients=self._asked, what="status", reference=self.reference)

    def take(self, server_round: int, statuses: Sequence[Status]) -> None:
        """Count the states of those that were polled."""
        del server_round
        bins = {status.name: status.bin for status in statuses}
        self._before = self._seen
        self._seen = {name: 1 + bins[name] if name in bins else OFFLINE for name in self._asked}
        counts = np.bincount(list(self._seen.values()), minlength=self.bins.n_states)
        self.counts = counts.astype(np.float64)
        self.counts[1:] = debias(self.counts[1:], self.flip)
        self.log.poll(self.counts)
        for name, now in self._seen.items():
            if name in self._before and name not in self._trained:
                self.log.move(self._before[name], SKIP, now)
        if self.limit_s is not None and statuses:
            speeds = [self.bins.split(status.bin)[1] for status in statuses]
            slower = len(self.bins.speed) // 2
            share = float(np.mean([speed >= slower for speed in speeds]))
            # A few replies say little: with them the limit moves less.
            step = LIMIT_STEP * min(1.0, len(speeds) / SURE_REPLIES)
            self.limit_s *= math.exp(step * (self.fast_share - share))
            self.limit_s = max(self.limit_s, self.grace_s)

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        """Choose m under the call in force."""
        self.m = max(m, 1)
        self._opening = self.limit_s is None
        if self.limit_s is None:
            size = min(m, len(online))
            chosen = draw(online, m, rng)
            self._remember(0, chosen, [FULL] * self.bins.size)
            return Selection(
                clients=tuple(chosen), call="opening", keep=math.ceil(size / 2) if size else None
            )
        call, chance = self.decide(server_round, rng)
        efforts = self.efforts(call)
        chosen = self._recruit(call, efforts, online, m, rng)
        filling = self.fill_efforts(call)
        trained = [e if e != SKIP else f for e, f in zip(efforts, filling, strict=True)]
        epochs = {PARTIAL: 1, FULL: self.epochs}
        settings = {
            EPOCHS_BY_BIN: ",".join(str(epochs[effort]) for effort in trained),
            **reference_settings(self.reference),
        }
        self._remember(call, chosen, trained)
        label = self.calls[call].name
        return Selection(
            clients=tuple(chosen),
            per_client_config={name: dict(settings) for name in chosen},
            # The chance belongs into the log: with it the log can be re-weighted later.
            call=label if chance >= 1 else f"{label}@{chance:.3f}",
            deadline_s=self.calls[call].deadline * self.limit_s,
        )

    def _recruit(
        self,
        call: int,
        efforts: Sequence[int],
        online: Sequence[str],
        m: int,
        rng: np.random.Generator,
    ) -> list[str]:
        here = set(online)
        wanted = [
            name
            for name, state in self._seen.items()
            if state != OFFLINE
            and name in here
            and state - 1 in self.recruits[call]
            and efforts[state - 1] != SKIP
        ]
        chosen = draw(wanted, m, rng)
        for unpolled in (True, False):
            if len(chosen) >= min(m, len(here)):
                break
            chosen += _fill(
                online, m - len(chosen), {*chosen, *(self._seen if unpolled else ())}, rng
            )
        return chosen

    def _remember(self, call: int, chosen: Sequence[str], efforts: Sequence[int]) -> None:
        self._call = call
        self._trained = {}
        for name in chosen:
            state = self._seen.get(name, OFFLINE)
            effort = FULL if state == OFFLINE else efforts[state - 1]
            self._trained[name] = effort

    def learn(self, server_round: int, outcomes: Sequence[Outcome]) -> None:
        """Log the round, move the references, and hand over to `after_round`."""
        arrived = [o for o in outcomes if o.arrived]
        losses = [o.loss for o in arrived if o.loss is not None]
        mean = float(np.mean(losses)) if losses else None
        seconds = max((o.duration_s for o in outcomes), default=0.0)
        self.grace_s = max((o.grace_s for o in outcomes), default=self.grace_s)
        if self.limit_s is None:
            if arrived:
                self.limit_s = max(1e-3, *(o.duration_s for o in arrived))
        elif not self._opening:
            self._log_clients(outcomes, mean)
            before = self.phase
            self._advance(mean)
            self.log.round(before, self._call, seconds / self.limit_s, self.phase > before)
        if mean is not None:
            self.loss = mean if self.loss is None else self.loss + LOSS_STEP * (mean - self.loss)
            if self.first_loss is None:
                self.first_loss = self.loss
        if not self._opening:
            self.after_round(server_round)

    def _advance(self, mean: float | None) -> None:
        if mean is None or self.loss is None or not self.first_loss:
            return
        relative = (self.loss + LOSS_STEP * (mean - self.loss)) / self.first_loss
        # One step at a time and never back: that is what the game says of phases.
        if self.phase < len(PHASE_ENDS) and relative < PHASE_ENDS[self.phase]:
            self.phase += 1

    def _log_clients(self, outcomes: Sequence[Outcome], mean: float | None) -> None:
        if self.limit_s is None:
            return
        for outcome in outcomes:
            state = self._seen.get(outcome.name, OFFLINE)
            if state == OFFLINE or outcome.name not in self._trained:
                continue
            value, speed = self.bins.split(state - 1)
            effort = self._trained[outcome.name]
            own_s = max(outcome.duration_s - outcome.grace_s, 0.0)
            share = own_s / self.limit_s if outcome.arrived else math.inf
            self.log.duration(speed, effort, share)
            if outcome.arrived and outcome.loss is not None and mean:
                self.log.loss(self.phase, value, outcome.loss / mean)
            if outcome.arrived and outcome.bin is not None and 0 <= outcome.bin < self.bins.size:
                self.log.move(state, effort, 1 + outcome.bin)

    def remembered(self) -> dict[str, Any]:
        """Return what all rules with calls remember."""
        return {
            "limit_s": self.limit_s,
            "grace_s": self.grace_s,
            "loss": self.loss,
            "first_loss": self.first_loss,
            "phase": self.phase,
            "m": self.m,
            "call": self._call,
            "seen": self._seen,
            "trained": self._trained,
            "log": self.log.to_state(),
        }

    def recall(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._pool = sorted(self.registered)
        self.limit_s, self.loss = state["limit_s"], state["loss"]
        self.grace_s = state.get("grace_s", 0.0)
        self.first_loss, self.phase, self.m = state["first_loss"], state["phase"], state["m"]
        self._call = state["call"]
        self._seen, self._trained = dict(state["seen"]), dict(state["trained"])
        self.log.from_state(state["log"])


def _fill(online: Sequence[str], size: int, taken: set[str], rng: np.random.Generator) -> list[str]:
    """Draw clients online that are not taken, evenly, without going through all of them."""
    pool = online if all(a < b for a, b in pairwise(online)) else sorted(online)
    found: list[str] = []
    # Few are taken of many, as a rule: draw and skip.
    for i in rng.permutation(len(pool)):
        if len(found) == size:
            break
        if pool[i] not in taken:
            found.append(pool[i])
    return found
