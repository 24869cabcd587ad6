# SPDX-License-Identifier: MIT
"""One federated run on the event clock: any selector, any fleet, models of `learn`, FedAvg.

A round: who is online; the poll that the selector wants, charged in full; its choice; training
until the deadline or the last arrival; the mean of what arrived, by samples; the selector learns
what the server saw. The true devices stay with the clock.

Fairness is judged by the test accuracy that each client would see: the recall of each class,
weighted by the client's own class shares. The worst decile is its mean over the tenth of the
clients that are served worst.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.client import ClientMemory, TrainSettings, answer, asked_epochs, local_round
from kofn.fed.clock import EventClock, Passed
from kofn.fed.data import Dataset, client_names, load_dataset, partition
from kofn.fed.learn import Model, accuracy, average, sample_losses
from kofn.fed.selectors.protocol import Outcome
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from kofn.fed.devices import Fleet
    from kofn.fed.learn import I64, Parameters
    from kofn.fed.selectors.protocol import Selection, Selector, Status
    from kofn.fed.status import Bins


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """Clients by name, and the samples of each."""

    data: Dataset
    names: list[str]
    parts: list[I64]

    @classmethod
    def make(cls, dataset: str, n: int, how: str, *, seed: int) -> Federation:
        """Load a data set and spread it over n clients."""
        data = load_dataset(dataset, seed=seed)
        return cls(data, client_names(n), partition(data, n, how, seed=seed))

    @property
    def samples(self) -> dict[str, int]:
        """Number of samples of each client."""
        return {name: len(part) for name, part in zip(self.names, self.parts, strict=True)}


class RunSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a run goes on and what it trains.

    Attributes
    ----------
    m : int
        Clients chosen in a round.
    rounds : int
        Rounds at most.
    horizon_s : float, optional
        Simulated seconds after which no round begins.
    hidden : int
        Hidden units of the model; 0 is softmax regression.
    train : TrainSettings
    poll_timeout_s, round_timeout_s : float
        The server waits no longer, s.
    """

    m: int = 10
    rounds: int = 60
    horizon_s: float | None = None
    hidden: int = 32
    train: TrainSettings = TrainSettings()
    poll_timeout_s: float = 60.0
    round_timeout_s: float = 3600.0


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round as the log keeps it; times in simulated seconds, sizes in bytes."""

    round: int
    end_s: float
    poll_s: float
    round_s: float
    accuracy: float
    online: int
    polled: int
    replied: int
    chosen: list[str]
    arrived: list[str]
    call: str
    deadline_s: float | None
    bytes_poll_down: int
    bytes_poll_up: int
    bytes_model_down: int
    bytes_model_up: int


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run.

    Attributes
    ----------
    selector, seed
        Name of the rule, seed of the run.
    rounds : list of RoundRecord
    client_accuracy : list of float
        Expected test accuracy of each client at the end, see the module's docstring.
    dropped : int
        Statuses that broke the declared limits.
    wall_s : float
        Real seconds that the run took.
    selector_s : float
        Real seconds spent inside the selector, all rounds together.
    """

    selector: str
    seed: int
    rounds: list[RoundRecord]
    client_accuracy: list[float]
    dropped: int
    wall_s: float
    selector_s: float


