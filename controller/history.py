# SPDX-License-Identifier: MIT
"""Read a run record against the protocol: what it must never show, whatever happened to the run.

| rule | why |
|---|---|
| epochs never fall, and t strictly rises within one | robots obey only what is newer |
| a step is decided at most once, after it went out | a decision is of that step's answers |
| one nonce a step, and a robot is polled at most once | nobody answers before being asked |
| robots that a decision says it asked were polled | the sample is the one on record |
| counted zones are rows of robots polled, by their host | no forged or foreign state decides |
| no more than k entries; fresh and topped up are the counts | information is never overstated |
| no step between a halt and a higher epoch | a halt forbids motion |

Records are read in the order in which they were written, and may end anywhere.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kofn.controller.link.messages import Flag, Halt, Poll, Reply, Step
from kofn.controller.record import Entry, read_run
from kofn.controller.results import Decision


def check_run(folder: Path) -> list[str]:
    """Return what is wrong with the record of a run, one sentence each; empty when nothing is.

    Raises
    ------
    InputError
        No record, or one that cannot be read.
    """
    return check_history(read_run(folder))


def check_history(entries: Iterable[Entry]) -> list[str]:
    """Return what is wrong with these records, in their order."""
    history = _History()
    for entry in entries:
        history.take(entry)
    return history.wrong


class _History:
    """Everything that the rules need to remember: the open step, and the highest halt."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._step: Step | None = None
        self._decided = False
        self._halted = -1
        self._nonce = ""
        self._host_of: dict[str, str] = {}
        self._zone_of: dict[str, int] = {}

    def take(self, entry: Entry) -> None:
        message = entry.message
        if isinstance(message, Step):
            self._on_step(message)
        elif isinstance(message, Poll):
            self._on_poll(message, entry.host)
        elif isinstance(message, Reply):
            self._on_reply(message, entry.host)
        elif isinstance(message, Decision):
            self._on_decision(message)
        elif isinstance(message, Halt):
            self._halted = max(self._halted, message.ep)

    def _on_step(self, step: Step) -> None:
        before = self._step
        if before is not None and (step.ep, step.t) <= (before.ep, before.t):
            self._say(step, f"came after step {before.t} of epoch {before.ep}")
        if step.ep <= self._halted:
            self._say(step, f"went out although epochs up to {self._halted} were halted")
        self._step, self._decided, self._nonce = step, False, ""
        self._host_of, self._zone_of = {}, {}

    def _on_poll(self, poll: Poll, host: str) -> None:
        if not self._is_open(poll):
            self._say(poll, f"was polled on {host} without being the step on its way")
            return
        if self._nonce not in ("", poll.q):
            self._say(poll, f"was polled with nonces {self._nonce} and {poll.q}")
        self._nonce = poll.q
        for robot in poll.ids:
            if robot in self._host_of:
                self._say(poll, f"polled robot {robot} twice")
            self._host_of[robot] = host

    def _on_reply(self, reply: Reply, host: str) -> None:
        """Keep what may count: what does not is on record too, as refused."""
        if not self._is_open(reply) or reply.q != self._nonce:
            return
        for row in reply.r:
            if self._host_of.get(row.id) == host and row.flag is Flag.OK and row.z is not None:
                self._zone_of.setdefault(row.id, row.z)

    def _on_decision(self, decision: Decision) -> None:
        step = self._step
        if step is None or not self._is_open(decision) or self._decided:
            self._say(decision, "was decided twice, or without having gone out")
            return
        self._decided = True
        if decision.g != step.g:
            self._say(decision, f"went out for target {step.g}, was decided for {decision.g}")
        asked = {*decision.asked, *decision.asked_instead}
        unpolled = asked - self._host_of.keys()
        if unpolled:
            self._say(decision, f"counts robots as asked that were not: {sorted(unpolled)[:5]}")
        given = Counter(zone for robot, zone in self._zone_of.items() if robot in asked)
        for zone, count in enumerate(decision.counts):
            if count > given[zone]:
                self._say(
                    decision, f"counts {count} in zone {zone}, polled robots gave {given[zone]}"
                )
        fresh, topped_up, _, _ = decision.m
        if sum(decision.counts) != fresh + topped_up:
            self._say(
                decision, f"counts {sum(decision.counts)} answers, says {fresh} + {topped_up}"
            )
        if sum(decision.m) > step.k:
            self._say(decision, f"was decided from {sum(decision.m)} entries, k is {step.k}")

    def _is_open(self, message: Poll | Reply | Decision) -> bool:
        step = self._step
        return step is not None and (message.ep, message.t) == (step.ep, step.t)

    def _say(self, message: Step | Poll | Decision, what: str) -> None:
        self.wrong.append(f"step {message.t} of epoch {message.ep} {what}")
