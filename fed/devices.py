# SPDX-License-Identifier: MIT
r"""Devices of clients: how fast they compute and send, and when they are online.

`synthetic_devices` draws a fleet from `TraceSettings`; the draws are **synthetic**, not measured:

- compute (ms per sample and epoch) and bandwidth (kbit/s) are lognormal across clients, with an
  optional correlation of their logarithms (fast devices have good links);
- a client is online in turns: exponential on times of mean `on_s`, off times of mean `off_s`
  divided by a day cycle, 1 + d sin(2 pi (t / day + phase)), with a phase of its own.

Real traces are read from two files:

- devices: `client,ms_per_sample,kbps[,up_kbps,rtt_ms]`
- online: `client,t_on,t_off` in seconds, half-open intervals, sorted and disjoint for each client;
  a client without a line is always online.

Time of client i in one training round (jitter lognormal, by client and round):

.. math:: t_i = rtt + 8 B_{down} / kbps + samples\, epochs\, ms/1000 + 8 B_{up} / kbps_{up}
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from kofn.controller.core.errors import InputError
from kofn.fed.streams import normal, stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Law of a synthetic fleet; the defaults are in the range of small boards on a shared link.

    Attributes
    ----------
    ms_per_sample, sigma_compute : float
        Median over clients of the time for one sample in one epoch, ms; log-standard deviation.
    kbps, sigma_link, up_share : float
        Median downlink, kbit/s; log-standard deviation; uplink as a share of the downlink.
    correlation : float
        Of log speed and log bandwidth, -1 to 1.
    rtt_ms : float
        Round-trip time of a message, ms.
    jitter : float
        Log-standard deviation of each round's duration.
    on_s, off_s : float
        Mean times online and offline, s; off_s = 0 keeps everybody online.
    day_s, day_depth : float
        Length of the day cycle, s, and its depth from 0 to below 1.
    """

    ms_per_sample: float = 20.0
    sigma_compute: float = 1.0
    kbps: float = 500.0
    sigma_link: float = 0.7
    up_share: float = 0.5
    correlation: float = 0.0
    rtt_ms: float = 200.0
    jitter: float = 0.2
    on_s: float = 1800.0
    off_s: float = 600.0
    day_s: float = 7200.0
    day_depth: float = 0.6

    def __post_init__(self) -> None:
        for name in ("ms_per_sample", "kbps", "up_share", "on_s", "day_s"):
            if not 0 < getattr(self, name) < 1e9:
                raise InputError(f"trace setting {name} {getattr(self, name)} is not positive")
        for name in ("sigma_compute", "sigma_link", "jitter"):
            if not 0 <= getattr(self, name) <= 5:
                raise InputError(f"trace setting {name} {getattr(self, name)} is not from 0 to 5")
        if not 0 <= self.rtt_ms < 1e6 or not 0 <= self.off_s < 1e9:
            raise InputError(f"rtt_ms {self.rtt_ms} or off_s {self.off_s} is negative")
        if not -1 <= self.correlation <= 1 or not 0 <= self.day_depth < 1:
            raise InputError(
                f"correlation {self.correlation} is not from -1 to 1, "
                f"or day_depth {self.day_depth} is not at least 0 and below 1"
            )


@dataclass(slots=True, eq=False)
class Online:
    """When one client is online: half-open intervals, grown on demand where they are drawn."""

    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    source: Iterator[tuple[float, float]] | None = None

    def _reach(self, t: float) -> None:
        while self.source is not None and (not self.ends or self.ends[-1] <= t):
            begin, end = next(self.source)
            self.begins.append(begin)
            self.ends.append(end)

    def at(self, t: float) -> bool:
        """Return whether the client is online at time t, s."""
        self._reach(t)
        i = bisect_right(self.begins, t) - 1
        return i >= 0 and t < self.ends[i]

    def until(self, t: float) -> float:
        """Return when the client that is online at t goes offline, s; t itself if it is not."""
        self._reach(t)
        i = bisect_right(self.begins, t) - 1
        return self.ends[i] if i >= 0 and t < self.ends[i] else t

    def next_on(self, t: float) -> float:
        """Return the first time from t on at which the client is online, s; inf for never."""
        if self.at(t):
            return t
        i = bisect_right(self.begins, t)
        if i == len(self.begins) and self.source is not None:
            begin, end = next(self.source)
            self.begins.append(begin)
            self.ends.append(end)
        return self.begins[i] if i < len(self.begins) else math.inf


