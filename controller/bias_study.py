# SPDX-License-Identifier: MIT
"""What a poll says when some robots do not answer: strategies side by side, on the real code.

Robots move among five zones as a Markov chain that the controller knows; their host, on the memory
bus, loses answers by the zone that a robot is in. The control loop polls it as it polls any fleet,
each strategy with its settings, and its estimates are compared with where all robots were:

    error  mean over steps of (1/2) sum_z |estimate_z - truth_z|   (total variation)
    bias   mean over steps of estimate_0 - truth_0                 (zone 0 is the one that loses)

| column | n | k | a robot stays put with | answers lost |
|---|---|---|---|---|
| A | 1000 | 50 | 0.85 | 20 %, everywhere |
| B | 1000 | 50 | 0.85 | 10 %, in zone 0 60 % |
| C | 1000 | 50 | 0.99 | as B |
| D | 100 | 30 | 0.99 | as B |

Two strategies are computed from the answers of another one, because the controller does not offer
them: weighting by a chance to answer that nobody knows in the field, and the fastest k of 2k.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kofn.controller.config import ControllerConfig
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.memory import MemoryBus
from kofn.controller.link.messages import (
    Conn,
    Done,
    Flag,
    Message,
    Poll,
    Presence,
    Reply,
    RobotRange,
    Roster,
    Row,
    Step,
    decode,
    encode,
)
from kofn.controller.link.policies import spaces_of
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.controller.loop import ControlLoop
from kofn.controller.record import RunFolder, read_run
from kofn.controller.results import Decision
from kofn.controller.streams import Streams

ZONES = 5
WARM_UP_STEPS = 60
"""Not judged: nothing is remembered yet."""
LOSSY_SLOWNESS = 2.0
"""Where loss depends on the zone, an answer from zone 0 takes so many times longer; only the
fastest-k strategy cares."""

_FLEET, _HOST, _BOOT = "bias", "h0", "boot"

FloatArray = npt.NDArray[np.float64]


class Column(NamedTuple):
    """A fleet and the loss that it suffers."""

    name: str
    n: int
    k: int
    stay: float
    loss: tuple[float, ...]

    @property
    def kernel(self) -> FloatArray:
        """Law of the next zone, shape (ZONES, ZONES): stay, or move to a neighbour on the ring."""
        eye = np.eye(ZONES)
        around = np.roll(eye, 1, axis=1) + np.roll(eye, -1, axis=1)
        kernel: FloatArray = self.stay * eye + (1 - self.stay) / 2 * around
        return kernel


_BY_ZONE = (0.6, 0.1, 0.1, 0.1, 0.1)

COLUMNS = (
    Column("A", 1000, 50, 0.85, (0.2,) * ZONES),
    Column("B", 1000, 50, 0.85, _BY_ZONE),
    Column("C", 1000, 50, 0.99, _BY_ZONE),
    Column("D", 100, 30, 0.99, _BY_ZONE),
)

_ALONE: dict[str, Any] = {"waves": 1, "known_max_age": 0}
_EVER: dict[str, Any] = {"waves": 1, "known_max_age": 300}


class Strategy(NamedTuple):
    """What to do about missing answers: settings of the controller, and what to read from it."""

    name: str
    settings: dict[str, Any]
    read: Callable[["Played", Decision], Sequence[float] | FloatArray]
    lossless: bool = False
    fastest: bool = False


class Played(NamedTuple):
    """A run: its decisions, the fleet's true distribution by step, answers by speed."""

    column: Column
    decisions: list[Decision]
    truth: list[FloatArray]
    by_speed: dict[int, list[int]]


def _share(_: Played, decision: Decision) -> Sequence[float]:
    return decision.share


def _padded(_: Played, decision: Decision) -> FloatArray:
    return np.add(decision.counts, decision.padded)


def _belief(_: Played, decision: Decision) -> Sequence[float]:
    return decision.belief


def _known_chance(played: Played, decision: Decision) -> FloatArray:
    heard = np.asarray(decision.counts, dtype=np.float64)
    return heard / (1 - np.asarray(played.column.loss, dtype=np.float64))


def _fastest(played: Played, decision: Decision) -> FloatArray:
    zones = played.by_speed[decision.t][: played.column.k]
    return np.bincount(zones, minlength=ZONES).astype(np.float64)


