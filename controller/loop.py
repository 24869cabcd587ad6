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
import secrets
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.desk import Desk
from kofn.controller.dispatch import FIRST_ACTION, Dispatcher
from kofn.controller.estimate import Estimator
from kofn.controller.fleet_link import FleetLink
from kofn.controller.intake import HaltError
from kofn.controller.link.allow_list import AllowList
from kofn.controller.link.audit import some
from kofn.controller.link.clock import Clock
from kofn.controller.link.limits import Limits
from kofn.controller.link.messages import Halt
from kofn.controller.link.transport import Transport
from kofn.controller.metrics import Metrics
from kofn.controller.order_box import OrderBox
from kofn.controller.playing import Player
from kofn.controller.record import Recorder, RunFolder
from kofn.controller.results import Checkpoint, Decision, Summary, Totals
from kofn.controller.waiting import StopRequested, Waiter

log = logging.getLogger(__name__)

ORDERS_WALL_S = 0.2
"""How often to look for orders of the operator, wall seconds."""


class Staged(NamedTuple):
    """A policy that is on its way to the hosts."""

    policy: Policy
    dispatcher: Dispatcher
    digest: str
    give_up_s: float


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
    resume_from
        Continue a run that was cut off (`resume.read_checkpoint`), into a new folder. `config` and
        `policy` must be those of that run (`resume.read_settings`).
    allow_list
        Which host may speak for which robots; None lets each speak for whom it names first.
    limits
        How much one host may say; None: what an honest host needs (`fleet_link.host_limits`).
    at_start
        Called once the fleet is there, before the first step.
    metrics
        Told of every step.

    Raises
    ------
    InputError
        The policy cannot steer a live fleet, the run cannot be continued with these settings, or
        the allow-list is another fleet's.
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
        resume_from: Checkpoint | None = None,
        allow_list: AllowList | None = None,
        limits: Limits | None = None,
        at_start: Callable[[], None] = lambda: None,
        metrics: Metrics | None = None,
    ) -> None:
        if resume_from is not None:
            check_resume(resume_from, config, policy, epoch)
        if allow_list is not None:
            check_allow_list(allow_list, config)
        self._allow_list = allow_list
        self._limits = limits
        self._at_start = at_start
        self._metrics = metrics
        self._echo_ms: float | None = None
        self._staged: Staged | None = None
        self._config = config
        self._policy = policy
        self._transport = transport
        self._clock = clock
        self._folder = folder
        self._epoch = epoch
        self._progress = progress or (lambda _: None)
        self._should_stop = should_stop or (lambda: False)
        self._nonce = nonce
        self._resume_from = resume_from
        self._first_step = 0 if resume_from is None else resume_from.t + 1
        self._dispatcher = Dispatcher(config, policy)
        self._estimator = Estimator(config, self._dispatcher.kernels, step=self._first_step)
        self._totals = Totals()
        self._robots_at_start = 0

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
            self._prepare()
            try:
                for decision in self._steps():
                    self._progress(decision)
                completed, failure = True, ""
            except StopRequested:
                failure = "stopped on request"
            except HaltError as halted:
                silent = self._link.spread_halt(halted.halt)
                named = f"; no answer from {some(silent)}" if silent else ""
                raise RunError(f"{halted}{named}") from halted
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

    def _prepare(self) -> None:
        """Leave settings, policy and starting point in the run folder; make the link."""
        resumed = self._resume_from
        self._folder.write_config(controller=msgspec.to_builtins(self._config))
        self._write_policy()
        if resumed is not None:
            self._recorder.write("checkpoint", resumed)
            self._recorder.flush()
        self._link = FleetLink(
            self._config,
            self._epoch,
            self._dispatcher.pi_l,
            transport=self._transport,
            clock=self._clock,
            record=self._recorder,
            allow_list=self._allow_list,
            limits=self._limits,
        )

    def _steps(self) -> Iterator[Decision]:
        """Connect, wait for the fleet, hold all steps; yield each decision once it is on record."""
        self._link.open(self._config.wait_s)
        wall_of_one_s = self._clock.to_wall_s(1.0)
        desk = Desk(
            OrderBox(self._folder.path),
            self._link,
            self._clock,
            ORDERS_WALL_S / wall_of_one_s if wall_of_one_s > 0 else ORDERS_WALL_S,
            halt=self._halt,
            policy=self._change_policy,
        )
        waiter = Waiter(self._config, self._link, self._clock, self._should_stop, desk.look)
        player = Player(
            self._config,
            self._epoch,
            dispatcher=self._dispatcher,
            estimator=self._estimator,
            link=self._link,
            waiter=waiter,
            clock=self._clock,
            nonce=self._nonce,
            totals=self._totals,
            last_m=(0, 0, 0, 0) if self._resume_from is None else self._resume_from.m,
        )
        self._robots_at_start = waiter.gather(self._robots_to_start())
        g, u = self._start()
        self._at_start()
        self._echo_ms = self._link.measure_echo()
        if self._metrics is not None and self._echo_ms is not None:
            self._metrics.set_echo(self._echo_ms)
        noted_s = self._clock.now()
        for t in range(self._first_step, self._config.steps):
            skipped = waiter.next_step()
            self._switch(player, t)
            decision = player.play(t, g, u, skipped)
            self._recorder.write("decision", decision)
            self._recorder.flush()
            self._totals.add(decision, self._config.k)
            if self._metrics is not None:
                since_s = self._clock.now() - noted_s
                noted_s += since_s
                self._metrics.add(
                    decision,
                    self._config.k,
                    self._link.state,
                    self._clock.to_wall_s(since_s),
                    self._totals.dropped_hosts,
                )
            yield decision
            self._totals.dropped_hosts += waiter.done(player.sent_s)
            u = decision.u
            self._dispatcher.predict(g)  # robots move from z(t) to z(t+1) under g(t)
            self._estimator.advance(g)
            g = self._dispatcher.next_target(t, g, u)
        waiter.tick()

    def _halt(self, why: str) -> None:
        """Order of the operator: no motion any more in this epoch."""
        raise HaltError(Halt(ep=self._epoch, by="operator", why=why))

    def change_policy(self, policy: Policy) -> str:
        """Begin to go over to another policy; return the hash (hex) of its local part.

        Its local policy is given to the hosts. At the first step boundary at which all hosts of
        the frame hold it, decisions and steps go over to it together. Hosts that do not hold it
        after `wait_s` are out of the frame then; where no host does, the run stays as it is.

        Raises
        ------
        InputError
            A policy for other spaces than those of this run.
        """
        ours, theirs = self._policy.game, policy.game
        shapes = [(g.P_g.shape, g.P_l.shape) for g in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the policy is for a game of shape {shapes[1]}, this run plays one of {shapes[0]}"
            )
        dispatcher = Dispatcher(self._config, policy)
        digest = self._link.stage_policy(dispatcher.pi_l)
        give_up_s = self._clock.now() + self._config.wait_s
        self._staged = Staged(policy, dispatcher, digest, give_up_s)
        log.info("policy staged sha256=%s local=%s", policy.sha256, digest)
        return digest

    def _change_policy(self, file: str) -> str:
        """Order of the operator."""
        digest = self.change_policy(Policy.load(Path(file)))
        return (
            f"policy {digest[:12]} is given to the hosts; the next step that all hold it takes it"
        )

    def _switch(self, player: Player, t: int) -> None:
        """Before step t: go over to the staged policy if it is time."""
        staged = self._staged
        if staged is None:
            return
        lacking = self._link.lacking(staged.digest)
        if lacking and self._clock.now() < staged.give_up_s:
            return
        self._staged = None
        if lacking and lacking == frozenset(self._link.frame.paces):
            self._link.drop_staged()
            log.error("policy refused sha256=%s: no host holds it", staged.policy.sha256)
            return
        if lacking:
            log.warning("policy lacking hosts=%s: out of the frame", some(sorted(lacking)))
        self._link.switch_policy()
        staged.dispatcher.restore(self._dispatcher.belief.tolist())
        self._dispatcher, self._policy = staged.dispatcher, staged.policy
        self._estimator.change_kernels(self._dispatcher.kernels)
        player.change_dispatcher(self._dispatcher)
        self._write_policy()
        log.info("policy switched t=%d sha256=%s", t, self._policy.sha256)

    def _write_policy(self) -> None:
        """Leave the policy in the run folder, so that a resumed run goes on with it."""
        resumed = self._resume_from
        self._folder.write_config(
            run={
                "version": version("kofn"),
                "epoch": self._epoch,
                "game": self._policy.game.name,
                "policy_sha256": self._policy.sha256,
                "resumed_from": None if resumed is None else resumed.run,
            },
        )
        self._folder.write_policy(self._policy)

    def _robots_to_start(self) -> int:
        """How many robots to wait for: a fleet that had shrunk before the cut is not whole now."""
        expected = self._config.robots
        resumed = self._resume_from
        return expected if resumed is None else max(1, min(expected, resumed.frame))

    def _start(self) -> tuple[int, int]:
        """Target of the first step, and the action that led to it."""
        resumed = self._resume_from
        if resumed is None:
            return self._dispatcher.first_target(), FIRST_ACTION
        log.info("resumed run=%s step=%d belief=%s", resumed.run, resumed.t + 1, resumed.belief)
        g = self._dispatcher.next_target(resumed.t, resumed.g, resumed.u)
        self._dispatcher.restore(resumed.belief)
        self._dispatcher.predict(resumed.g)
        for _ in range(resumed.repeats):  # the step to be repeated has moved the robots already
            self._dispatcher.predict(g)
        return g, resumed.u

    def _summary(self, wall_s: float, *, completed: bool, error: str) -> Summary:
        config, totals, watch = self._config, self._totals, self._estimator.watch
        refused, quarantined_hosts = totals.refused, 0
        if hasattr(self, "_link"):
            refused.update(self._link.take_refused())  # rows after the last decision
            quarantined_hosts = self._link.quarantines
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
            poll_p50_ms=totals.latency_ms(50),
            poll_p99_ms=totals.latency_ms(99),
            wall_s=wall_s,
            error=error,
            first_step=self._first_step,
            resumed_from="" if self._resume_from is None else self._resume_from.run,
            polls_instead=totals.polls_instead,
            topped_up=totals.topped_up,
            remembered=totals.remembered,
            padded=totals.padded,
            surplus=totals.surplus,
            degraded_steps=totals.degraded_steps,
            late_p50_ms=totals.late_ms(50),
            late_max_ms=totals.late_ms(100),
            answer_rate=watch.rates,
            answer_asked=watch.asked,
            loss_p_value=watch.p_value,
            loss_depends_on_state=watch.alarm,
            unlisted=refused["unlisted"],
            overflow=refused["overflow"],
            quarantined=refused["quarantined"],
            quarantined_hosts=quarantined_hosts,
            echo_ms=self._echo_ms,
        )


def check_allow_list(allow_list: AllowList, config: ControllerConfig) -> None:
    """Raise `InputError` when this fleet cannot be the one that the allow-list describes."""
    if allow_list.fleet != config.fleet:
        raise InputError(
            f"the allow-list is that of fleet {allow_list.fleet!r}, not of {config.fleet!r}"
        )


def check_resume(
    checkpoint: Checkpoint, config: ControllerConfig, policy: Policy, epoch: int
) -> None:
    """Raise `InputError` when a run would be continued as another one."""
    run = checkpoint.run
    if policy.sha256 != checkpoint.policy_sha256:
        raise InputError(
            f"run {run} was steered by policy {checkpoint.policy_sha256}, not by {policy.sha256}"
        )
    if config.seed != checkpoint.seed:
        raise InputError(f"run {run} has seed {checkpoint.seed}, not {config.seed}")
    if checkpoint.t + 1 >= config.steps:
        raise InputError(f"run {run} has made all its {config.steps} steps")
    if epoch <= checkpoint.ep:
        raise InputError(
            f"epoch {epoch} is not above {checkpoint.ep}, that of run {run}: robots would not obey "
            "(is this the epoch counter of that run?)"
        )