class _Run:
    def __init__(
        self, selector: Selector, federation: Federation, fleet: Fleet, settings: RunSettings,
        bins: Bins, seed: int,
    ) -> None:  # fmt: skip
        data = federation.data
        missing = [name for name in federation.names if name not in fleet.devices]
        if missing:
            raise InputError(f"client {missing[0]} has no device in the traces")
        if settings.m > len(federation.names):
            raise InputError(
                f"clients per round {settings.m} exceed the {len(federation.names)} registered"
            )
        self.selector, self.settings, self.bins, self.seed = selector, settings, bins, seed
        self.data = data
        self.own = {
            name: (data.x[part], data.y[part])
            for name, part in zip(federation.names, federation.parts, strict=True)
        }
        self.samples = federation.samples
        self.model = Model(
            n_features=data.n_features, n_classes=data.n_classes, hidden=settings.hidden
        )
        self.parameters: Parameters = self.model.initial(seed)
        self.clock = EventClock(fleet)
        self.memory = dict.fromkeys(federation.names, ClientMemory())
        self.records: list[RoundRecord] = []
        self.selector_s = 0.0

    def _timed(self, started: float) -> None:
        self.selector_s += time.perf_counter() - started

    def _estimates(self, name: str, server_round: int) -> tuple[float, float, float]:
        """Return what a client believes of itself: download, computing and upload, s."""
        device = self.clock.fleet.devices[name]
        factor = self.clock.fleet.noise(name, "self", server_round)
        size = self.model.n_bytes
        work = self.samples[name] * self.settings.train.epochs
        return (
            factor * (device.seconds(down=size, samples=0, up=0)),
            factor * work * device.ms_per_sample / 1000,
            factor * 8 * size / (1000 * device.up_kbps),
        )

    def round(self, server_round: int) -> None:
        online = self.clock.wait_for_somebody()
        began = time.perf_counter()
        request = self.selector.wants(server_round, online, stream(self.seed, "w", server_round))
        self._timed(began)
        polled = self.clock.poll(
            request,
            samples=self.samples,
            model_bytes=self.model.n_bytes,
            server_round=server_round,
            timeout_s=self.settings.poll_timeout_s,
        )
        replies: list[Status] = []
        for name in polled.arrived:
            down_s, compute_s, up_s = self._estimates(name, server_round)
            replies.append(
                answer(
                    request,
                    self.parameters,
                    *self.own[name],
                    self.memory[name],
                    self.bins,
                    name=name,
                    server_round=server_round,
                    download_s=down_s,
                    compute_s=compute_s,
                    upload_s=up_s,
                    seed=self.seed,
                )
            )
        online = self.clock.wait_for_somebody()
        began = time.perf_counter()
        self.selector.observe(server_round, replies)
        selection = self.selector.select(
            server_round, online, self.settings.m, stream(self.seed, "s", server_round)
        )
        self._timed(began)
        outcomes, passed = self._train(server_round, selection)
        began = time.perf_counter()
        self.selector.update(server_round, outcomes)
        self._timed(began)
        self.records.append(
            RoundRecord(
                round=server_round,
                end_s=self.clock.now,
                poll_s=polled.seconds,
                round_s=passed.seconds,
                accuracy=accuracy(self.parameters, self.data.x_test, self.data.y_test),
                online=len(online),
                polled=len(polled.arrived) + len(polled.waited),
                replied=len(polled.arrived),
                chosen=list(selection.clients),
                arrived=list(passed.arrived),
                call=selection.call,
                deadline_s=selection.deadline_s,
                bytes_poll_down=polled.down,
                bytes_poll_up=polled.up,
                bytes_model_down=passed.down,
                bytes_model_up=passed.up,
            )
        )

    def _train(self, server_round: int, selection: Selection) -> tuple[list[Outcome], Passed]:
        configs = selection.per_client_config
        durations = {name: sum(self._estimates(name, server_round)) for name in selection.clients}
        epochs = {
            name: asked_epochs(
                self.settings.train,
                configs.get(name, {}),
                self.memory[name],
                self.bins,
                server_round=server_round,
                duration_s=durations[name],
            )
            for name in selection.clients
        }
        limit = self.settings.round_timeout_s
        passed = self.clock.train(
            selection.clients,
            samples=self.samples,
            epochs=epochs,
            model_bytes=self.model.n_bytes,
            server_round=server_round,
            deadline_s=min(selection.deadline_s or limit, limit),
            keep=selection.keep,
        )
        updates = {}
        for name in selection.clients:
            if name not in passed.arrived:
                # It measured the model and trained in vain; its parameters are never needed.
                losses, _ = sample_losses(self.parameters, *self.own[name])
                self.memory[name] = ClientMemory(
                    last_loss=float(losses.mean()), last_trained=server_round
                )
                continue
            updates[name] = local_round(
                self.parameters,
                *self.own[name],
                self.settings.train,
                configs.get(name, {}),
                self.memory[name],
                self.bins,
                name=name,
                server_round=server_round,
                duration_s=durations[name],
                seed=self.seed,
            )
            self.memory[name] = updates[name].memory
        outcomes = []
        for name in selection.clients:
            if name in passed.arrived:
                outcomes.append(updates[name].outcome(name, passed.arrived[name]))
                continue
            outcomes.append(
                Outcome(
                    name=name,
                    duration_s=passed.waited[name],
                    loss=None,
                    samples=0,
                    arrived=False,
                    epochs=epochs[name],
                )
            )
        # By name, so that the sums do not depend on who arrived first.
        came = sorted(passed.arrived)
        if came:
            self.parameters = average(
                [(updates[name].parameters, updates[name].samples) for name in came]
            )
        return outcomes, passed

    def client_accuracy(self) -> list[float]:
        """Return the expected test accuracy of each client."""
        data, n_classes = self.data, self.data.n_classes
        recall = np.zeros(n_classes)
        for label in range(n_classes):
            mine = data.y_test == label
            if mine.any():
                recall[label] = accuracy(self.parameters, data.x_test[mine], data.y_test[mine])
        shares = np.array(
            [np.bincount(y, minlength=n_classes) / len(y) for _, y in self.own.values()]
        )
        found: list[float] = (shares @ recall).tolist()
        return found


