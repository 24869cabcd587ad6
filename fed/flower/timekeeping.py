# SPDX-License-Identifier: MIT
"""What time a round takes: as the server measures it, or as the event clock simulates it.

Both return `kofn.fed.clock.Passed`, so selectors see durations of one kind and never the devices.
Simulated clients know of their whole round, transport included; measured ones know of their work,
and what messages take comes on top (`Patience`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from kofn.fed.clock import Passed
from kofn.fed.flower.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kofn.fed.clock import EventClock
    from kofn.fed.flower.collecting import Clock
    from kofn.fed.selectors import PollRequest, Selection


class Timekeeper(Protocol):
    """Decides who is online, who arrived, and when."""

    def now(self) -> float:
        """Return the time since the start of the run, s."""

    @property
    def simulated(self) -> bool:
        """Whether deadlines are kept in simulated time, not by waiting."""

    @property
    def grace_s(self) -> float:
        """What messages are granted on top of a deadline, s; 0 in simulated time."""

    def deadline_s(self, own_s: float) -> float:
        """Return when a round is to end whose clients have `own_s` themselves, s."""

    def online(self, names: Sequence[str]) -> list[str]:
        """Return those of the named clients that are online."""

    def poll(
        self, request: PollRequest, seen: Passed, *, server_round: int, model_bytes: int
    ) -> Passed:
        """Return how the poll of `request.clients` went; `seen` is what really came."""

    def train(
        self,
        selection: Selection,
        seen: Passed,
        *,
        epochs: Mapping[str, int],
        server_round: int,
        model_bytes: int,
    ) -> Passed:
        """Return how the training of `selection.clients` went; `seen` is what really came."""


class Measured:
    """What the server saw is what counts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self._patience = Patience()

    @property
    def simulated(self) -> bool:
        """Deadlines are kept by waiting."""
        return False

    @property
    def grace_s(self) -> float:
        """Return what messages usually take at most, s."""
        return self._patience.grace_s

    def deadline_s(self, own_s: float) -> float:
        """Return the deadline with what messages take."""
        return self._patience.deadline_s(own_s)

    def now(self) -> float:
        """Return the time since this was made, s."""
        return self._clock.monotonic() - self._start

    def online(self, names: Sequence[str]) -> list[str]:
        """Return all: Flower says who is online."""
        return list(names)

    def poll(
        self, request: PollRequest, seen: Passed, *, server_round: int, model_bytes: int
    ) -> Passed:
        """Return what was seen; replies that cost no work tell what a message takes."""
        del server_round, model_bytes
        if request.what != "loss":
            for seconds in seen.arrived.values():
                self._patience.took(seconds)
        return seen

    def train(
        self,
        selection: Selection,
        seen: Passed,
        *,
        epochs: Mapping[str, int],
        server_round: int,
        model_bytes: int,
    ) -> Passed:
        """Return what was seen; beyond `keep`, what came last does not count."""
        del epochs, server_round, model_bytes
        if selection.deadline_s is not None:
            self._patience.ended(selection.deadline_s, min(seen.arrived.values(), default=None))
        if selection.keep is None or len(seen.arrived) <= selection.keep:
            return seen
        in_time = sorted(seen.arrived.items(), key=lambda pair: (pair[1], pair[0]))
        rest = dict(in_time[selection.keep :])
        return replace(
            seen, arrived=dict(in_time[: selection.keep]), waited={**seen.waited, **rest}
        )


class Simulated:
    """The event clock decides.

    Parameters
    ----------
    clock : EventClock
        With the devices of all clients.
    samples : mapping of str to int
        Training samples of each, by name.
    poll_timeout_s, round_timeout_s : float
        Simulated time that polled clients have to answer, and chosen ones to train, s.
    """

    def __init__(
        self,
        clock: EventClock,
        samples: Mapping[str, int],
        *,
        poll_timeout_s: float = 60.0,
        round_timeout_s: float = 3600.0,
    ) -> None:
        self.clock = clock
        self._samples = samples
        self._poll_timeout_s = poll_timeout_s
        self._round_timeout_s = round_timeout_s

    @property
    def simulated(self) -> bool:
        """Deadlines pass in simulated time."""
        return True

    @property
    def grace_s(self) -> float:
        """Return 0: what clients believe of themselves includes their messages."""
        return 0.0

    def deadline_s(self, own_s: float) -> float:
        """Return the deadline as it is."""
        return own_s

    def now(self) -> float:
        """Return the simulated time, s."""
        return self.clock.now

    def online(self, names: Sequence[str]) -> list[str]:
        """Return who is online now; time moves on until somebody is."""
        here = set(self.clock.wait_for_somebody())
        return [name for name in names if name in here]

    def poll(
        self, request: PollRequest, seen: Passed, *, server_round: int, model_bytes: int
    ) -> Passed:
        """Return how it went in simulated time."""
        del seen
        return self.clock.poll(
            request,
            samples=self._samples,
            model_bytes=model_bytes,
            server_round=server_round,
            timeout_s=self._poll_timeout_s,
        )

    def train(
        self,
        selection: Selection,
        seen: Passed,
        *,
        epochs: Mapping[str, int],
        server_round: int,
        model_bytes: int,
    ) -> Passed:
        """Return how it went in simulated time."""
        del seen
        limit = self._round_timeout_s
        return self.clock.train(
            selection.clients,
            samples=self._samples,
            epochs=epochs,
            model_bytes=model_bytes,
            server_round=server_round,
            deadline_s=min(selection.deadline_s or limit, limit),
            keep=selection.keep,
        )


def seen(
    names: Sequence[str], came: Mapping[str, float], took: float, *, down: int, up: int
) -> Passed:
    """Return what a server saw that waited `took` seconds for the named clients."""
    arrived = dict(sorted(came.items(), key=lambda pair: (pair[1], pair[0])))
    waited = {name: took for name in names if name not in arrived}
    return Passed(arrived, waited, took, down, up)
