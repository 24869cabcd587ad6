# SPDX-License-Identifier: MIT
"""Everything that the control loop waits for: messages, the fleet, the next tick, `done`.

One thread: a wait is a call of `Transport.receive` with a deadline. Deadlines are points in time,
not differences: what is waited for and what is tested must be one number, or rounding lets a clock
that moves only by waiting stand still just before it.
"""

import logging
import math
from collections.abc import Callable

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import RunError
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import Clock

log = logging.getLogger(__name__)

WAKE_WALL_S = 0.2
"""At least so often (seconds of the operating system) the loop looks whether it should stop."""

BURST_MESSAGES = 1000
"""Most messages taken in a row without a look at anything else."""

EMPTY_FRAME_REPEATS = 8
"""How often a step is repeated while the frame is empty, before the run is given up."""

TICK_TOLERANCE = 0.05
"""Real time: a tick reached late by less than this part of a period is not an overrun."""


class StopRequested(Exception):  # noqa: N818  not an error: the way out of a wait
    """`should_stop` said so."""


class Waiter:
    """Waits on behalf of a control loop.

    Parameters
    ----------
    config
        Settings of the run.
    link
        Where messages come from.
    clock
        Fleet seconds.
    should_stop
        Asked several times a second; True raises `StopRequested`.
    on_turn
        Called as often, for whatever else there is to do.
    """

    def __init__(
        self,
        config: ControllerConfig,
        link: FleetLink,
        clock: Clock,
        should_stop: Callable[[], bool],
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._link = link
        self._clock = clock
        self._should_stop = should_stop
        self._on_turn = on_turn
        self._next_tick_s = clock.now()
        wall_s = clock.to_wall_s(1.0)
        self._slice_s = WAKE_WALL_S / wall_s if wall_s > 0 else 1.0  # 0: nobody waits

    def receive(self, deadline_s: float) -> None:
        """Take in one message or wait for the deadline, whatever comes first."""
        if self._should_stop():
            raise StopRequested
        self._on_turn()
        self._link.receive(min(deadline_s - self._clock.now(), self._slice_s))

    def drain(self) -> None:
        """Take in what has arrived already."""
        for _ in range(BURST_MESSAGES):
            if not self._link.receive(0.0):
                return

    def gather(self, robots: int) -> int:
        """Wait until `robots` robots are in the frame; return how many are."""
        wait_s, link = self._config.wait_s, self._link
        deadline_s = self._clock.now() + wait_s
        while len(link.frame.ids) < robots:
            if self._clock.now() >= deadline_s:
                raise RunError(
                    f"{len(link.frame.ids)} of {robots} robots appeared within "
                    f"{wait_s:g} s ({link.roster.describe()})"
                )
            self.receive(deadline_s)
            self.drain()  # a fleet announces itself all at once; the frame is computed once then
        self._next_tick_s = self._clock.now()
        log.info("fleet complete robots=%d (%s)", len(link.frame.ids), link.roster.describe())
        return len(link.frame.ids)

    def next_step(self) -> int:
        """Wait until the next step is due and somebody is there; return the ticks skipped."""
        skipped = 0
        while True:
            self._await_frame()
            skipped += self.tick()
            if self._link.frame.ids:  # the last host may have left while the tick was awaited
                return skipped

    def _await_frame(self) -> None:
        """Wait for a frame that is not empty.

        The present step is repeated now and then: hosts that were dropped because their `done` was
        lost say it again, and are back.
        """
        wait_s, link = self._config.wait_s, self._link
        spacing_s = wait_s / EMPTY_FRAME_REPEATS
        give_up_s = self._clock.now() + wait_s
        repeat_s = self._clock.now() + spacing_s
        while not link.frame.ids:
            now_s = self._clock.now()
            if link.roster.held:
                give_up_s = now_s + wait_s  # the operator has stopped the fleet, and may go on
            if now_s >= give_up_s:
                raise RunError(
                    f"no robot could be polled for {wait_s:g} s ({link.roster.describe()})"
                )
            if now_s >= repeat_s:
                repeat_s = now_s + spacing_s
                link.repeat_step()
            self.receive(min(repeat_s, give_up_s))

    def tick(self) -> int:
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
            self.receive(self._next_tick_s)
        self._next_tick_s += period_s
        return skipped

    def done(self, sent_s: float) -> int:
        """Lockstep: wait until every host is done with the step that was sent at `sent_s`.

        The step is repeated at half of the time-out; who is silent at its end is dropped. Returns
        how many were.
        """
        link, timeout_s = self._link, self._config.done_timeout_s
        repeat_s, give_up_s = sent_s + timeout_s / 2, sent_s + timeout_s
        repeated = False
        while link.frame.pace == "lockstep":
            late = link.awaiting & link.frame.lockstep_hosts
            now_s = self._clock.now()
            if not late:
                return 0
            if now_s >= give_up_s:
                for host in sorted(late):
                    link.drop(host)
                return len(late)
            if now_s >= repeat_s and not repeated:
                repeated = True
                link.repeat_step()
            self.receive(give_up_s if repeated else repeat_s)
        return 0