def simulate(
    selector: Selector,
    federation: Federation,
    fleet: Fleet,
    settings: RunSettings,
    *,
    bins: Bins,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> RunRecord:
    """Play one run and return its record; the selector is closed at the end.

    Parameters
    ----------
    selector : Selector
        Fresh, or restored.
    federation, fleet : Federation, Fleet
        Samples and devices of the same clients.
    settings : RunSettings
    bins : Bins
        Declared bins, by which clients report.
    seed : int
        Of models and training; partitions and traces have been drawn before.
    progress : callable, optional
        Told the round and the number of rounds.
    """
    began = time.perf_counter()
    run = _Run(selector, federation, fleet, settings, bins, seed)
    try:
        selector.register(federation.names)
        for server_round in range(1, settings.rounds + 1):
            if settings.horizon_s is not None and run.clock.now >= settings.horizon_s:
                break
            run.round(server_round)
            if progress is not None:
                progress(server_round, settings.rounds)
    finally:
        selector.close()
    intake = getattr(selector, "intake", None)
    return RunRecord(
        selector=selector.name,
        seed=seed,
        rounds=run.records,
        client_accuracy=run.client_accuracy(),
        dropped=0 if intake is None else intake.dropped.total(),
        wall_s=time.perf_counter() - began,
        selector_s=run.selector_s,
    )


def time_to(record: RunRecord, target: float) -> float | None:
    """Return the simulated seconds to a test accuracy, s; None if it was never reached."""
    return next((r.end_s for r in record.rounds if r.accuracy >= target), None)


def rounds_to(record: RunRecord, target: float) -> int | None:
    """Return the rounds to a test accuracy; None if it was never reached."""
    return next((r.round for r in record.rounds if r.accuracy >= target), None)


def accuracy_at(record: RunRecord, t: float, *, last: int = 1) -> float:
    """Return the mean accuracy of the last rounds that ended by time t, s; 0 before the first."""
    done = [r.accuracy for r in record.rounds if r.end_s <= t][-last:]
    return float(np.mean(done)) if done else 0.0


def gini(counts: npt.ArrayLike) -> float:
    """Return the Gini coefficient of how often clients took part; 0 is even."""
    x = np.sort(np.asarray(counts, dtype=np.float64))
    if x.sum() <= 0:
        return 0.0
    n = len(x)
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * x.sum()))


def worst_decile(values: Sequence[float]) -> float:
    """Return the mean of the smallest tenth of the values."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return float(ordered[: max(1, len(ordered) // 10)].mean())


__all__ = [
    "Federation",
    "RoundRecord",
    "RunRecord",
    "RunSettings",
    "accuracy_at",
    "gini",
    "rounds_to",
    "simulate",
    "time_to",
    "worst_decile",
]
