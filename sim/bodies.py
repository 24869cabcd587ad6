# SPDX-License-Identifier: MIT
"""`BodyWorld`: what worlds of driving robots share: options, zones, availability, faults.

Each control tick (0.1 s) reads all poses, lets robots sense them, asks the option controller for v
and w, bounds them, lets broken wheels do what they do, and hands v and w to the engine:

    sensed = pose + noise;   (v, w) = limit(command(sensed));
    left = f_l (v - w track / 2),   right = f_r (v + w track / 2);   engine moves T_tick

A robot that has fallen over, or whose centre is outside the arena, or that does not work, is not
`up`; its zone is then the last one it was in.

| symbol | name | shape | unit |
|---|---|---|---|
| n | robots | - | - |
| - | poses: x, y, heading | (n, 3) | m, m, rad |
| v, w | speed, turn rate | (n,) | m/s, rad/s |
| f | `condition.wheels` | (n, 2) | - |
"""

from abc import ABC, abstractmethod

import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.arena import Layout
from kofn.hardware.option import OptionController, OptionSettings
from kofn.hardware.safety import Limits, check_limits, limit
from kofn.sim.placement import place_robots
from kofn.sim.world import (
    TICK_S,
    BoolArray,
    Condition,
    FloatArray,
    IntArray,
    Snapshot,
    WorldSpec,
    check_period,
    ticks,
)

_NOISE_STREAM = 0x6E6F6973
"""Key of the stream that position noise is drawn from, so that it shifts no other draw."""


