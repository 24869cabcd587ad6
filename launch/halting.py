# SPDX-License-Identifier: MIT
"""Halting a fleet from outside: which epoch a halt must name, whom it must reach, when it is over.

A halt forbids motion up to its epoch, so one that is too low stops nobody who comes later. The
epoch in force is known from the controller's presence, which a broker that was just restarted does
not have yet, or from a host that answers that a halt is too low. Until one of them has spoken, the
halt names one epoch more than every halt before it (new to all, so that robots that hear it live
stop) and nobody's answer ends the wait.

Pure: messages and times in, messages out.
"""

import re

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import Conn, Ctl, Event, Halt, decode, encode
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Outbound

FIRST_S = 0.3
"""What the broker keeps comes within this time, seconds."""
REPEAT_S = 0.5
ANSWER_S = 3.0
"""How long hosts may take to answer once the epoch is known, seconds."""
UNKNOWN_S = 6.0
"""How long the epoch in force is waited for: clients come back to a broker within some seconds."""
SETTLE_S = 0.2
"""After the first halt, until all that are there are known, seconds."""

_IN_FORCE = re.compile(r"epoch (\d{1,15}) is in force")


class Halting:
    """One halt of a fleet.

    Parameters
    ----------
    topics
        Of the fleet.
    why
        Reason, for the record.
    now_s
        When it begins, any clock in seconds.
    """

    def __init__(self, topics: Topics, why: str, now_s: float) -> None:
        self.epoch = -1
        """Up to which motion is forbidden; -1 until the first halt is out."""
        self.sure = False
        """Whether that is known to be the epoch in force."""
        self.answered: set[str] = set()
        """Hosts that said that they heard a halt of this epoch."""
        self._topics, self._why = topics, why[:200]
        self._halted = -1
        self._begun = False
        self._online: set[str] = set()
        self._next_s = now_s + FIRST_S
        self._settled_s = self._next_s + SETTLE_S
        self._end_s = now_s + UNKNOWN_S

    @property
    def silent(self) -> set[str]:
        """Hosts that are online and have not answered."""
        return self._online - self.answered

    def take(self, message: Inbound, now_s: float) -> None:
        """Take what came; whatever its payload, it raises nothing."""
        address = self._topics.parse(message.topic)
        if address is None or not message.payload:
            return
        try:
            if address.kind == "ctl":
                self._know(decode(Ctl, message.payload).ep, now_s)
            elif address.kind == "halt":
                self._halted = max(self._halted, decode(Halt, message.payload).ep)
            elif address.kind == "conn":
                here = decode(Conn, message.payload).st == "ONLINE"
                (self._online.add if here else self._online.discard)(address.name)
            elif address.kind == "evt":
                self._hear(address.name, decode(Event, message.payload), now_s)
        except InputError:
            return

    def _hear(self, host: str, event: Event, now_s: float) -> None:
        if event.code == "halted" and event.text.startswith(f"halt of epoch {self.epoch} "):
            self.answered.add(host)
        elif event.code == "halt_low" and (said := _IN_FORCE.match(event.text)):
            self._know(int(said[1]), now_s)

    def _know(self, epoch: int, now_s: float) -> None:
        """Name an epoch that somebody obeys, from now on; answers to a lower halt are void."""
        if not self.sure:
            self._end_s = max(now_s, self._settled_s) + ANSWER_S
        self.sure = True
        if epoch > self.epoch:
            self.epoch = epoch
            self.answered.clear()
            if self._begun:  # at once: a lower one is out already
                self._next_s = now_s

    def due(self, now_s: float) -> Outbound | None:
        """Return the halt when it is time to say it, again."""
        if now_s < self._next_s:
            return None
        self._next_s = now_s + REPEAT_S
        self._begun = True
        if self.epoch < 0:
            self.epoch = self._halted + 1
        halt = Halt(ep=self.epoch, by="operator", why=self._why)
        return Outbound(self._topics.halt, encode(halt), 1, True)

    def over(self, now_s: float) -> bool:
        """Whether all online have answered a halt of the epoch in force, or time is up."""
        if now_s >= self._end_s:
            return True
        settled = now_s > self._settled_s
        return self.sure and settled and bool(self._online) and not self.silent
