# SPDX-License-Identifier: MIT
"""One step of the control loop: publish, poll in one or two waves, estimate, decide, record."""

import logging
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from kofn.controller.availability import Availability
from kofn.controller.config import ControllerConfig
from kofn.controller.dispatch import Dispatcher
from kofn.controller.estimate import Estimator
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import Clock
from kofn.controller.link.messages import Step
from kofn.controller.poll_round import PollRound, RoundKey
from kofn.controller.results import Decision, Totals
from kofn.controller.roster import Frame
from kofn.controller.streams import Streams
from kofn.controller.waiting import Waiter

log = logging.getLogger(__name__)

DEGRADED_AFTER = 3
"""So many fallbacks in a row are worth a warning: the run steers blindly."""


PERMUTED = 10_000
"""Fleets up to this size are permuted whole: half a millisecond; a million robots take 30 ms."""


def sample_order(generator: np.random.Generator, n: int, size: int) -> list[int]:
    """Return the first `size` places of a random permutation of n, or all n if these are fewer."""
    size = min(size, n)
    if n <= PERMUTED:
        drawn = generator.permutation(n)[:size]
    else:
        drawn = generator.choice(n, size, replace=False)
    order: list[int] = drawn.tolist()
    return order


class Player:
    """Plays steps one by one.

    Parameters
    ----------
    config
        Settings of the run.
    epoch
        Number of this controller start.
    dispatcher, estimator
        What decides, and what it decides on.
    link, waiter, clock
        The wire, and the time.
    nonce
        Source of 16 hex digits, fresh for each round.
    totals
        Sums of the run; poll messages and lateness are added here.
    last_m
        What the action that the first step carries was chosen from.
    """

    def __init__(
        self,
        config: ControllerConfig,
        epoch: int,
        *,
        dispatcher: Dispatcher,
        estimator: Estimator,
        link: FleetLink,
        waiter: Waiter,
        clock: Clock,
        nonce: Callable[[], str],
        totals: Totals,
        last_m: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        self._config = config
        self._epoch = epoch
        self._dispatcher = dispatcher
        self._estimator = estimator
        self._link = link
        self._waiter = waiter
        self._clock = clock
        self._nonce = nonce
        self._totals = totals
        self._streams = Streams(config.seed)
        self._last_m = last_m
        self._fallbacks = 0
        self._availability = Availability()
        self.sent_s = 0.0
        """When the present step was published."""

    def change_dispatcher(self, dispatcher: Dispatcher) -> None:
        """From the next step on decide by another policy."""
        self._dispatcher = dispatcher

    def play(self, t: int, g: int, last_u: int, skipped: int) -> Decision:
        """Publish step t, poll, decide on u(t)."""
        frame = self._link.frame
        self._link.announce(frame.pace)
        there = self._availability.among(t, frame.ids)
        # Before the step goes out, for it takes a while where the fleet is large.
        order = sample_order(self._streams.at("sample", t), len(there), 2 * self._config.k)
        permutation = [there[i] for i in order]
        step = self._step(t, g, last_u)
        self._link.begin_step(step)
        poll_round = self._make_round(t, frame, permutation)
        polls = self._link.open_round(poll_round)
        self._totals.poll_messages += len(polls)
        self.sent_s = self._clock.now()
        self._link.send_step(step, polls)
        self._run_round(poll_round)
        latency_ms = 1000 * self._clock.to_wall_s(self._clock.now() - self.sent_s)
        if not poll_round.complete:
            self._waiter.drain()  # an answer counts by when it arrived, not by when it is read
        outcome = poll_round.close(self._clock.now())
        self._availability.note(t, outcome.unavailable)
        self._take_late()
        first_wave, instead = poll_round.first_wave, poll_round.second_wave
        estimate = self._estimator.estimate(t, first_wave, outcome, self._dispatcher.belief)
        decided = self._dispatcher.decide(t, g, estimate.weights)
        self._report(t, estimate.m, len(first_wave), fallback=estimate.fallback)
        self._last_m = estimate.m
        decision = Decision(
            ep=self._epoch,
            t=t,
            g=g,
            u=last_u if estimate.fallback else decided,
            asked=list(first_wave),
            counts=_whole(estimate.counts),
            belief=[float(weight) for weight in self._dispatcher.belief],
            m=estimate.m,
            frame=len(there),
            missing=len(outcome.silent),
            fallback=estimate.fallback,
            latency_ms=latency_ms,
            skipped_ticks=skipped,
            asked_instead=list(instead),
            surplus=estimate.surplus,
            remembered=list(estimate.remembered),
            padded=_whole(estimate.padded),
            share=estimate.share,
            degraded=self._fallbacks >= DEGRADED_AFTER,
            transitions=[
                (*answer.came_from, answer.zone)
                for answer in (*outcome.fresh, *outcome.topped_up)
                if answer.came_from is not None
            ],
        )
        refused = self._link.take_refused()
        # Python keeps the memory of every call with `**` for another one like it.
        return msgspec.structs.replace(decision, **refused) if refused else decision

    def _step(self, t: int, g: int, last_u: int) -> Step:
        return Step(
            ep=self._epoch,
            t=t,
            up=self._link.up_ms,
            g=g,
            u=last_u,
            ttl=self._config.step_ttl_ms,
            pol=f"sha256:{self._link.policy_digest}",
            k=self._config.k,
            m=self._last_m,
        )

    def _make_round(self, t: int, frame: Frame, permutation: Sequence[str]) -> PollRound:
        """Make the round of step t, which is about to be sent."""
        config, now_s = self._config, self._clock.now()
        ttl_s = config.poll_ttl(frame.pace)
        polled = min(config.k, len(permutation))
        return PollRound(
            RoundKey(self._epoch, t, self._nonce()),
            permutation=permutation,
            host_of=frame.host_of,
            k=config.k,
            n_zones=self._dispatcher.belief.size,
            n_actions=self._dispatcher.pi_l.shape[2],
            deadline_s=now_s + ttl_s,
            second_wave_s=now_s + ttl_s / 2 if config.waves == 2 else None,
            replacements=lambda lack: self._estimator.replacements(polled, lack),
        )

    def _run_round(self, poll_round: PollRound) -> None:
        """Wait for the answers; send the second wave when it is due."""
        while not poll_round.is_closed(self._clock.now()):
            if poll_round.second_wave_due(self._clock.now()):
                if poll_round.open_second_wave():
                    self._totals.poll_messages += self._link.send_second_wave(poll_round)
                continue
            self._waiter.receive(poll_round.wake_s)

    def _take_late(self) -> None:
        """Late zones are remembered and timed, nothing else."""
        for t, answers, late_s in self._link.take_late():
            self._estimator.note_late(t, answers)
            self._totals.add_late([1000 * self._clock.to_wall_s(late) for late in late_s])

    def _report(self, t: int, m: tuple[int, int, int, int], polled: int, *, fallback: bool) -> None:
        """Warn of what an operator should know."""
        self._fallbacks = self._fallbacks + 1 if fallback else 0
        if fallback:
            log.warning("fallback t=%d fresh=%d topped_up=%d asked=%d", t, m[0], m[1], polled)
        if self._fallbacks == DEGRADED_AFTER:
            log.warning("run degraded: %d steps in a row without enough answers", DEGRADED_AFTER)
        p_value = self._estimator.watch.test()
        if p_value is not None:
            watched = self._estimator.watch.rates
            rates = (f"{rate:.2f}" if rate is not None else "-" for rate in watched)
            log.warning(
                "loss depends on where robots are p=%.1e answer_rate_by_zone=%s: estimates are "
                "biased; fill = 'known-first' or estimator = 'weighted' help",
                p_value,
                ",".join(rates),
            )


def _whole(counts: npt.NDArray[np.float64]) -> list[int]:
    """Counts as whole numbers."""
    return [int(count) for count in counts]
