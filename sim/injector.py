# SPDX-License-Identifier: MIT
"""`Injector`: brings faults over the robots of one host, and says what it did.

Pure but for the `Condition` of the world that it writes into: it is told the step, the actions and
the passing of ticks, and answers with incidents. Numbers are those of `local_policy.uniforms`,
keyed by the fault's place in the list and the host's name, with the step as counter.

| symbol | name | shape | unit |
|---|---|---|---|
| x | uniforms of (seed, fault, host, t) | (n,) | - |
| - | charge | (n,) | s of driving left |
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError
from kofn.controller.link.hostlog import Incident
from kofn.hardware.driver import HOLD
from kofn.hardware.local_policy import uniforms
from kofn.sim.faults import Fault
from kofn.sim.world import TICK_S, Condition

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

WAKE_SHARE = 0.2
"""Charge, as a share of the capacity, at which an empty robot in the charging zone works again."""
EMPTY = "has an empty battery"


class Injector:
    """Faults of one host's robots.

    Parameters
    ----------
    faults
        In the order of the scenario.
    n
        Robots of the host.
    seed, host
        Keys of all draws.

    Raises
    ------
    InputError
        A fault names a robot that the host does not have.
    """

    def __init__(self, faults: Sequence[Fault], n: int, *, seed: int, host: str) -> None:
        self.faults = tuple(faults)
        self.t = -1
        self.time_s = 0.0
        self._zones: IntArray = np.full(n, -1, dtype=np.int64)
        self._n, self._seed, self._host = n, seed, host
        self._struck = [self._mask(number, fault) for number, fault in enumerate(self.faults)]
        self._was_on = [False] * len(self.faults)
        self._deaf: BoolArray = np.zeros(n, dtype=np.bool_)
        batteries = [k for k, fault in enumerate(self.faults) if fault.kind == "battery"]
        self._charge: dict[int, FloatArray] = {
            k: self.faults[k].capacity_s * (0.5 + 0.5 * self._uniforms(k, 0)) for k in batteries
        }
        self._flat: dict[int, BoolArray] = {k: np.zeros(n, dtype=np.bool_) for k in batteries}

    def _uniforms(self, number: int, t: int) -> FloatArray:
        return uniforms(self._seed, f"fault:{number}:{self._host}", t, self._n)

    def _mask(self, number: int, fault: Fault) -> BoolArray:
        mask = np.zeros(self._n, dtype=np.bool_)
        if fault.which is not None:
            if fault.which and max(fault.which) >= self._n:
                raise InputError(f"fault {fault.kind!r}: robot {max(fault.which)} of {self._n}")
            mask[list(fault.which)] = True
        elif fault.robots is not None:
            if fault.robots > self._n:
                raise InputError(
                    f"fault {fault.kind!r} strikes {fault.robots} robots, there are {self._n}"
                )
            # Counter 2^32: a draw of its own, apart from those of all steps.
            order = np.argsort(self._uniforms(number, 1 << 32), kind="stable")
            mask[order[: fault.robots]] = True
        else:
            mask[:] = True
        return mask

    def begin(self, t: int, condition: Condition, time_s: float) -> list[Incident]:
        """Switch faults on and off for step t; return what changed."""
        self.t, self.time_s = t, time_s
        incidents = []
        for number, fault in enumerate(self.faults):
            on = fault.on(t)
            if on != self._was_on[number]:
                self._was_on[number] = on
                incidents += self._switched(number, fault, on=on)
        self._write(condition)
        return incidents

    def _switched(self, number: int, fault: Fault, *, on: bool) -> list[Incident]:
        text = f"{'begins' if on else 'ends'} with step {self.t}"
        struck = self._struck[number]
        robots = [-1] if struck.all() else np.flatnonzero(struck).tolist()
        return [self.incident(fault.kind, i, text) for i in robots]

    def _write(self, condition: Condition) -> None:
        """Set the condition to what the present faults make of healthy robots."""
        wheels, up = np.ones((self._n, 2)), np.ones(self._n, dtype=np.bool_)
        why: dict[int, str] = {}
        noise_m = noise_rad = 0.0
        for number, fault in enumerate(self.faults):
            if not self._was_on[number]:
                continue
            struck = self._struck[number]
            if fault.kind == "dead":
                up &= ~struck
                why |= dict.fromkeys(np.flatnonzero(struck).tolist(), "is dead")
            elif fault.kind == "stuck_wheel":
                wheels[struck, 0 if fault.side == "left" else 1] = 0.0
            elif fault.kind == "slow":
                wheels[struck] *= fault.factor
            elif fault.kind == "battery":
                empty = struck & self._flat[number]
                up &= ~empty
                why |= dict.fromkeys(np.flatnonzero(empty).tolist(), EMPTY)
            elif fault.kind == "position_noise":
                noise_m, noise_rad = max(noise_m, fault.noise_m), max(noise_rad, fault.noise_rad)
        condition.wheels, condition.up, condition.why = wheels, up, why
        condition.noise_m = max(condition.base_noise[0], noise_m)
        condition.noise_rad = max(condition.base_noise[1], noise_rad)

    def incident(self, kind: str, i: int, text: str) -> Incident:
        """Return a row for the host's log; robot -1 is the host itself."""
        return Incident(time_s=self.time_s, i=i, kind=kind, text=text, t=self.t)

    def hear(self, actions: IntArray, zones: IntArray) -> tuple[IntArray, list[Incident]]:
        """Return the actions of the robots that hear the step, and who does not."""
        self._zones = zones
        self._deaf = self._lost("step_loss")
        text = f"step {self.t} was not heard"
        return np.where(self._deaf, HOLD, actions), [
            self.incident("step_loss", i, text) for i in np.flatnonzero(self._deaf).tolist()
        ]

    @property
    def deaf(self) -> BoolArray:
        """Robots that did not hear the present step, shape (n,)."""
        return self._deaf

    def _lost(self, kind: str) -> BoolArray:
        zones = self._zones
        lost = np.zeros(self._n, dtype=np.bool_)
        for number, fault in enumerate(self.faults):
            if fault.kind == kind and self._was_on[number]:
                table = np.array([fault.probability(z) for z in range(-1, int(zones.max()) + 1)])
                lost |= self._struck[number] & (self._uniforms(number, self.t) < table[zones + 1])
        return lost

    def silent(self) -> BoolArray:
        """Robots whose answer to the present step's poll is lost, shape (n,).

        By the zone that they are in when the step is taken, whatever they did since.
        """
        return self._deaf | self._lost("loss")

    def delay_s(self) -> float:
        """How long the host's answers of the present step travel, fleet seconds."""
        total = 0.0
        for number, fault in enumerate(self.faults):
            if fault.kind == "delay" and self._was_on[number]:
                least, most = fault.delay_s
                total += least + (most - least) * float(self._uniforms(number, self.t)[0])
        return total

    def doubled(self) -> bool:
        """Whether the host's answers of the present step come twice."""
        return any(
            fault.kind == "duplicate"
            and self._was_on[number]
            and float(self._uniforms(number, self.t)[0]) < (fault.p or 0.0)
            for number, fault in enumerate(self.faults)
        )

    def cut_off(self, t: int) -> bool:
        """Whether the host hears and says nothing in step t."""
        return any(fault.kind == "partition" and fault.on(t) for fault in self.faults)

    def tick(self, actions: IntArray, zones: IntArray, condition: Condition) -> None:
        """Let one control tick pass: batteries drain and fill."""
        if not self._charge:
            return
        for number, before in list(self._charge.items()):
            fault = self.faults[number]
            if not self._was_on[number]:
                continue
            flat = self._flat[number]
            driving = (actions > 0) & ~flat
            standing = (zones == fault.zone) & ~driving
            charge = before + TICK_S * (fault.charge * standing - driving)
            self._charge[number] = np.clip(charge, 0.0, fault.capacity_s)
            flat |= charge <= 0.0
            # An empty robot works again once it holds enough for a while of driving.
            flat &= charge < WAKE_SHARE * fault.capacity_s
        self._write(condition)