class BodyWorld(ABC):
    """n robots in an arena; a subclass moves their bodies.

    Parameters
    ----------
    n
        Robots.
    layout
        The arena and its traffic rule.
    track_m
        Distance between the wheels.
    most
        Largest n that this engine is meant for.
    backend, versions
        For the spec.
    settings
        Gains of the option controller.
    limits
        Greatest speed and turn rate; default what the settings can ask for.
    period_s
        Length T of an option, a multiple of 0.1 s; robots stop when it is over.
    noise
        Standard deviation of sensed places (m) and headings (rad).

    Raises
    ------
    InputError
        A value is out of range, or the robots do not fit.
    """

    def __init__(
        self,
        n: int,
        layout: Layout,
        *,
        track_m: float,
        most: int,
        backend: str,
        versions: dict[str, str],
        settings: OptionSettings | None,
        limits: Limits | None,
        period_s: float,
        noise: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.layout = layout
        most = min(most, layout.capacity)
        if not 1 <= n <= most:
            raise InputError(
                f"{n} robots do not fit: this {layout.shape} holds 1 to {most} robots "
                f"in world {backend!r}"
            )
        self.spec = WorldSpec(
            n=n,
            n_zones=layout.zones,
            n_actions=layout.n_actions,
            period_s=period_s,
            tick_s=TICK_S,
            backend=backend,
            versions=versions | {"numpy": np.__version__},
            arena=layout.as_arena(),
        )
        self._period_ticks = check_period(period_s)
        self._settings = settings if settings is not None else OptionSettings()
        self._limits = check_limits(
            limits
            if limits is not None
            else Limits(self._settings.fastest_mps, self._settings.w_max_radps)
        )
        self._half_track_m = 0.5 * track_m
        self._ready = False
        self._closed = False
        self._noise_scale = noise
        self.condition = Condition.healthy(n)

    @abstractmethod
    def _build(self, spawn: FloatArray) -> None:
        """Make the arena and put one robot at each pose of `spawn` (n, 3), at rest."""

    @abstractmethod
    def _move(self, v: FloatArray, w: FloatArray) -> None:
        """Drive for one control tick, 0.1 s."""

    @abstractmethod
    def _look(self) -> tuple[FloatArray, BoolArray]:
        """Return poses (n, 3) of memory of their own, and which robots stand upright (n,)."""

    @abstractmethod
    def _release(self) -> None:
        """Release the engine; idempotent."""

    def reset(self, seed: int) -> None:
        """Build the arena and place the robots anew, at time 0, with motors at zero."""
        if self._closed:
            raise RunError("the world is closed")
        self._release()
        generator = np.random.default_rng(seed)
        self._noise = np.random.default_rng((seed, _NOISE_STREAM))
        self._build(place_robots(self.layout, self.spec.n, generator))
        self._options = OptionController(self.layout, self.spec.n, generator, self._settings)
        self.condition = Condition.healthy(self.spec.n)
        self.condition.base_noise = self._noise_scale
        self.condition.noise_m, self.condition.noise_rad = self._noise_scale
        self._tick = 0
        self._option_ticks_left = 0
        self._zones = np.zeros(self.spec.n, dtype=np.int64)
        self._ready = True
        self._read()

    def observe(self) -> Snapshot:
        """Return zones, poses and availability now."""
        self._require_open()
        trouble = dict(self.condition.why)
        in_play = self._upright & self.layout.inside(self._poses)
        for i in np.flatnonzero(self.condition.up & ~in_play).tolist():
            trouble[i] = "has left the arena" if self._upright[i] else "has fallen over"
        return Snapshot(
            zones=self._zones.copy(),
            poses=self._poses.copy(),
            up=in_play & self.condition.up,
            time_s=self._tick * TICK_S,
            trouble=trouble,
        )

    def apply(self, actions: IntArray) -> None:
        """Start an option on every robot: an action, or -1 to hold; shape (n,)."""
        self._require_open()
        self._options.start(actions, self._sensed)
        self._option_ticks_left = self._period_ticks

    @property
    def limits(self) -> Limits:
        """Greatest speed and turn rate."""
        return self._limits

    def drive(self, v: FloatArray, w: FloatArray) -> None:
        """Drive for one control tick at speeds of shape (n,), clipped, instead of by options."""
        self._require_open()
        v, w = limit(np.where(self._up, v, 0.0), np.where(self._up, w, 0.0), self._limits)
        self._move(*self._with_broken_wheels(v, w))
        self._tick += 1
        self._read()

    def advance(self, duration_s: float) -> None:
        """Simulate `duration_s` seconds, a multiple of 0.1 s."""
        self._require_open()
        for _ in range(ticks(duration_s, "duration_s")):
            v, w = np.zeros(self.spec.n), np.zeros(self.spec.n)
            if self._option_ticks_left > 0:
                self._option_ticks_left -= 1
                v, w = self._options.command(self._sensed, self._push())
            self.drive(v, w)

    def close(self) -> None:
        """Release the engine; idempotent."""
        self._closed = True
        self._release()

    def _push(self) -> FloatArray:
        """Push of neighbours on each robot, shape (n, 2)."""
        return self._options.push(self._sensed)

    def _with_broken_wheels(self, v: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
        wheels = self.condition.wheels
        if np.all(wheels == 1.0):
            return v, w
        half = self._half_track_m
        left, right = wheels[:, 0] * (v - w * half), wheels[:, 1] * (v + w * half)
        return 0.5 * (left + right), (right - left) / (2.0 * half)

    def _require_open(self) -> None:
        if self._closed:
            raise RunError("the world is closed")
        if not self._ready:
            raise RunError("the world has no state yet: reset it with a seed first")

    def _read(self) -> None:
        """Take poses, sensed poses, zones and availability from the engine."""
        self._poses, self._upright = self._look()
        self._sensed = self._poses
        condition = self.condition
        if condition.noise_m > 0 or condition.noise_rad > 0:
            scale = (condition.noise_m, condition.noise_m, condition.noise_rad)
            self._sensed = self._poses + self._noise.normal(size=self._poses.shape) * scale
        # Where a robot is decides whether it is in the arena, where it thinks it is its zone.
        self._up: BoolArray = condition.up & self._upright & self.layout.inside(self._poses)
        self._zones = np.where(self._up, self.layout.zone_of(self._sensed), self._zones)