STRATEGIES = (
    Strategy("all k answer (ideal)", _ALONE, _share, lossless=True),
    Strategy("drop the missing, use m < k", _ALONE, _share),
    Strategy("pad to k by bootstrap", _ALONE, _padded),
    Strategy("ask others instead (second wave)", _ALONE | {"waves": 2}, _share),
    Strategy("poll 2k, keep the fastest k", _ALONE, _fastest, fastest=True),
    Strategy("last-known of the missing", _EVER | {"known_ageing": "as-seen"}, _share),
    Strategy("last-known through the local model", _EVER, _share),
    Strategy("weight by 1/P(answer by zone), P known", _ALONE, _known_chance),
    Strategy("weight by 1/P, P estimated", _EVER | {"estimator": "weighted"}, _share),
    Strategy("default settings", {}, _share),
    Strategy("default with fill = known-first", {"fill": "known-first"}, _share),
)
"""Estimates from one round alone."""

BELIEF_STRATEGIES = (
    Strategy("belief, ideal", _ALONE, _belief, lossless=True),
    Strategy("belief, drop the missing", _ALONE, _belief),
    Strategy("belief, default settings", {}, _belief),
    Strategy("belief, fill = known-first", {"fill": "known-first"}, _belief),
    Strategy("belief, estimator = weighted", {"estimator": "weighted"}, _belief),
)
"""What the decision is taken from, with a memory of 4k agents."""


class Score(NamedTuple):
    """One cell of the table."""

    strategy: str
    column: str
    error: float
    bias: float


def study(
    columns: Sequence[Column] = COLUMNS,
    strategies: Sequence[Strategy] = STRATEGIES + BELIEF_STRATEGIES,
    *,
    steps: int = 300,
    seed: int = 0,
    progress: Callable[[Score], None] = lambda _: None,
) -> list[Score]:
    """Play every strategy in every column; return the cells, row by row.

    Parameters
    ----------
    columns, strategies
        What to compare.
    steps
        Judged steps of each run.
    seed
        Robots and losses are the same for all strategies of a column.
    progress
        Called with each cell.
    """
    scores = []
    runs: dict[str, Played] = {}
    for strategy in strategies:
        for column in columns:
            run = f"{column} {strategy.settings} {strategy.lossless} {strategy.fastest}"
            if run not in runs:
                runs[run] = play(column, strategy, steps=steps, seed=seed)
            played = runs[run]
            misses = []
            for decision in played.decisions[WARM_UP_STEPS:]:
                weights = np.asarray(strategy.read(played, decision), dtype=np.float64)
                if weights.sum() > 0:
                    misses.append(weights / weights.sum() - played.truth[decision.t])
            miss = np.asarray(misses)
            error = float(np.abs(miss).sum(axis=1).mean() / 2)
            scores.append(Score(strategy.name, column.name, error, float(miss[:, 0].mean())))
            progress(scores[-1])
    return scores


def play(column: Column, strategy: Strategy, *, steps: int, seed: int) -> Played:
    """Steer a fleet for `steps` judged steps after a warm-up."""
    k = 2 * column.k if strategy.fastest else column.k
    game = Game(
        np.ones((1, 1, 1)),
        np.zeros((1, 1)),
        column.kernel[None, :, None, :],
        np.zeros((1, ZONES, 1)),
        0.9,
    )
    config = ControllerConfig(
        fleet=_FLEET,
        k=k,
        steps=WARM_UP_STEPS + steps,
        robots=column.n,
        seed=seed,
        m_min=0,
        memory=4.0 * k,
        **strategy.settings,
    )
    clock = FakeClock()
    bus = MemoryBus(clock)
    host = _LossyHost(column, bus, seed, strategy)
    decisions: list[Decision] = []
    with tempfile.TemporaryDirectory(prefix="kofn-bias-") as name:
        folder = RunFolder(Path(name))
        ControlLoop(
            config,
            Policy.uniform(game, 1),
            bus.transport(),
            clock,
            folder,
            1,
            progress=decisions.append,
        ).run()
        by_speed = _by_speed(Path(name)) if strategy.fastest else {}
    return Played(column, decisions, host.truth, by_speed)


