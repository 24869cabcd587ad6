# SPDX-License-Identifier: MIT
"""Simulated time of polls and rounds: an event clock, no sleeping.

A poll or a round is a heap of events: replies and models that arrive, clients that drop out,
deadlines. The clock knows the true devices; what it returns is what a server would see: who
replied, who arrived and after how long, and what was sent.

- A client that goes offline before its model is back does not arrive; the server notices after
  `NOTICE_S` (a missed heartbeat) and waits no longer for it.
- A poll ends with the last reply or after `timeout_s`. A poll for losses pays the download of the
  model and a forward pass over the samples, `FORWARD` of the cost of training on them.
- A round ends with the deadline, with the `keep`-th arrival, or when nobody is left to wait for.
- Messages have the sizes of Flower's, see `STATUS_QUERY` and `STATUS_REPLY`.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kofn.fed.devices import Fleet
    from kofn.fed.selectors.protocol import PollRequest

#: Seconds after which the server knows that a client went offline.
NOTICE_S = 30.0

#: Bytes of a status query and of a reply, as measured with flwr 1.41.
STATUS_QUERY = 47
STATUS_REPLY = 107

#: A forward pass costs a third of a training step.
FORWARD = 1 / 3


@dataclass(frozen=True, slots=True)
class Task:
    """One client's work: how long it takes when all goes well, s, and the bytes it moves."""

    name: str
    seconds: float
    down: int
    up: int


@dataclass(frozen=True, slots=True)
class Passed:
    """What the server saw of a poll or a round.

    Attributes
    ----------
    arrived : dict of str to float
        Seconds from the beginning to the arrival, in order of arrival, of those that count.
    waited : dict of str to float
        Seconds the server waited for each of the others.
    seconds : float
        Length of the whole.
    down, up : int
        Bytes sent to clients and received from those that arrived.
    """

    arrived: dict[str, float]
    waited: dict[str, float]
    seconds: float
    down: int
    up: int


@dataclass(slots=True)
class EventClock:
    """Simulated seconds since the start of the run, and the fleet that lives in them."""

    fleet: Fleet
    now: float = 0.0
    _events: list[tuple[float, int, str, str]] = field(default_factory=list)

    def online(self) -> list[str]:
        """Return who is online now."""
        return self.fleet.online_at(self.now)

    def wait_for_somebody(self, least: int = 1) -> list[str]:
        """Move on until at least so many clients are online, and return them."""
        names = self.online()
        while len(names) < least:
            times = sorted(
                t for own in self.fleet.online.values() if (t := own.next_on(self.now)) > self.now
            )
            if not times or times[0] == float("inf"):
                raise InputError(
                    f"after {self.now:.0f} s no more than {len(names)} clients are ever online"
                )
            self.now = times[0]
            names = self.online()
        return names

    def poll(
        self,
        request: PollRequest,
        *,
        samples: Mapping[str, int],
        model_bytes: int,
        server_round: int,
        timeout_s: float,
    ) -> Passed:
        """Poll those of the request that are online; nobody else gets a message."""
        tasks = []
        for name in request.clients:
            if not self.fleet.online[name].at(self.now):
                continue
            down, work = STATUS_QUERY, 0.0
            if request.what == "loss":
                down += model_bytes
                own = samples[name]
                work = FORWARD * (own if request.samples is None else min(own, request.samples))
            device = self.fleet.devices[name]
            seconds = device.seconds(down=down, samples=work, up=STATUS_REPLY)
            seconds *= self.fleet.noise(name, "poll", server_round)
            tasks.append(Task(name, seconds, down, STATUS_REPLY))
        return self._pass(tasks, deadline_s=timeout_s, keep=None)

    def train(
        self,
        clients: Sequence[str],
        *,
        samples: Mapping[str, int],
        epochs: Mapping[str, int],
        model_bytes: int,
        server_round: int,
        deadline_s: float | None = None,
        keep: int | None = None,
    ) -> Passed:
        """Let the clients train; time and bytes of each by its samples and epochs."""
        tasks = []
        for name in clients:
            seconds = self.fleet.devices[name].seconds(
                down=model_bytes, samples=samples[name] * epochs[name], up=model_bytes
            ) * self.fleet.noise(name, "train", server_round)
            tasks.append(Task(name, seconds, model_bytes, model_bytes))
        return self._pass(tasks, deadline_s=deadline_s, keep=keep)

    def _happen(self) -> Iterator[tuple[float, str, str]]:
        while self._events:
            at, _, kind, name = heapq.heappop(self._events)
            yield at, kind, name

    def _pass(self, tasks: Sequence[Task], *, deadline_s: float | None, keep: int | None) -> Passed:
        begin = self.now
        self._events = []
        for order, task in enumerate(tasks):
            back = begin + task.seconds
            gone = self.fleet.online[task.name].until(begin)
            # Ties are decided by the order in which the tasks were given.
            event = (back, order, "arrives") if back < gone else (gone + NOTICE_S, order, "lost")
            heapq.heappush(self._events, (*event, task.name))
        if deadline_s is not None:
            # After what arrives at the same moment.
            heapq.heappush(self._events, (begin + deadline_s, len(tasks), "deadline", ""))
        sizes = {task.name: task.up for task in tasks}
        waiting = set(sizes)
        arrived: dict[str, float] = {}
        waited: dict[str, float] = {}
        end = begin
        enough = len(tasks) if keep is None else keep
        for at, kind, name in self._happen():
            if not waiting or len(arrived) >= enough:
                break
            end = at
            if kind == "deadline":
                break
            waiting.discard(name)
            if kind == "arrives":
                arrived[name] = at - begin
            else:
                waited[name] = at - begin
        self._events = []
        waited.update({task.name: end - begin for task in tasks if task.name in waiting})
        self.now = end
        return Passed(
            arrived,
            waited,
            end - begin,
            sum(task.down for task in tasks),
            sum(sizes[name] for name in arrived),
        )
