# SPDX-License-Identifier: MIT
"""The control loop: one step after the other, in lockstep or on a grid of real time.

    for t = 0 .. steps-1:
        publish Step(t) = (g(t), u(t-1));  robots latch z(t) and act on (z(t), g(t))
        poll k robots for z(t) while they act
        answers -> belief -> u(t);  g(t+1) ~ P_g(. | g(t), u(t))
        wait: lockstep, until every lockstep host is done; real time, for the next tick of the grid

One thread: everything that is waited for goes through `Transport.receive`. With every answer
present a lockstep run is a function of the seed alone; nonces and times are the only exceptions.
"""

import logging
import math
import secrets
from collections.abc import Callable
from importlib.metadata import version

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.dispatch import FIRST_ACTION, Dispatcher
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import Clock
from kofn.controller.link.messages import Step
from kofn.controller.link.transport import Transport
from kofn.controller.poll_round import PollRound, RoundKey
from kofn.controller.record import Recorder, RunFolder
from kofn.controller.results import Decision, Summary, Totals
from kofn.controller.streams import Streams

log = logging.getLogger(__name__)

WAKE_WALL_S = 0.2
"""At least so often (seconds of the operating system) the loop looks whether it should stop."""

BURST_MESSAGES = 1000
"""Most messages taken in a row without a look at anything else."""

EMPTY_FRAME_REPEATS = 8
"""How often a step is repeated while the frame is empty, before the run is given up."""

TICK_TOLERANCE = 0.05
"""Real time: a tick reached late by less than this part of a period is not an overrun."""


class _StopRequested(Exception):  # noqa: N818  not an error: the way out of a wait
    """`should_stop` said so."""


