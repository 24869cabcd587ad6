# SPDX-License-Identifier: MIT
"""How fast worlds are: simulated seconds per second of one core (RTF), and a peer beside them.

The peer, `PythonFleet`, moves robots the way kinematic fleets on PyBullet do: one Python object a
robot, which at each step of 0.05 s computes its own speed, reads its pose and sets a new one. It
looks at no neighbour and avoids nobody, which is to its advantage.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from kofn.controller.core.presets import load_game
from kofn.hardware.arena import Layout
from kofn.hardware.grid import GridLayout
from kofn.hardware.ring import RingLayout
from kofn.sim.bullet import BulletWorld, load_pybullet
from kofn.sim.crowd import Crowd
from kofn.sim.finite import FiniteWorld
from kofn.sim.kinematic import DT_S, KinematicWorld
from kofn.sim.motion import MotionKernel
from kofn.sim.quiet import quiet_stdout
from kofn.sim.world import World

RING_OF_TEN_THOUSAND = RingLayout(
    inner_m=4.0, outer_m=18.0, lane_minus_m=8.0, lane_park_m=12.0, lane_plus_m=15.0
)
RING_OF_A_THOUSAND = RingLayout(
    inner_m=2.0, outer_m=6.5, lane_minus_m=3.2, lane_park_m=4.3, lane_plus_m=5.3
)
PLAIN = GridLayout(columns=10, rows=10, cell_m=3.0, walls=False)
"""So wide that a hundred robots hardly meet, and without walls."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes
    ----------
    name, robots
        What was measured.
    rtf
        Simulated seconds per second of CPU, or option steps per second for `unit` "steps".
    unit
        "rtf" or "steps".
    limit
        What it has to reach; None when there is no such figure.
    """

    name: str
    robots: int
    rtf: float
    unit: str = "rtf"
    limit: float | None = None


def per_cpu_s(work: Callable[[], object], amount: float, repeats: int) -> float:
    """Return the median of `amount` per CPU second of this process over some repeats."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        rates.append(amount / max(time.process_time() - began, 1e-9))
    return float(np.median(rates))


def rtf(world: World, seconds: float, repeats: int) -> float:
    """Return the RTF of a world whose robots act at random, an option of `seconds` a repeat."""
    world.reset(1)
    generator, spec = np.random.default_rng(1), world.spec

    def option() -> None:
        world.apply(generator.integers(0, spec.n_actions, spec.n))
        world.advance(seconds)

    try:
        return per_cpu_s(option, seconds, repeats)
    finally:
        world.close()


class PythonFleet:
    """The peer: n robots as Python objects, each of which sets its own pose at each step."""

    def __init__(self, n: int, radius_m: float = 0.1) -> None:
        with quiet_stdout():
            self._pb = load_pybullet()
            self._client = self._pb.connect(self._pb.DIRECT)
            shape = self._pb.createCollisionShape(
                self._pb.GEOM_CYLINDER, radius=radius_m, height=0.08, physicsClientId=self._client
            )
            side = math.ceil(math.sqrt(n))
            self._robots = [
                _PythonRobot(self._pb, self._client, shape, (i % side, i // side)) for i in range(n)
            ]

    def advance(self, seconds: float) -> None:
        """Step all robots."""
        for _ in range(round(seconds / DT_S)):
            for robot in self._robots:
                robot.update(DT_S)

    def close(self) -> None:
        """Release the engine."""
        with quiet_stdout():
            self._pb.disconnect(physicsClientId=self._client)


class _PythonRobot:
    def __init__(self, pb: Any, client: int, shape: int, place: tuple[int, int]) -> None:
        self._pb, self._client = pb, client
        self._goal = (place[0] + 1.0, place[1] + 1.0)
        self.body = pb.createMultiBody(
            0.0, shape, -1, [*place, 0.04], [0, 0, 0, 1], physicsClientId=client
        )

    def update(self, dt: float) -> None:
        """Turn to the goal and drive towards it."""
        place, turn = self._pb.getBasePositionAndOrientation(
            self.body, physicsClientId=self._client
        )
        yaw = 2.0 * math.atan2(turn[2], turn[3])
        error = math.atan2(self._goal[1] - place[1], self._goal[0] - place[0]) - yaw
        error = math.remainder(error, 2.0 * math.pi)
        v, w = 0.4 * max(0.0, math.cos(error)), max(-3.0, min(3.0, 4.0 * error))
        yaw += w * dt
        self._pb.resetBasePositionAndOrientation(
            self.body,
            [place[0] + v * dt * math.cos(yaw), place[1] + v * dt * math.sin(yaw), place[2]],
            [0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)],
            physicsClientId=self._client,
        )


def _fleet(n: int, repeats: int) -> float:
    fleet = PythonFleet(n)
    try:
        return per_cpu_s(lambda: fleet.advance(1.0), 1.0, repeats)
    finally:
        fleet.close()


def _crowd(n: int, repeats: int, steps: int = 500, k: int = 20) -> float:
    """Option steps per second of a crowd, k robots asked in each."""
    game = load_game("arena")
    crowd, pi = Crowd(n, MotionKernel.of_game(game)), game.uniform_local_policy()[0]
    generator = np.random.default_rng(1)

    def play() -> None:
        crowd.reset(1)
        for _ in range(steps):
            crowd.step(pi)
            crowd.ask(generator.integers(0, n, k))

    return per_cpu_s(play, steps, repeats)


def measurements(*, quick: bool, repeats: int = 5) -> Iterator[Callable[[], Speed]]:
    """Yield the measurements; small sizes only if `quick`."""

    def world(
        name: str, make: Callable[[], World], n: int, limit: float | None, seconds: float = 6.0
    ) -> Callable[[], Speed]:
        def measure() -> Speed:
            return Speed(name=name, robots=n, rtf=rtf(make(), seconds, repeats), limit=limit)

        return measure

    def kinematic(n: int, layout: Layout, seconds: float, limit: float | None) -> Any:
        return world("kinematic", lambda: KinematicWorld(n, layout), n, limit, seconds)

    yield world("bullet, whole ring", lambda: BulletWorld(30), 30, 11.0)
    yield world(
        "bullet, whole ring, fidelity high", lambda: BulletWorld(30, fidelity="high"), 30, None, 2.0
    )
    if not quick:
        yield world("bullet, apart", lambda: BulletWorld(100, PLAIN), 100, 3.9)
    yield kinematic(30, RingLayout(), 6.0, None)
    yield kinematic(1000, RING_OF_A_THOUSAND, 6.0, None)
    if not quick:
        yield kinematic(10_000, RING_OF_TEN_THOUSAND, 6.0, 13.0)
    for n in (30, 1000) if quick else (30, 1000, 10_000):
        yield lambda n=n: Speed(  # type: ignore[misc]
            name="peer: a Python object a robot", robots=n, rtf=_fleet(n, min(repeats, 3))
        )
    kernel = MotionKernel.of_game(load_game("arena"))
    for n in (1000, 100_000) if quick else (1000, 1_000_000):
        yield lambda n=n: Speed(  # type: ignore[misc]
            name="finite, robot by robot",
            robots=n,
            rtf=rtf(FiniteWorld(n, kernel), 6.0, repeats) / 6.0,
            unit="steps",
        )
    for n in (1000, 1_000_000):
        yield lambda n=n: Speed(  # type: ignore[misc]
            name="finite, crowd in counts, 20 asked a step",
            robots=n,
            rtf=_crowd(n, repeats),
            unit="steps",
            limit=1000.0 if n == 1_000_000 else None,
        )
