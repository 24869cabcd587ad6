# SPDX-License-Identifier: MIT
"""The ring arena for one robot: zone with hysteresis, and the option controller.

The formulas are those of `hardware/ring.py` and `hardware/option.py` without neighbours:

    v = speed * max(0, cos e),   w = clip(turn_gain * e, -w_max, w_max),   e = heading error
"""

import math

TWO_PI = 2 * math.pi
HOLD = -1
DIRECTION = (0, 1, -1)


def wrap(angle):
    """Bring an angle to [-pi, pi)."""
    return (angle + math.pi) % TWO_PI - math.pi


class Ring:
    """Geometry, with the names and defaults of `RingLayout`."""

    def __init__(self, cfg):
        self.zones = int(cfg.get("zones", 5))
        self.inner = cfg.get("inner_m", 1.0)
        self.outer = cfg.get("outer_m", 2.0)
        self.radius = cfg.get("robot_radius_m", 0.10)
        self.sector = TWO_PI / self.zones
        lanes = cfg.get("lanes", True)
        middle = cfg.get("lane_park_m", 1.50) if lanes else (self.inner + self.outer) / 2
        self.middle = middle
        self.lanes = (
            (middle, cfg.get("lane_plus_m", 1.78), cfg.get("lane_minus_m", 1.22))
            if lanes
            else (middle, middle, middle)
        )

    def zone(self, x, y):
        """Zone of a place by its polar angle."""
        return min(int((math.atan2(y, x) % TWO_PI) / self.sector), self.zones - 1)

    def inside(self, x, y):
        """Whether a place is between the walls."""
        return self.inner < math.sqrt(x * x + y * y) < self.outer

    def centre(self, zone):
        """Polar angle of the centre of a zone."""
        return (zone % self.zones + 0.5) * self.sector

    def beyond(self, x, y, zone):
        """How far a place lies outside of `zone`, m along the arc; negative inside."""
        away = abs(wrap(math.atan2(y, x) - self.centre(zone))) - self.sector / 2
        return away * math.sqrt(x * x + y * y)


class ZoneFilter:
    """A robot changes zone when it is 5 cm beyond the border in two successive poses."""

    MARGIN_M = 0.05

    def __init__(self, ring):
        self._ring = ring
        self.zone = -1
        self._outside = 0

    def see(self, x, y):
        """Take a pose; return the zone."""
        if self.zone < 0:
            self.zone = self._ring.zone(x, y)
        elif self._ring.beyond(x, y, self.zone) <= self.MARGIN_M:
            self._outside = 0
        else:
            self._outside += 1
            if self._outside >= 2:
                self.zone = self._ring.zone(x, y)
                self._outside = 0
        return self.zone


class Option:
    """Turns a local action into speeds at each control tick."""

    def __init__(self, ring, cfg):
        self._ring = ring
        self.speed = cfg.get("speed_mps", 0.4)
        self.w_max = cfg.get("w_max_radps", 3.0)
        self.turn_gain = cfg.get("turn_gain", 4.0)
        self.look = cfg.get("look_ahead_rad", 0.35)
        self.core = cfg.get("core", 0.35)
        self.recentre = cfg.get("recentre", 1.2)
        self.avoid_weight = cfg.get("avoid_weight", 1.2)
        self.wall_margin = cfg.get("wall_margin", 0.5)
        self._action = HOLD
        self._goal = 0.0
        self._lane = ring.middle

    def start(self, action, x, y):
        """Start an option from where the robot is."""
        if not -1 <= action <= 2:
            raise ValueError("local action %d is not one of -1 (hold), 0, 1, 2" % action)
        self._action = action
        if action >= 0:
            self._goal = self._ring.centre(self._ring.zone(x, y) + DIRECTION[action])
            self._lane = self._ring.lanes[action]

    def command(self, x, y, yaw):
        """(v, w) for this tick; (0, 0) when holding or arrived."""
        ring = self._ring
        r = math.sqrt(x * x + y * y)
        angle = math.atan2(y, x)
        ahead = wrap(self._goal - angle)
        travel = self._action > 0 and abs(ahead) > self.core * 0.5 * ring.sector
        off_lane = abs(r - ring.middle) > self.recentre * ring.radius
        if self._action == HOLD or not (travel or off_lane):
            return 0.0, 0.0
        carrot = angle + (max(-self.look, min(self.look, ahead)) if travel else 0.0)
        lane = self._lane if travel else ring.middle
        dx, dy = lane * math.cos(carrot) - x, lane * math.sin(carrot) - y
        size = max(math.sqrt(dx * dx + dy * dy), 1e-9)
        push = self.avoid_weight * self._wall_push(r) / max(r, 1e-9)
        dx, dy = dx / size + push * x, dy / size + push * y
        error = wrap(math.atan2(dy, dx) - yaw)
        v = self.speed * max(0.0, math.cos(error))
        return v, max(-self.w_max, min(self.w_max, self.turn_gain * error))

    def _wall_push(self, r):
        ring, margin = self._ring, self.wall_margin * self._ring.radius
        outward = 1 - (r - ring.radius - ring.inner) / margin
        inward = 1 - (ring.outer - ring.radius - r) / margin
        return max(0.0, min(1.0, outward)) - max(0.0, min(1.0, inward))