class ControlLoop:
    """Steers one fleet for one run.

    Parameters
    ----------
    config
        Settings of the run.
    policy
        The learned pair; its game gives the kernels and the spaces.
    transport
        A transport that is not open yet.
    clock
        Fleet seconds.
    folder
        Run folder; config, policy, record and summary are written into it.
    epoch
        Number of this start of a controller, persisted before (`epoch.next_epoch`).
    progress
        Called with each decision.
    should_stop
        Asked several times a second; True ends the run gracefully with `completed = False`.
    nonce
        Source of 16 hex digits: the operating system, unless a test must know them.
    """

    _link: FleetLink
    _recorder: Recorder

    def __init__(
        self,
        config: ControllerConfig,
        policy: Policy,
        transport: Transport,
        clock: Clock,
        folder: RunFolder,
        epoch: int,
        *,
        progress: Callable[[Decision], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self._config = config
        self._policy = policy
        self._transport = transport
        self._clock = clock
        self._folder = folder
        self._epoch = epoch
        self._progress = progress or (lambda _: None)
        self._should_stop = should_stop or (lambda: False)
        self._nonce = nonce
        self._dispatcher = Dispatcher(config, policy)
        self._streams = Streams(config.seed)
        self._totals = Totals()
        self._last_m = (0, 0, 0, 0)
        self._robots_at_start = 0
        self._next_tick_s = 0.0
        wall_s = clock.to_wall_s(1.0)
        self._slice_s = WAKE_WALL_S / wall_s if wall_s > 0 else 1.0  # 0: nobody waits

    def run(self) -> Summary:
        """Run to the end; return what `summary.json` holds too.

        Raises
        ------
        RunError
            The fleet did not appear, vanished or was halted, or the broker was lost for longer
            than `wait_s`. The record is closed and the summary written all the same.
        """
        self._recorder = self._folder.recorder()
        started_s = self._clock.now()
        completed, failure = False, "interrupted"
        try:
            self._write_settings()
            self._link = FleetLink(
                self._config,
                self._epoch,
                self._dispatcher.pi_l,
                transport=self._transport,
                clock=self._clock,
                record=self._recorder,
            )
            try:
                self._link.open(self._config.wait_s)
                self._gather()
                self._steer()
                completed, failure = True, ""
            except _StopRequested:
                failure = "stopped on request"
            finally:
                self._link.close()
        except (RunError, InputError) as error:
            failure = str(error)
            raise
        finally:
            wall_s = self._clock.to_wall_s(self._clock.now() - started_s)
            summary = self._summary(wall_s, completed=completed, error=failure)
            try:
                self._folder.write_summary(summary)
            finally:
                self._recorder.close()
        return summary

    def _write_settings(self) -> None:
        """Leave the effective settings and the policy in the run folder."""
        self._folder.write_config(
            controller=msgspec.to_builtins(self._config),
            run={
                "version": version("kofn"),
                "epoch": self._epoch,
                "game": self._policy.game.name,
                "policy_sha256": self._policy.sha256,
            },
        )
        self._folder.write_policy(self._policy)

    def _receive(self, deadline_s: float) -> None:
        """Take in one message or wait for the deadline, whatever comes first."""
        if self._should_stop():
            raise _StopRequested
        self._link.receive(min(deadline_s - self._clock.now(), self._slice_s))

    def _drain(self) -> None:
        """Take in what has arrived already."""
        for _ in range(BURST_MESSAGES):
            if not self._link.receive(0.0):
                return

    def _gather(self) -> None:
        """Wait until the expected number of robots is in the frame."""
        config, link = self._config, self._link
        deadline_s = self._clock.now() + config.wait_s
        while len(link.frame.ids) < config.robots:
            if self._clock.now() >= deadline_s:
                raise RunError(
                    f"{len(link.frame.ids)} of {config.robots} robots appeared within "
                    f"{config.wait_s:g} s ({link.roster.describe()})"
                )
            self._receive(deadline_s)
            self._drain()  # a fleet announces itself all at once; the frame is computed once then
        self._robots_at_start = len(link.frame.ids)
        log.info("fleet complete robots=%d (%s)", len(link.frame.ids), link.roster.describe())

    def _await_frame(self) -> None:
        """Wait for a frame that is not empty.

        The present step is repeated now and then: hosts that were dropped because their `done` was
        lost say it again, and are back.
        """
        config, link = self._config, self._link
        # Points in time, not differences: what is waited for and what is tested must be one number,
        # or rounding lets a clock that moves only by waiting stand still just before it.
        spacing_s = config.wait_s / EMPTY_FRAME_REPEATS
        give_up_s = self._clock.now() + config.wait_s
        repeat_s = self._clock.now() + spacing_s
        while not link.frame.ids:
            now_s = self._clock.now()
            if now_s >= give_up_s:
                raise RunError(
                    f"no robot could be polled for {config.wait_s:g} s ({link.roster.describe()})"
                )
            if now_s >= repeat_s:
                repeat_s = now_s + spacing_s
                link.repeat_step()
            self._receive(min(repeat_s, give_up_s))

    def _steer(self) -> None:
        """Hold all steps."""
        g, u = self._dispatcher.first_target(), FIRST_ACTION
        self._next_tick_s = self._clock.now()
        for t in range(self._config.steps):
            skipped = 0
            while True:
                self._await_frame()
                skipped += self._await_tick()
                if self._link.frame.ids:  # the last host may have left while the tick was awaited
                    break
            u = self._play(t, g, u, skipped)
            self._dispatcher.predict(g)  # robots move from z(t) to z(t+1) under g(t)
            g = self._dispatcher.next_target(t, g, u)
        self._await_tick()

    def _await_tick(self) -> int:
        """Real time: wait for the next tick of the grid; return how many were overrun.

        In lockstep there is no grid; one that a realtime host would need begins now.
        """
        now_s = self._clock.now()
        if self._link.frame.pace == "lockstep":
            self._next_tick_s = now_s
            return 0
        period_s = self._config.period_s
        overrun = (now_s - self._next_tick_s) / period_s
        skipped = math.ceil(overrun) if overrun > TICK_TOLERANCE else 0
        if skipped:
            log.warning("ticks skipped n=%d", skipped)
        self._next_tick_s += skipped * period_s
        while self._clock.now() < self._next_tick_s:
            self._receive(self._next_tick_s)
        self._next_tick_s += period_s
        return skipped

    def _play(self, t: int, g: int, last_u: int, skipped: int) -> int:
        """Publish step t, poll, decide, wait for lockstep hosts; return u(t)."""
        config, link, frame = self._config, self._link, self._link.frame
        link.announce(frame.pace)
        link.send_step(
            Step(
                ep=self._epoch,
                t=t,
                up=link.up_ms,
                g=g,
                u=last_u,
                ttl=config.step_ttl_ms,
                pol=f"sha256:{link.policy_digest}",
                k=config.k,
                m=self._last_m,
            )
        )
        sent_s = self._clock.now()
        ttl_s = config.poll_ttl(frame.pace)
        order = self._streams.at("sample", t).permutation(len(frame.ids))
        poll_round = PollRound(
            RoundKey(self._epoch, t, self._nonce()),
            permutation=[frame.ids[i] for i in order],
            host_of=frame.host_of,
            k=config.k,
            n_zones=self._policy.game.n_local,
            deadline_s=sent_s + ttl_s,
        )
        self._totals.poll_messages += link.send_polls(poll_round, ttl_s)
        while not poll_round.is_closed(self._clock.now()):
            self._receive(poll_round.deadline_s)
        latency_ms = 1000 * self._clock.to_wall_s(self._clock.now() - sent_s)
        if not poll_round.complete:
            self._drain()  # an answer counts by when it arrived, not by when it is read
        outcome = poll_round.close()
        fresh = len(outcome.zones)
        self._dispatcher.learn(outcome.counts)
        fallback = fresh < config.fresh_needed(len(poll_round.asked))
        if fallback:
            log.warning("fallback t=%d fresh=%d asked=%d", t, fresh, len(poll_round.asked))
        self._last_m = (fresh, 0, 0, 0)
        decision = Decision(
            ep=self._epoch,
            t=t,
            g=g,
            u=last_u if fallback else self._dispatcher.choose(t, g),
            asked=list(poll_round.asked),
            counts=list(outcome.counts),
            belief=list(self._dispatcher.belief),
            m=self._last_m,
            frame=len(frame.ids),
            missing=outcome.missing,
            fallback=fallback,
            latency_ms=latency_ms,
            skipped_ticks=skipped,
            **link.take_refused(),
        )
        self._recorder.write("decision", decision)
        self._recorder.flush()
        self._totals.add(decision, config.k)
        self._progress(decision)
        self._await_done(sent_s)
        return decision.u

    def _await_done(self, sent_s: float) -> None:
        """Lockstep: wait for every host; repeat the step at half of the time-out, then drop."""
        link, timeout_s = self._link, self._config.done_timeout_s
        repeat_s, give_up_s = sent_s + timeout_s / 2, sent_s + timeout_s
        repeated = False
        while link.frame.pace == "lockstep":
            late = link.awaiting & link.frame.lockstep_hosts
            now_s = self._clock.now()
            if not late:
                return
            if now_s >= give_up_s:
                for host in sorted(late):
                    link.drop(host)
                    self._totals.dropped_hosts += 1
                return
            if now_s >= repeat_s and not repeated:
                repeated = True
                link.repeat_step()
            self._receive(give_up_s if repeated else repeat_s)

    def _summary(self, wall_s: float, *, completed: bool, error: str) -> Summary:
        config, totals = self._config, self._totals
        p50_ms, p99_ms = totals.latency_ms([50, 99])
        refused = totals.refused
        if hasattr(self, "_link"):
            refused.update(self._link.take_refused())  # rows after the last decision
        return Summary(
            name=config.name,
            fleet=config.fleet,
            game=self._policy.game.name,
            completed=completed,
            steps=totals.steps,
            k=config.k,
            robots=self._robots_at_start,
            dispatcher=config.dispatcher,
            seed=config.seed,
            epoch=self._epoch,
            policy_sha256=self._policy.sha256,
            polls_sent=totals.polls_sent,
            poll_messages=totals.poll_messages,
            replies_used=totals.replies_used,
            late=refused["late"],
            duplicate=refused["duplicate"],
            conflict=refused["conflict"],
            foreign=refused["foreign"],
            out_of_range=refused["out_of_range"],
            stale=refused["stale"],
            unavailable=refused["unavailable"],
            malformed=refused["malformed"],
            missing=totals.missing,
            fallback_steps=totals.fallback_steps,
            small_frame_steps=totals.small_frame_steps,
            skipped_ticks=totals.skipped_ticks,
            dropped_hosts=totals.dropped_hosts,
            poll_p50_ms=p50_ms,
            poll_p99_ms=p99_ms,
            wall_s=wall_s,
            error=error,
        )
