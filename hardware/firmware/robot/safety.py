# SPDX-License-Identifier: MIT
"""Whether the motors may turn, and how fast: the one gate between any command and the motors.

States BOOT -> DISARMED -> ARMED, with FAULT and ESTOP; motors turn in ARMED only, and only while

    now < drive + deadman,   now < heard + link,   pose fresh,   inside the fence,   no hold

Nothing that comes over the air arms a robot or ends an e-stop. All times are integer milliseconds.
"""

BOOT, DISARMED, ARMED, FAULT, ESTOP = "BOOT", "DISARMED", "ARMED", "FAULT", "ESTOP"
HOLDS_TO_FAULT = 3
HOLDS_WINDOW = 60000
LINK_LOST_DISARMS = 60000


def next_state(state, event):
    """State after an event; the table of the safety page. Unlisted pairs change nothing."""
    if event in ("halt", "input"):
        return ESTOP
    if state == ESTOP:
        return DISARMED if event == "release" else ESTOP
    if event in ("error", "battery", "failed"):
        return FAULT
    if state == FAULT:
        return DISARMED if event == "clear" else FAULT
    if state == BOOT:
        return DISARMED if event == "ok" else BOOT
    if state == DISARMED:
        return ARMED if event == "arm" else DISARMED
    return DISARMED if event in ("disarm", "link_gone", "over", "end") else ARMED


class Safety:
    """State machine, timers and limits of one robot.

    `limits` = (v m/s, w rad/s, accel m/s2), already the lower of all that apply. `off` stops the
    motors; it is called on every exit from ARMED, on every hold, and again every 100 ms in ESTOP.
    """

    def __init__(self, limits, off, deadman=500, link=2000, pose_max_age=1000, armed_for=3600000,
                 battery=(0.0, 0.0), fence=None):
        if not 100 <= deadman <= 2000:
            raise ValueError("deadman %d ms must lie in 100..2000 ms" % deadman)
        for value in limits:
            if not 0 <= value < 100:
                raise ValueError("limit %s must be at least 0 and finite" % value)
        self.limits = limits
        self.state = BOOT
        self.reason = "boot"
        self.holding = "boot"
        self.deadman, self.link, self.pose_max_age = deadman, link, pose_max_age
        self.armed_for, self.battery, self.fence = armed_for, battery, fence
        self.stops = {}
        self._off = off
        self._drive_at = None
        self._armed_at = 0
        self._again_at = 0
        self._holds = []
        self._v = self._w = 0.0
        self._v_at = 0
        self.heard_at = None
        self.pose_at = None
        self.last_battery = None

    def event(self, event, now, why=""):
        """Apply an event of the table."""
        old, self.state = self.state, next_state(self.state, event)
        if self.state != old:
            self.reason = why or event
            self._holds = []
        if self.state != ARMED:
            self._stop(self.state + " " + self.reason)
        elif old != ARMED:
            self._armed_at = now
            self.holding = "waits for a step"
        return self.state != old

    def arm(self, now, input_open, epoch_ok):
        """Arm on the spot; the token was checked by the console. Return None or why not."""
        why = None
        if self.state != DISARMED:
            why = "state is %s (%s)" % (self.state, self.reason)
        elif not self.pose_fresh(now):
            why = "no fresh pose"
        elif self.last_battery is not None and self.last_battery < self.battery[0]:
            why = "battery %.2f V is below %.2f V" % (self.last_battery, self.battery[0])
        elif not input_open:
            why = "the stop input is closed"
        elif not epoch_ok:
            why = "a halt of this epoch or a later one is in force"
        if why is None:
            self.event("arm", now)
        return why

    def pose_fresh(self, now):
        """Whether the pose may be steered by."""
        return self.pose_at is not None and now - self.pose_at <= self.pose_max_age

    def available(self, now):
        """Whether the robot may be given an action: armed, well, with a fresh pose."""
        low = self.last_battery is not None and self.last_battery < self.battery[0]
        return self.state == ARMED and self.pose_fresh(now) and not low

    def start(self, now):
        """A valid new step was taken: leave hold."""
        if self.state == ARMED and self.holding != "geofence":
            self.holding = None
            self._drive_at = now

    def hold(self, why, now, normal=False):
        """Motors to zero until a new step; the third abnormal hold within a minute is a fault."""
        moving = self.holding is None
        self._stop(why)
        if normal or not moving or self.state != ARMED:
            return
        self.stops[why] = self.stops.get(why, 0) + 1
        self._holds = [at for at in self._holds if now - at < HOLDS_WINDOW]
        self._holds.append(now)
        if len(self._holds) >= HOLDS_TO_FAULT:
            self.event("error", now, "%d holds in a minute, last: %s" % (HOLDS_TO_FAULT, why))

    def creep(self):
        """Somebody asks for the way home from outside of the fence."""
        if self.holding == "geofence":
            self.holding = "waits for a step"

    def watch(self, now, x, y):
        """Look at all timers; called by the safety task every few milliseconds."""
        if self.state == ESTOP and now >= self._again_at:
            self._again_at = now + 100
            self._off()
        if self.state != ARMED:
            return
        if now - self._armed_at >= self.armed_for:
            self.event("over", now, "arming time is over")
        elif self.heard_at is not None and now - self.heard_at >= LINK_LOST_DISARMS:
            self.event("link_gone", now, "link lost for a minute")
        elif self.holding is not None:
            return
        elif now - self._drive_at >= self.deadman:
            self.hold("deadman", now)
        elif self.heard_at is None or now - self.heard_at >= self.link:
            self.hold("link", now)
        elif not self.pose_fresh(now):
            self.hold("pose", now)
        elif self.fence is not None and not self.fence(x, y):
            self.hold("geofence", now)

    def see_battery(self, volts, now):
        """Take a battery reading; critical is a fault."""
        self.last_battery = volts
        if volts is not None and volts < self.battery[1]:
            self.event("battery", now, "battery %.2f V is critical" % volts)

    def limit(self, v, w, now):
        """Speeds that may be driven now: (0, 0) unless all is well; within the limits always."""
        if self.state != ARMED or self.holding is not None:
            return 0.0, 0.0
        if v != v or w != w or abs(v) > 1e6 or abs(w) > 1e6:
            self.hold("command", now)
            return 0.0, 0.0
        v_max, w_max, accel = self.limits
        v = max(-v_max, min(v_max, v))
        w = max(-w_max, min(w_max, w))
        most = accel * min(max(now - self._v_at, 0), 200) / 1000
        if abs(v) > abs(self._v):  # slowing down is never limited
            v = min(v, self._v + most) if v > 0 else max(v, self._v - most)
        self._v, self._w, self._v_at = v, w, now
        self._drive_at = now
        return v, w

    def _stop(self, why):
        self.holding = why
        self._v = self._w = 0.0
        self._off()
