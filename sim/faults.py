# SPDX-License-Identifier: MIT
"""`Fault`: what goes wrong in a simulated fleet, from which step to which, and for whom.

| kind | effect | its settings |
|---|---|---|
| `dead` | the robot stands, and is not available | |
| `stuck_wheel` | one wheel blocks (without bodies: the robot cannot move) | `side` |
| `slow` | wheels turn slower than they should | `factor` |
| `battery` | driving drains it, the charging zone fills it | `capacity_s`, `charge`, `zone` |
| `position_noise` | robots of a host sense place and heading with noise | `noise_m`, `noise_rad` |
| `loss` | a robot's answer to a poll is lost | `p`, or `by_zone` |
| `step_loss` | a robot does not hear the step: it holds, and answers nothing | `p`, or `by_zone` |
| `delay` | a host's answers travel for a while | `delay_s` |
| `duplicate` | a host's answers come twice | `p` |
| `partition` | a host hears and says nothing | |

Who is struck is drawn once per run; whether a message is lost is drawn per step and robot. All
draws are functions of (seed, fault, host, step) alone, so a replay repeats them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from kofn.controller.core.errors import InputError

Kind = Literal[
    "dead",
    "stuck_wheel",
    "slow",
    "battery",
    "position_noise",
    "loss",
    "step_loss",
    "delay",
    "duplicate",
    "partition",
]
OF_HOSTS = frozenset({"position_noise", "delay", "duplicate", "partition"})
"""Kinds that strike a host as a whole."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault.

    Attributes
    ----------
    kind
        As in the module's table.
    at, until
        First step in which it is there, and first in which it is gone; without `until` it stays.
    host
        Only this host; empty: all hosts of simulated robots.
    robots
        How many robots it strikes, drawn from these hosts; None: all.
    which
        Robots by number in the host, instead of a draw.
    p, by_zone
        Probability, for all robots or by the zone that a robot is in.
    side
        Which wheel.
    factor
        Share of the commanded speed, 0 to 1.
    capacity_s, charge, zone
        Seconds of driving in a full battery; seconds of driving won by one second of standing in
        the charging zone; that zone. Robots start with a charge drawn from half to full.
    noise_m, noise_rad
        Standard deviations.
    delay_s
        (least, most) fleet seconds, drawn uniformly for each answer.

    Raises
    ------
    InputError
        A value is out of range, or missing.
    """

    kind: Kind
    at: Annotated[int, Meta(ge=0)] = 0
    until: int | None = None
    host: str = ""
    robots: Annotated[int, Meta(ge=1)] | None = None
    which: tuple[Annotated[int, Meta(ge=0)], ...] | None = None
    p: float | None = None
    by_zone: tuple[float, ...] = ()
    side: Literal["left", "right"] = "left"
    factor: float = 0.5
    capacity_s: float = 120.0
    charge: float = 4.0
    zone: Annotated[int, Meta(ge=0)] = 0
    noise_m: float = 0.0
    noise_rad: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        name = f"fault {self.kind!r}"
        if self.until is not None and self.until <= self.at:
            raise InputError(f"{name}: until {self.until} must be above at {self.at}")
        probabilities = [*self.by_zone, *(() if self.p is None else (self.p,))]
        for value in probabilities:
            if not 0 <= value <= 1:
                raise InputError(f"{name}: {value} is not a probability")
        if self.kind in {"loss", "step_loss"} and (self.p is None) == (not self.by_zone):
            raise InputError(f"{name} needs either p or by_zone")
        if self.kind == "duplicate" and self.p is None:
            raise InputError(f"{name} needs p")
        if self.kind in OF_HOSTS and (self.robots is not None or self.which is not None):
            raise InputError(f"{name} strikes whole hosts: name a host, not robots")
        if not 0 <= self.factor <= 1:
            raise InputError(f"{name}: factor {self.factor} must lie in 0 to 1")
        for key in ("noise_m", "noise_rad", "charge"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}: {key} = {value} must be finite and at least 0")
        if not (math.isfinite(self.capacity_s) and self.capacity_s > 0):
            raise InputError(f"{name}: capacity_s = {self.capacity_s} must be finite and above 0")
        least, most = self.delay_s
        if not 0 <= least <= most < math.inf:
            raise InputError(f"{name}: delay_s = {least}, {most} must be 0 <= least <= most")

    def on(self, t: int) -> bool:
        """Whether it is there in step t."""
        return t >= self.at and (self.until is None or t < self.until)

    def probability(self, zone: int) -> float:
        """Its probability for a robot in `zone` (-1 unknown: the least of `by_zone`)."""
        if self.by_zone:
            return self.by_zone[zone] if 0 <= zone < len(self.by_zone) else min(self.by_zone)
        return self.p or 0.0


def check_faults(faults: Sequence[Fault], hosts: Mapping[str, int], zones: int) -> None:
    """Raise `InputError` where faults do not fit hosts (name -> robots) and zones."""
    for fault in faults:
        name = f"fault {fault.kind!r}"
        if fault.host and fault.host not in hosts:
            known = ", ".join(hosts) or "none"
            raise InputError(f"{name}: no host {fault.host!r} of simulated robots; known: {known}")
        room = hosts[fault.host] if fault.host else sum(hosts.values())
        if fault.robots is not None and fault.robots > room:
            raise InputError(f"{name} strikes {fault.robots} robots, there are {room}")
        if fault.which is not None and not fault.host and len(hosts) > 1:
            raise InputError(f"{name}: which names robots of one host, so it needs host too")
        if fault.which and max(fault.which) >= room:
            raise InputError(f"{name}: robot {max(fault.which)} of a host of {room}")
        if fault.by_zone and len(fault.by_zone) != zones:
            raise InputError(f"{name}: {len(fault.by_zone)} entries by_zone for {zones} zones")
        if fault.kind == "battery" and fault.zone >= zones:
            raise InputError(f"{name}: zone {fault.zone} must lie in 0..{zones - 1}")


def faults_of_hosts(
    faults: Sequence[Fault], hosts: Mapping[str, int], seed: int
) -> dict[str, list[Fault]]:
    """Share faults out to hosts, with the robots that each strikes drawn over the fleet."""
    shared: dict[str, list[Fault]] = {name: [] for name in hosts}
    for number, fault in enumerate(faults):
        struck = {fault.host: hosts[fault.host]} if fault.host else dict(hosts)
        if fault.robots is None or fault.which is not None:
            for name in struck:
                shared[name].append(fault)
            continue
        fleet = [(name, i) for name, n in struck.items() for i in range(n)]
        generator = np.random.default_rng((seed, number))
        drawn = generator.choice(len(fleet), size=fault.robots, replace=False)
        for name in struck:
            which = tuple(sorted(fleet[j][1] for j in drawn.tolist() if fleet[j][0] == name))
            if which:
                own = msgspec.structs.replace(fault, which=which, robots=None)
                shared[name].append(own)
    return shared
