# SPDX-License-Identifier: MIT
"""A pre-registered comparison of selectors: what will be run is a file, committed beforehand.

The file names data, partitions, traces, selectors with their poll sizes, the seeds of the study
and, apart from them, those that were used for tuning, the targets and what is claimed. Its SHA-256
is printed with every table. All arms meet the same seeds: the same partition, devices, initial
model and training streams, so differences are paired.

Runs are written line by line to `runs.jsonl`; a study that was stopped goes on where it was, seed
by seed, so that what is there is always paired. Each run depends on the file and its seed alone,
not on the machine's load or on how many processes share the work.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.fed.client import TrainSettings
from kofn.fed.devices import TraceSettings, synthetic_devices
from kofn.fed.game import Call, GameSettings
from kofn.fed.selectors import check_sizes, make_selector
from kofn.fed.selectors.oort import OortSettings
from kofn.fed.simulate import (
    Federation,
    RunRecord,
    RunSettings,
    accuracy_at,
    gini,
    rounds_to,
    simulate,
    time_to,
    worst_decile,
)
from kofn.fed.status import FIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from kofn.fed.selectors import Selector

#: Rounds whose mean is the accuracy at the end.
LAST = 5

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

_STRUCTS: dict[str, Any] = {"game": GameSettings, "settings": OortSettings, "calls": list[Call]}

#: Selectors that learn in the background; a study has them learn at a fixed round.
_LEARNED = frozenset({"mean-field", "myopic"})


class Arm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule, with each of its poll sizes."""

    selector: str
    k: list[int] = []
    label: str = ""
    settings: dict[str, Any] = {}

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.label or self.selector

    @property
    def sizes(self) -> list[int | None]:
        """Poll sizes; None alone for a rule that takes none."""
        return [*self.k] or [None]


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be shown, by titles of arms.

    Attributes
    ----------
    arm, baseline, control : str
        The rule that claims, the one it is compared with, and the best fixed call.
    k, k_all : int
        Its poll size, and that of the comparison with all clients polled.
    factor : float
        Largest ratio of median times to a target, to the baseline's.
    accuracy_loss : float
        By how much accuracy at the horizon may be below the baseline's.
    within : float
        By what share its time may exceed that with k_all.
    """

    arm: str = "mean-field"
    baseline: str = "random"
    control: str = "fixed-call"
    k: int = 20
    k_all: int = 100
    factor: float = 0.6
    accuracy_loss: float = 0.01
    within: float = 0.15


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study file; see the module's docstring and docs/federated.md."""

    name: str
    hypotheses: list[str]
    seeds: list[int]
    tuning_seeds: list[int]
    targets: list[float]
    arms: list[Arm]
    dataset: str = "mnist-5k"
    partitions: list[str] = msgspec.field(
        default_factory=lambda: ["dirichlet:0.1", "dirichlet:0.5"]
    )
    clients: int = 100
    m: int = 10
    horizon_s: float = 2000.0
    rounds: int = 2000
    hidden: int = 32
    train: TrainSettings = TrainSettings()
    traces: TraceSettings = TraceSettings()
    claim: Claim = Claim()
    stop_rule: str = "all runs of the file"

    def __post_init__(self) -> None:
        both = sorted(set(self.seeds) & set(self.tuning_seeds))
        if both:
            raise InputError(f"seed {both[0]} is both a study seed and a tuning seed")
        for what, given in (("seeds", self.seeds), ("arms", self.arms), ("targets", self.targets)):
            if not given:
                raise InputError(f"the study has no {what}")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError("the study has a seed twice")
        if not all(0 < target < 1 for target in self.targets):
            raise InputError(f"targets {self.targets} are not accuracies between 0 and 1")
        titles = Counter(arm.title for arm in self.arms)
        if (most := titles.most_common(1)[0])[1] > 1:
            raise InputError(f"two arms are called {most[0]!r}")
        for arm in self.arms:
            for k in arm.sizes:
                check_sizes(arm.selector, n=self.clients, m=self.m, k=k)
            build(arm, (arm.k or [1])[0])


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a study: an arm with a poll size, on a partition, under a seed."""

    partition: str
    arm: str
    k: int | None
    seed: int

    @property
    def key(self) -> str:
        """What identifies the run in `runs.jsonl`."""
        return f"{self.partition}/{self.arm}/{self.k}/{self.seed}"


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one run; times in simulated seconds, sizes in bytes."""

    study: str
    cell: Cell
    time_to: list[float | None]
    rounds_to: list[int | None]
    accuracy_end: float
    worst_decile: float
    polled: int
    rounds: int
    bytes_poll: int
    bytes_model: int
    ever_trained: float
    gini: float
    calls: dict[str, int]
    selector_ms: float
    wall_s: float
    curve_s: list[float]
    curve_accuracy: list[float]


