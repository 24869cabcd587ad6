# SPDX-License-Identifier: MIT
"""From the answers of a round to what the belief is fed, and an honest account of it.

Of the k robots of the first wave some have not given their zone. Their places are filled, each kind
only as far as the kinds before it leave places open:

| m | kind | what it is | weight in the belief |
|---|---|---|---|
| m_0 | fresh | answers of the first wave | 1 |
| m_1 | topped up | answers of robots asked instead, in the second wave | 1 |
| m_2 | remembered | last answers of silent robots, aged (`last_known`) | below 1 |
| m_3 | padded | copies of the answers, drawn at random (bootstrap) | 0 |

With `fill = "known-first"` remembered answers come before topped-up ones. Padding completes the
record to k for tables that are indexed by counts that sum to k; a copy says nothing new, so the
belief is not fed with it. Fewer than m_min answers (m_0 + m_1) make a *fallback*: the last action
is kept, nothing is remembered or padded, but the belief still learns what was heard.

The best guess of the fleet from this round alone (`share`) gives each remembered entry a full
place, since the robot is somewhere; as evidence for the belief it counts for less.

No robot's state enters unless it was asked in this round: a remembered answer is that of a robot
that has been drawn now and is silent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.config import ControllerConfig
from kofn.controller.last_known import LastKnown, Recalled
from kofn.controller.loss_watch import LossWatch
from kofn.controller.poll_round import Answer, Lack, Outcome
from kofn.controller.response_model import ResponseModel
from kofn.controller.streams import Streams

FloatArray = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """What one round says of the fleet.

    Attributes
    ----------
    counts
        Answers that count per zone, shape (S_l,), sum m_0 + m_1.
    weights
        What the belief is fed, shape (S_l,): remembered entries count with what is left of them.
    filled
        The same with a full place for each remembered entry, shape (S_l,).
    padded
        Padding per zone, shape (S_l,), sum m_3.
    m
        Fresh, topped-up, remembered and padded entries; their sum is at most k.
    remembered
        Silent robots whose last answer stands in.
    surplus
        Answers of the second wave that were not needed.
    fallback
        Too few answers to decide on.
    """

    counts: FloatArray
    weights: FloatArray
    filled: FloatArray
    padded: FloatArray
    m: tuple[int, int, int, int]
    remembered: tuple[str, ...]
    surplus: int
    fallback: bool

    @property
    def share(self) -> list[float]:
        """Estimated distribution of the fleet over zones; sums to 1, or is empty."""
        total = float(self.filled.sum())
        return [float(weight) / total for weight in self.filled] if total > 0 else []


class Estimator:
    """Fills the places of a round; remembers what it needs for the next ones.

    Parameters
    ----------
    config
        Poll round settings.
    kernels
        Local kernel under the local policy for each target, shape (S_g, S_l, S_l).
    step
        The step that comes first.
    """

    def __init__(self, config: ControllerConfig, kernels: FloatArray, *, step: int = 0) -> None:
        n_zones = kernels.shape[1]
        self.watch = LossWatch(n_zones)
        self.last_known = LastKnown(
            kernels, config.known_max_age, config.known_ageing, step=step, robots=config.robots
        )
        self._config = config
        self._n_zones = n_zones
        self._known_first = config.fill == "known-first" and config.estimator == "plain"
        self._response = ResponseModel(n_zones) if config.estimator == "weighted" else None
        self._streams = Streams(config.seed)

    def replacements(self, polled: int, lack: Lack) -> int:
        """Return how many robots the second wave asks when `polled` were asked in the first."""
        missing = len(lack.missing) + lack.unavailable
        if not self._known_first:
            return missing
        known = sum(self.last_known.zone(robot) is not None for robot in lack.missing)
        return max(missing - known, self._config.fresh_needed(polled) - lack.heard)

    def change_kernels(self, kernels: FloatArray) -> None:
        """From now on robots move by other kernels, shape (S_g, S_l, S_l)."""
        self.last_known.change_kernels(kernels)

    def advance(self, g: int) -> None:
        """Move on by one step of the fleet under target `g`."""
        self.last_known.advance(g)

    def note_late(self, t: int, late: Sequence[Answer]) -> None:
        """Remember answers of step t that came too late to count."""
        for robot, zone, _ in late:
            self.last_known.note(robot, t, zone)

    def estimate(
        self, t: int, first_wave: Sequence[str], outcome: Outcome, belief: FloatArray
    ) -> Estimate:
        """Fill the places of the round of step t; `belief` is the one before its answers."""
        k, fresh = len(first_wave), outcome.fresh
        recalled = self._recalled(outcome)
        self._watch_loss(first_wave, outcome, belief)
        needed = self._config.fresh_needed(k)
        heard = len(fresh) + len(outcome.topped_up)
        fallback = heard < needed
        if fallback or self._response is not None:
            recalled = {}
        open_places = k - len(fresh)
        if self._known_first:
            wanted = max(open_places - len(recalled), needed - len(fresh))
            topped_up = outcome.topped_up[: min(open_places, max(0, wanted))]
        else:
            topped_up = outcome.topped_up[:open_places]
        remembered = tuple(recalled)[: open_places - len(topped_up)]
        counts = self._histogram([answer.zone for answer in (*fresh, *topped_up)])
        weights = counts if self._response is None else self._response.weigh(counts)
        filled = weights
        for robot in remembered:
            law, left = recalled[robot]
            weights = weights + left * law
            filled = filled + law
        open_places -= len(topped_up) + len(remembered)
        padded = self._pad(t, counts, 0 if fallback or self._response else open_places)
        for robot, zone, _ in (*fresh, *outcome.topped_up):
            self.last_known.note(robot, t, zone)
        return Estimate(
            counts=counts,
            weights=weights,
            filled=filled,
            padded=padded,
            m=(len(fresh), len(topped_up), len(remembered), int(padded.sum())),
            remembered=remembered,
            surplus=len(outcome.topped_up) - len(topped_up),
            fallback=fallback,
        )

    def _recalled(self, outcome: Outcome) -> dict[str, Recalled]:
        """Robots that were asked in vain and what is remembered of them."""
        missing = (*outcome.silent, *outcome.stale)
        found = ((robot, self.last_known.recall(robot)) for robot in missing)
        return {robot: stand_in for robot, stand_in in found if stand_in is not None}

    def _watch_loss(self, first_wave: Sequence[str], outcome: Outcome, belief: FloatArray) -> None:
        """Count who answered, by where each was last known to be."""
        heard = {robot: zone for robot, zone, _ in outcome.fresh}
        silent = set(outcome.silent)
        asked = [robot for robot in first_wave if robot in heard or robot in silent]
        for robot in asked:
            zone = self.last_known.zone(robot)
            if zone is not None:
                self.watch.add(zone, heard=robot in heard)
        if self._response is None:
            return
        total = belief.sum()
        usual = belief / total if total > 0 else np.full(self._n_zones, 1 / self._n_zones)
        recalls = [self.last_known.recall(robot) for robot in asked if robot in silent]
        laws = [usual if recall is None else recall.law for recall in recalls]
        self._response.learn(list(heard.values()), laws)

    def _pad(self, t: int, counts: FloatArray, places: int) -> FloatArray:
        """Draw `places` copies of the answers."""
        total = counts.sum()
        if not self._config.pad or places <= 0 or total <= 0:
            return np.zeros(self._n_zones)
        drawn = self._streams.at("pad", t).multinomial(places, counts / total)
        return np.asarray(drawn, dtype=np.float64)

    def _histogram(self, zones: Sequence[int]) -> FloatArray:
        return np.bincount(np.asarray(zones, dtype=np.int64), minlength=self._n_zones).astype(
            np.float64
        )