def _always() -> Online:
    return Online([-math.inf], [math.inf])


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What one client has: ms for a sample and epoch, kbit/s down and up, round-trip time in ms."""

    ms_per_sample: float
    kbps: float
    up_kbps: float
    rtt_ms: float

    def seconds(self, *, down: float, samples: float, up: float) -> float:
        """Return the time to receive, compute and send, s; bytes, samples x epochs, bytes."""
        return (
            self.rtt_ms / 1000
            + 8 * down / (1000 * self.kbps)
            + samples * self.ms_per_sample / 1000
            + 8 * up / (1000 * self.up_kbps)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Fleet:
    """The devices of a run, and when each is online."""

    devices: dict[str, Device]
    online: dict[str, Online]
    jitter: float
    seed: int

    def online_at(self, t: float) -> list[str]:
        """Return the names of the clients online at time t, s, in order of the fleet."""
        return [name for name, own in self.online.items() if own.at(t)]

    def noise(self, name: str, *keys: str | int) -> float:
        """Return a lognormal factor of median 1, by client and keys."""
        if self.jitter == 0:
            return 1.0
        return math.exp(self.jitter * normal(self.seed, "jitter", name, *keys))


def _turns(settings: TraceSettings, rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    phase = rng.random()
    t = 0.0
    # In equilibrium at the start: online with the long-run probability.
    if rng.random() >= settings.on_s / (settings.on_s + settings.off_s):
        t += rng.exponential(settings.off_s)
    while True:
        end = t + rng.exponential(settings.on_s)
        yield t, end
        day = 1 + settings.day_depth * math.sin(2 * math.pi * (end / settings.day_s + phase))
        t = end + rng.exponential(settings.off_s / day)


def synthetic_devices(names: Sequence[str], settings: TraceSettings, *, seed: int) -> Fleet:
    """Return a fleet drawn from `settings`; each client from its own stream."""
    devices, online = {}, {}
    rho = settings.correlation
    for name in names:
        rng = stream(seed, "device", name)
        speed, other = rng.standard_normal(2)
        link = rho * speed + math.sqrt(1 - rho**2) * other
        kbps = settings.kbps * math.exp(settings.sigma_link * link)
        devices[name] = Device(
            # A fast device takes less time for a sample.
            ms_per_sample=settings.ms_per_sample * math.exp(-settings.sigma_compute * speed),
            kbps=kbps,
            up_kbps=settings.up_share * kbps,
            rtt_ms=settings.rtt_ms,
        )
        always = settings.off_s == 0
        turns = _turns(settings, stream(seed, "online", name))
        online[name] = _always() if always else Online(source=turns)
    return Fleet(devices, online, settings.jitter, seed)


def read_devices(path: Path) -> dict[str, Device]:
    """Return the devices of a file `client,ms_per_sample,kbps[,up_kbps,rtt_ms]`."""
    found: dict[str, Device] = {}
    required = ["client", "ms_per_sample", "kbps"]
    for line, row in _rows(path, required, [*required, "up_kbps", "rtt_ms"]):
        name = row["client"]
        if name in found:
            raise InputError(f"{path}, line {line}: client {name} stands there twice")
        kbps = _number(path, line, row, "kbps", positive=True)
        found[name] = Device(
            ms_per_sample=_number(path, line, row, "ms_per_sample", positive=True),
            kbps=kbps,
            up_kbps=_number(path, line, row, "up_kbps", positive=True)
            if "up_kbps" in row
            else kbps,
            rtt_ms=_number(path, line, row, "rtt_ms") if "rtt_ms" in row else 0.0,
        )
    if not found:
        raise InputError(f"{path} holds no device")
    return found


def read_online(path: Path, names: Sequence[str]) -> dict[str, Online]:
    """Return when the given clients are online, from a file `client,t_on,t_off`."""
    columns = ["client", "t_on", "t_off"]
    found = {name: Online() for name in names}
    for line, row in _rows(path, columns, columns):
        name = row["client"]
        if name not in found:
            raise InputError(f"{path}, line {line}: client {name} is not among the devices")
        begin, end = (_number(path, line, row, key) for key in ("t_on", "t_off"))
        own = found[name]
        if end <= begin:
            raise InputError(f"{path}, line {line}: t_off {end:g} is not after t_on {begin:g}")
        if own.ends and begin < own.ends[-1]:
            raise InputError(
                f"{path}, line {line}: client {name} has t_on {begin:g} before the end "
                f"{own.ends[-1]:g} of its interval above"
            )
        own.begins.append(begin)
        own.ends.append(end)
    return {name: own if own.begins else _always() for name, own in found.items()}


def read_fleet(
    devices: Path, online: Path | None = None, *, jitter: float = 0.0, seed: int = 0
) -> Fleet:
    """Return a fleet from trace files; without a file of online times everybody stays online."""
    found = read_devices(devices)
    names = list(found)
    when = {name: _always() for name in names} if online is None else read_online(online, names)
    return Fleet(found, when, jitter, seed)


def _rows(
    path: Path, required: list[str], known: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {reason}") from None
    reader = csv.reader(text.splitlines())
    header = next(reader, [])
    columns = [column.strip() for column in header]
    foreign = [column for column in columns if column not in known]
    missing = [column for column in required if column not in columns]
    if foreign or missing or len(set(columns)) < len(columns):
        raise InputError(
            f"{path}, line 1: the columns are {','.join(columns) or 'missing'}, "
            f"but must be {','.join(known)}"
        )
    for row in reader:
        if not row:
            continue
        if len(row) != len(columns):
            raise InputError(
                f"{path}, line {reader.line_num}: {len(row)} values, not {len(columns)}"
            )
        yield reader.line_num, dict(zip(columns, (cell.strip() for cell in row), strict=True))


def _number(
    path: Path, line: int, row: dict[str, str], key: str, *, positive: bool = False
) -> float:
    try:
        value = float(row[key])
    except ValueError:
        raise InputError(f"{path}, line {line}: {key} {row[key]!r} is not a number") from None
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        limit = "above 0" if positive else "at least 0"
        raise InputError(f"{path}, line {line}: {key} {value:g} is not {limit} and finite")
    return value