def load_study(path: Path) -> tuple[Study, str]:
    """Return a study and the SHA-256 of its file; anything wrong is one sentence."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read study {path}: {error.strerror}") from None
    try:
        study = msgspec.toml.decode(data, type=Study)
    except (msgspec.DecodeError, msgspec.ValidationError, InputError) as error:
        # A ValueError from a struct's own check comes wrapped, with its sentence inside.
        raise InputError(f"study {path}: {error}") from None
    return study, hashlib.sha256(data).hexdigest()


def build(arm: Arm, k: int | None) -> Selector:
    """Return the selector of an arm with a poll size."""
    settings = dict(arm.settings)
    for key, kind in _STRUCTS.items():
        if key in settings:
            try:
                settings[key] = msgspec.convert(settings[key], kind)
            except msgspec.ValidationError as error:
                raise InputError(f"arm {arm.title}, {key}: {error}") from None
    if arm.selector in _LEARNED:
        settings["refit"] = "blocking"
    return make_selector(arm.selector, k=k, **settings)


def cells(study: Study) -> list[Cell]:
    """Return all runs, seed by seed."""
    return [
        Cell(partition=how, arm=arm.title, k=k, seed=seed)
        for seed in study.seeds
        for how in study.partitions
        for arm in study.arms
        for k in arm.sizes
    ]


def play(study: Study, study_hash: str, cell: Cell) -> RunResult:
    """Play one run."""
    arm = next(arm for arm in study.arms if arm.title == cell.arm)
    federation = Federation.make(study.dataset, study.clients, cell.partition, seed=cell.seed)
    fleet = synthetic_devices(federation.names, study.traces, seed=cell.seed)
    settings = RunSettings(
        m=study.m,
        rounds=study.rounds,
        horizon_s=study.horizon_s,
        hidden=study.hidden,
        train=study.train,
    )
    record = simulate(build(arm, cell.k), federation, fleet, settings, bins=FIVE, seed=cell.seed)
    return _result(study, study_hash, cell, record)


def _result(study: Study, study_hash: str, cell: Cell, record: RunRecord) -> RunResult:
    rounds = record.rounds
    took_part = Counter(name for r in rounds for name in r.arrived)
    counts = np.zeros(study.clients)
    counts[: len(took_part)] = sorted(took_part.values())
    reached = [time_to(record, target) for target in study.targets]
    return RunResult(
        study=study_hash,
        cell=cell,
        # What was reached in the round that began before the horizon and ended after it is not
        # counted.
        time_to=[t if t is not None and t <= study.horizon_s else None for t in reached],
        rounds_to=[rounds_to(record, target) for target in study.targets],
        accuracy_end=accuracy_at(record, study.horizon_s, last=LAST),
        worst_decile=worst_decile(record.client_accuracy),
        polled=sum(r.polled for r in rounds),
        rounds=len(rounds),
        bytes_poll=sum(r.bytes_poll_down + r.bytes_poll_up for r in rounds),
        bytes_model=sum(r.bytes_model_down + r.bytes_model_up for r in rounds),
        ever_trained=len(took_part) / study.clients,
        gini=gini(counts),
        calls=dict(Counter(r.call.split("@")[0] for r in rounds)),
        selector_ms=1000 * record.selector_s / max(len(rounds), 1),
        wall_s=record.wall_s,
        curve_s=[round(r.end_s, 3) for r in rounds],
        curve_accuracy=[round(r.accuracy, 4) for r in rounds],
    )


def read_results(path: Path, study_hash: str) -> dict[str, RunResult]:
    """Return the runs that are there, by key; a line that was cut off is played again."""
    found: dict[str, RunResult] = {}
    if not path.exists():
        return found
    for line in path.read_bytes().splitlines():
        try:
            result = msgspec.json.decode(line, type=RunResult)
        except (msgspec.DecodeError, msgspec.ValidationError):
            continue
        if result.study != study_hash:
            raise InputError(
                f"{path} holds runs of another version of the study ({result.study[:12]}, "
                f"not {study_hash[:12]}): choose another folder"
            )
        found[result.cell.key] = result
    return found


def _quiet() -> None:
    # One process a core: libraries that start threads of their own only get in each other's way.
    for name in _THREADS:
        os.environ[name] = "1"


def run_study(
    study: Study,
    study_hash: str,
    folder: Path,
    *,
    workers: int = 0,
    only: Iterable[Cell] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[RunResult]:
    """Play what is missing and return all runs of the study.

    Parameters
    ----------
    folder : Path
        Where `runs.jsonl` is, or will be.
    workers : int
        Processes; 0 is one for each core.
    only : iterable of Cell, optional
        Part of the study; everything if omitted.
    progress : callable, optional
        Told how many runs are done, of how many, and the last one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "runs.jsonl"
    done = read_results(path, study_hash)
    asked = list(cells(study) if only is None else only)
    missing = [cell for cell in asked if cell.key not in done]
    count = len(asked) - len(missing)
    if missing:
        _end_cut_line(path)
        size = min(workers or os.cpu_count() or 1, len(missing))
        for result in _played(study, study_hash, missing, size):
            with path.open("ab") as file:
                file.write(msgspec.json.encode(result) + b"\n")
            done[result.cell.key] = result
            count += 1
            if progress is not None:
                progress(count, len(asked), result.cell.key)
    return [done[cell.key] for cell in asked]


def _end_cut_line(path: Path) -> None:
    if path.exists() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        path.write_bytes(data + b"\n")


def _played(
    study: Study, study_hash: str, missing: list[Cell], workers: int
) -> Iterable[RunResult]:
    if workers == 1:
        for cell in missing:
            yield play(study, study_hash, cell)
        return
    # A fresh interpreter for each worker reads these before it imports numpy.
    before = {name: os.environ.get(name) for name in _THREADS}
    _quiet()
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [pool.submit(play, study, study_hash, cell) for cell in missing]
            try:
                for future in as_completed(futures):
                    try:
                        yield future.result()
                    except InputError:
                        raise
                    except Exception as error:
                        raise RunError(f"a run of the study failed: {error}") from error
            finally:
                for future in futures:
                    future.cancel()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def as_json(study: Study) -> str:
    """Return the effective study, defaults included, as JSON for the folder."""
    return json.dumps(msgspec.to_builtins(study), indent=1)