def _by_speed(folder: Path) -> dict[int, list[int]]:
    """Step -> zones in the order in which answers arrived."""
    found: dict[int, list[int]] = {}
    for entry in read_run(folder):
        if isinstance(entry.message, Reply):
            zones = [row.z for row in entry.message.r if row.z is not None]
            found.setdefault(entry.message.t, []).extend(zones)
    return found


class _LossyHost:
    """An actor on the memory bus whose robots do not always get through."""

    def __init__(self, column: Column, bus: MemoryBus, seed: int, strategy: Strategy) -> None:
        self.truth: list[FloatArray] = []
        self._n = column.n
        self._cdf = column.kernel.cumsum(axis=1)
        self._loss = np.zeros(ZONES) if strategy.lossless else np.asarray(column.loss)
        self._fastest = strategy.fastest
        self._slowness = LOSSY_SLOWNESS if len(set(column.loss)) > 1 else 1.0
        self._streams = Streams(seed)
        self._zones = self._streams.at("start", 0).integers(0, ZONES, column.n)
        self._lost = np.zeros(column.n, dtype=np.bool_)
        self._delay = np.zeros(column.n)
        self._topics = Topics(_FLEET)
        self._have: list[str] = []
        self._transport = bus.transport()
        self._transport.open(
            Session(
                client_id=_HOST,
                filters=self._topics.host_filters(_HOST),
                will=lambda c: self._presence("CONNECTION_BROKEN", c),
                birth=lambda c: [self._presence("ONLINE", c), self._roster()],
            )
        )
        bus.attach(self, self._transport)

    def on_time(self) -> float | None:
        """Nothing is ever due."""
        return None

    def on_message(self, message: Inbound) -> None:
        """Latch at a step, answer a poll, hold a policy."""
        address = self._topics.parse(message.topic)
        if address is None or not message.payload:
            return
        if address.kind == "step":
            self._take(decode(Step, message.payload))
        elif address.kind == "poll":
            self._answer(decode(Poll, message.payload))
        elif address.kind == "pol":
            self._have = [f"sha256:{address.name}"]
            roster = self._roster()
            self._transport.publish(roster.topic, roster.payload, qos=1, retain=True)

    def _take(self, step: Step) -> None:
        rng = self._streams.at("robots", step.t)
        if step.t:
            moves = rng.random(self._n)
            self._zones = (moves[:, None] > self._cdf[self._zones]).sum(axis=1)
        self._zones = np.minimum(self._zones, ZONES - 1)
        self.truth.append(np.bincount(self._zones, minlength=ZONES) / self._n)
        self._lost = rng.random(self._n) < self._loss[self._zones]
        self._delay = rng.random(self._n) * np.where(self._zones == 0, self._slowness, 1.0)
        done = Done(ep=step.ep, t=step.t, b=_BOOT, n=self._n, sim=0)
        self._publish("done", done)

    def _answer(self, poll: Poll) -> None:
        asked = [int(name[1:]) for name in poll.ids]
        heard = [i for i in asked if not self._lost[i]]
        if self._fastest:
            heard.sort(key=lambda i: self._delay[i])
        rows = [Row(f"r{i}", int(self._zones[i]), Flag.OK, 0) for i in heard]
        self._publish("rep", Reply(ep=poll.ep, t=poll.t, q=poll.q, b=_BOOT, n=self._n, r=rows))

    def _publish(self, kind: str, message: Message) -> None:
        self._transport.publish(self._topics.of(kind, _HOST), encode(message))

    def _presence(self, state: Presence, connection: int) -> Outbound:
        conn = Conn(b=_BOOT, c=connection, st=state, n=self._n)
        return Outbound(self._topics.of("conn", _HOST), encode(conn), qos=1, retain=True)

    def _roster(self) -> Outbound:
        spaces = spaces_of(ZONES, 1, 1)
        roster = Roster(
            b=_BOOT,
            pace="lockstep",
            robots=RobotRange(prefix="r", count=self._n),
            S=spaces.S,
            G=spaces.G,
            A=spaces.A,
            have=self._have,
        )
        return Outbound(self._topics.of("roster", _HOST), encode(roster), qos=1, retain=True)
