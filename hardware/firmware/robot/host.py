# SPDX-License-Identifier: MIT
"""Which steps one robot obeys, what it latches, how it answers: `host_core.HostCore` for n = 1.

The rules are those of `hardware/host_core.py`, in real time; see the table there. No I/O, no clock:
times are handed in, integer milliseconds.
"""

from robot.shelf import uniform
from robot.wire import OK, STALE, UNAVAILABLE, UNKNOWN

TAKE, REPEAT, HOLD, DROP = "take", "repeat", "hold", "drop"
LATENESS_WINDOW = 600000


class Host:
    """State between messages. `latch` = (ep, t, g, z, a, z_prev, a_prev, at) or None."""

    def __init__(self, host, boot, robot, shelf, n_targets, hold, seed, ep=-1, halt_ep=-1):
        self.host, self.boot, self.robot, self.shelf = host, boot, robot, shelf
        self.latch = None
        self.refusal = None
        self.halt_ep = halt_ep
        self.highest_ep = ep
        self.counters = {}
        self._n_targets, self._hold, self._seed = n_targets, hold, seed
        self._ordered_ep = -1
        self.left = False  # LEAVE was obeyed: no step is taken until the board is started again
        self._acks = []
        self._ctl = None
        self._parked = None
        self._whole = False
        self._offset = None
        self._offset_at = 0
        self._offset_ep = -1
        self.ttl_at = None
        self.silence_at = None

    def count(self, code):
        self.counters[code] = self.counters.get(code, 0) + 1

    def see_ctl(self, ctl):
        """Epoch, hold time and beat; True when the robot must stop: the controller is lost."""
        if ctl.ep < self.highest_ep:
            self.count("ctl_old_epoch")
            return False
        if self._ctl is not None and self._ctl.b == ctl.b and ctl.c < self._ctl.c:
            self.count("ctl_late_will")
            return False
        self._ctl = ctl
        self.highest_ep = ctl.ep
        self._hold = ctl.hold or 3 * ctl.period or self._hold
        if ctl.st != "CONNECTION_BROKEN":
            return False
        self.count("controller_lost")
        self.stop("the controller's connection broke")
        return True

    @property
    def beat(self):
        """Milliseconds between two signs of life that the controller promised; 0 is none."""
        return self._ctl.beat if self._ctl is not None and self._ctl.st == "ONLINE" else 0

    def see_halt(self, halt):
        """Latch a halt; True when the robot must stop now."""
        self.count("halt")
        self.halt_ep = max(self.halt_ep, halt.ep)
        acting = self.latch[0] if self.latch else self.highest_ep
        if acting > self.halt_ep:
            return False
        self.stop("halt of epoch %d" % self.halt_ep)
        return True

    def see_command(self, cmd):
        """Obey a command once; (ok, why, must stop now)."""
        for known, ok, why in self._acks:
            if known == cmd.id:
                self.count("cmd_repeated")
                return ok, why, False
        why = "" if cmd.ep >= self.highest_ep else "epoch %d is over" % cmd.ep
        if self.left and cmd.op != "LEAVE" and not why:
            why = "this host has left and must be started again"
        ok = not why
        if ok:
            self._ordered_ep = -1 if cmd.op == "RESUME" else cmd.ep
            self.left = cmd.op == "LEAVE"
        self.count("cmd_" + cmd.op.lower())
        self._acks.append((cmd.id, ok, why))
        if len(self._acks) > 16:
            self._acks.pop(0)
        stops = ok and cmd.op != "RESUME"
        if stops:
            self.stop("command " + cmd.op)
        return ok, why, stops

    def judge(self, step, received, now):
        """(verdict, code, text) of a live step."""
        if step.ep < self.highest_ep:
            text = "step of epoch %d, but %d was here" % (step.ep, self.highest_ep)
            return self._counted(DROP, "step_old_epoch", text)
        self.highest_ep = step.ep
        latch = self.latch
        if latch and (step.ep, step.t) <= (latch[0], latch[1]):
            if (step.ep, step.t) == (latch[0], latch[1]):
                return self._counted(REPEAT, "step_repeated")
            return self._counted(DROP, "step_stale")
        if now >= received + step.ttl or self._lateness(step, received) > step.ttl:
            return self._counted(DROP, "step_expired")
        forbidden = max(self.halt_ep, self._ordered_ep)
        if self.left:
            text, code = "this host has left the fleet", "step_left"
        elif step.ep <= forbidden:
            text, code = "motion is forbidden up to epoch %d" % forbidden, "step_halted"
        elif self.shelf.objection(step.pol):
            text, code = self.shelf.objection(step.pol), "step_policy"
        elif not 0 <= step.g < self._n_targets:
            text, code = "target %d is not below %d" % (step.g, self._n_targets), "step_target"
        else:
            return TAKE, "steps_taken", ""
        self.stop(text)
        return self._counted(HOLD, code, text)

    def take(self, step, z, received, now):
        """Latch zone z (-1 unavailable), draw the action; return it and the replies that waited."""
        a = -1
        if z >= 0:
            x = uniform(self._seed, self.host, step.t)
            a = self.shelf.draw(step.pol, step.g, z, x)
        z_prev = a_prev = -1
        old = self.latch
        if old and (old[0], old[1] + 1) == (step.ep, step.t) and self._whole:
            if old[3] >= 0 and old[4] >= 0 and z >= 0:
                z_prev, a_prev = old[3], old[4]
        self.latch = (step.ep, step.t, step.g, z, a, z_prev, a_prev, now)
        self.refusal = None
        self._whole = True
        self.ttl_at = received + step.ttl
        self.silence_at = received + self._hold
        self.count("steps_taken")
        parked = self._parked
        if parked is None or (parked[0].ep, parked[0].t) > (step.ep, step.t):
            return a, []
        self._parked = None
        return a, self.answer(parked[0], now)

    def answer(self, poll, now):
        """Replies (lists of fields) to a live poll; empty when it is dropped or parked."""
        if poll.ep < self.highest_ep:
            self.count("poll_old_epoch")
            return []
        latch = self.latch
        if self.refusal is not None or latch is None:
            self.count("polls_unavailable")
            return [self._reply(poll, None, UNAVAILABLE, now)]
        if (poll.ep, poll.t) == (latch[0], latch[1]):
            self.count("polls_answered")
            return [self._reply(poll, latch, OK, now)]
        if (poll.ep, poll.t) < (latch[0], latch[1]):
            self.count("poll_old")
            return []
        self.count("polls_parked")
        replies = self._unpark(now)
        self._parked = (poll, now + poll.ttl // 2)
        return replies

    def expire(self, now):
        """(why the robot must stop now or None, replies of a parked poll)."""
        why = None
        if self.ttl_at is not None and now >= self.ttl_at:
            self.ttl_at = None
            why = "ttl_over"
        if self.silence_at is not None and now >= self.silence_at:
            self.silence_at = None
            self.count("hold_timer")
            why = "hold_timer"
        if self._parked and now >= self._parked[1]:
            return why, self._unpark(now)
        return why, []

    def cut(self):
        """The option under way was cut short: its transition is not reported."""
        self._whole = False

    def stop(self, why):
        """Hold until a step is taken; polls are answered unavailable meanwhile."""
        self.refusal = why
        self._whole = False
        self.ttl_at = self.silence_at = None

    def _counted(self, verdict, code, text=""):
        self.count(code)
        return verdict, code, text

    def _unpark(self, now):
        parked, self._parked = self._parked, None
        if parked is None:
            return []
        if self.refusal is not None:
            self.count("polls_unavailable")
            return [self._reply(parked[0], None, UNAVAILABLE, now)]
        self.count("polls_stale")
        return [self._reply(parked[0], self.latch, STALE, now)]

    def _lateness(self, step, received):
        """Way of this step beyond the quickest one's; the minimum is renewed every ten minutes."""
        offset = received - step.up
        renew = received - self._offset_at > LATENESS_WINDOW
        if step.ep != self._offset_ep or renew or offset < self._offset:
            if renew and step.ep == self._offset_ep and offset > self._offset:
                late = offset - self._offset  # judged by the old minimum once more
                self._offset, self._offset_at = offset, received
                return late
            self._offset, self._offset_at, self._offset_ep = offset, received, step.ep
        return offset - self._offset

    def _reply(self, poll, latch, flag, now):
        age = now - latch[7] if latch and flag == STALE else 0
        rows = [self._row(name, latch, flag, age) for name in poll.ids]
        alive = 1 if latch and latch[3] >= 0 else 0
        return {"ep": poll.ep, "t": poll.t, "q": poll.q, "b": self.boot, "n": alive, "r": rows}

    def _row(self, name, latch, flag, age):
        if name != self.robot:
            return [name, None, UNKNOWN, 0]
        if latch is None or latch[3] < 0:
            return [name, None, UNAVAILABLE, 0]
        if flag != OK or latch[6] < 0:
            return [name, latch[3], flag, age]
        return [name, latch[3], flag, age, latch[5], latch[6]]
