# SPDX-License-Identifier: MIT
"""What rules that learn from their own log share: random calls first, refits every R rounds.

A refit is a pure function of the log (`Fit`). In the background (the default) it runs in a thread
beside the rounds, which never wait for it: the new model is taken up in the first round that finds
it ready. With `refit="blocking"` it is made at once, so that a run depends on its seed alone.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.checks import check_size
from kofn.fed.game import GameSettings, build_game
from kofn.fed.kernel import posterior
from kofn.fed.selectors.calls import CallSelector
from kofn.fed.selectors.safe import DRAWS, SURE, constant_policy, share_better
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kofn.controller.core.game import Game
    from kofn.controller.core.policy import Policy
    from kofn.fed.kernel import Posterior

_LOG = logging.getLogger(__name__)

Refit = Literal["background", "blocking"]


class Cancelled(Exception):  # noqa: N818
    """A refit in the background was given up because the run has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A game from a log, and what was learned on it.

    `sure` is the probability that it earns more than the baseline, by the log (`safe`).
    """

    game: Game
    learned: Any
    round: int
    sure: float = 1.0


class Background:
    """At most one piece of work in a thread; nobody waits for it but `close`."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._done: list[Fit] = []
        self._stop = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether work is under way or its result has not been taken."""
        return self._thread is not None

    def start(self, work: Callable[[Callable[[], bool]], Fit]) -> None:
        """Begin `work`, which is given a function that says whether to give up."""

        def run() -> None:
            try:
                self._done.append(work(self._stop.is_set))
            except Cancelled:
                pass
            except Exception:  # noqa: BLE001 - whatever it was, the rounds go on
                # The run goes on with the policy it has.
                _LOG.exception("event=refit_failed")

        self._thread = threading.Thread(target=run, name="kofn-refit", daemon=True)
        self._thread.start()

    def take(self) -> Fit | None:
        """Return the result if it is there; never waits."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        return self._done.pop() if self._done else None

    def close(self, timeout_s: float = 60.0) -> None:
        """Give up what is under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)


class LearnedSelector(CallSelector):
    """Random calls for `warm_up` rounds, then the model of the last refit.

    Parameters
    ----------
    warm_up : int
        Rounds under random calls.
    refit_every : int
        R, rounds between refits.
    refit : {"background", "blocking"}
    game : GameSettings
    at_once : bool
        Whether a decision holds in the round of its poll instead of the next one. The theory
        announces a call one round ahead.
    baseline : str
        Name of a call that is known to be good. It is in force in the warm-up instead of random
        calls, and again whenever the last model is not surely better (`safe`). None if empty:
        every model is used.
    settings
        As for `CallSelector`.
    """

    def __init__(
        self,
        *,
        warm_up: int = 5,
        refit_every: int = 40,
        refit: Refit = "background",
        game: GameSettings | None = None,
        at_once: bool = False,
        baseline: str = "",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._baseline = self.call_index(baseline) if baseline else None
        if refit not in get_args(Refit):
            raise InputError(f"refit is {refit!r}, not 'background' or 'blocking'")
        self.warm_up = check_size("warm_up", warm_up)
        self.refit_every = check_size("refit_every", refit_every)
        self.refit: Refit = refit
        self.game_settings = game or GameSettings()
        self.at_once = at_once
        self.fit: Fit | None = None
        self.fits = 0
        self.refused = 0
        self._rounds = 0
        self._next_call: int | None = None
        self._background = Background()

    def learn_game(self, game: Game, stop: Callable[[], bool]) -> Any:
        """Return what the rule learns on a game; runs in the background."""
        raise NotImplementedError

    def adopt(self, fit: Fit) -> None:
        """Take up a new model, or return to the baseline where it is not surely better."""
        self.fits += 1
        trusted = self._baseline is None or fit.sure >= SURE
        self.refused += not trusted
        self.fit = fit if trusted else None

    def choose(self, moved_by: int, s_g: int) -> int:
        """Return the next call, by the model in use and the counts of the last poll."""
        raise NotImplementedError

    def decide(self, server_round: int, rng: np.random.Generator) -> tuple[int, float]:
        """Return the call in force."""
        del server_round
        if (ready := self._background.take()) is not None:
            self.adopt(ready)
        if self._baseline is None:
            first, odds = int(rng.integers(len(self.calls))), 1 / len(self.calls)
        else:
            first, odds = self._baseline, 1.0
        if self.fit is None:
            self._next_call = None
            return first, odds
        before = self.shape.state(self.phase, self._call)
        if self.at_once:
            return self.choose(before, before), 1.0
        call, chance = (first, odds) if self._next_call is None else (self._next_call, 1.0)
        self._next_call = self.choose(before, self.shape.state(self.phase, call))
        return call, chance

    def fill_efforts(self, call: int) -> Sequence[int]:
        """Return the efforts that raise the stage reward, for seats that the call cannot fill."""
        usual = super().fill_efforts(call)
        if self.fit is None:
            return usual
        earned = self.fit.game.r_l[self.shape.state(self.phase, call), 1:, 1:]
        # All alike where nobody of a bin ever trains under the call.
        known = np.ptp(earned, axis=1) > 0
        best = 1 + earned.argmax(axis=1)
        return [int(b) if k else u for b, k, u in zip(best, known, usual, strict=True)]

    def after_round(self, server_round: int) -> None:
        """Refit when it is due."""
        self._rounds += 1
        due = self._rounds - self.warm_up
        if due < 0 or due % self.refit_every:
            return
        if self.refit == "blocking":
            self.adopt(self._fit(server_round, lambda: False, *self._prepared(server_round)))
        elif not self._background.busy:
            # The log moves on beneath the thread: all that is read from it is read now.
            ready = self._prepared(server_round)

            def work(stop: Callable[[], bool]) -> Fit:
                return self._fit(server_round, stop, *ready)

            self._background.start(work)

    def estimate(self, rng: np.random.Generator | None = None) -> Posterior:
        """Return what the log says now: posterior means, or a draw."""
        deadlines = [call.deadline for call in self.calls]
        return posterior(self.log, deadlines, high_worth=self.game_settings.high_worth, rng=rng)

    def _prepared(self, server_round: int) -> tuple[Game, list[Game]]:
        n = len(self.registered)

        def game(found: Posterior) -> Game:
            return build_game(self.shape, found, self.game_settings, m=self.m, n=n, k=self.k)

        rng = stream(server_round, "posterior")
        draws = 0 if self._baseline is None else DRAWS
        return game(self.estimate()), [game(self.estimate(rng)) for _ in range(draws)]

    def _fit(
        self, server_round: int, stop: Callable[[], bool], game: Game, drawn: Sequence[Game]
    ) -> Fit:
        learned = self.learn_game(game, stop)
        if self._baseline is None:
            return Fit(game, learned, server_round)
        efforts = CallSelector.efforts(self, self._baseline)
        known = constant_policy(game, self._baseline, efforts)
        sure = share_better(
            self.as_policy(game, learned), known, drawn, n=len(self.registered), k=self.k
        )
        _LOG.info("event=refit round=%d sure=%.3f used=%s", server_round, sure, sure >= SURE)
        return Fit(game, learned, server_round, sure)

    def as_policy(self, game: Game, learned: Any) -> Policy:
        """Return what was learned as a policy, so that it can be compared with the baseline."""
        raise NotImplementedError

    def remembered(self) -> dict[str, Any]:
        """Return what rules that learn remember besides; the model itself in `remembered_fit`."""
        return {
            **super().remembered(),
            "rounds": self._rounds,
            "fits": self.fits,
            "refused": self.refused,
            "next_call": self._next_call,
            "fit": None if self.fit is None else self.remembered_fit(self.fit),
        }

    def recall(self, state: dict[str, Any]) -> None:
        """Take it back."""
        super().recall(state)
        self._rounds, self.fits = state["rounds"], state["fits"]
        self.refused = state.get("refused", 0)
        self._next_call = state["next_call"]
        self.fit = None if state["fit"] is None else self.recall_fit(state["fit"])

    def remembered_fit(self, fit: Fit) -> Any:
        """Return a model as JSON values."""
        raise NotImplementedError

    def recall_fit(self, state: Any) -> Fit:
        """Return the model that was remembered."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up a refit that is under way."""
        self._background.close()
