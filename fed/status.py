# SPDX-License-Identifier: MIT
r"""What a client tells of itself: one coarse bin, computed by the client, and its form on the wire.

A bin is value x speed. *Value*: how much may be learned from the client, by the loss it last
measured against the server's mean and by the rounds since it trained. *Speed*: its own estimate of
one training round against limits that come with the poll. In the federated game state 0 is
offline and state 1 + bin a client that replied.

==========================  ======================================================
bins                        states of a client
==========================  ======================================================
`FIVE` (default)            offline, {low, high} x {slow, fast}
`SEVEN`                     offline, {fresh, stale, high} x {slow, fast}
==========================  ======================================================

*high*: never trained, or its loss is above the server's mean. *fresh*: trained in the last `FRESH`
rounds. With two value bins a client that has not trained for `STALE` rounds is high too.

A reply is a flat record of numbers (keys `v`, `bin`, `last`, and on request `loss`, `samples`,
`compute_s`, `upload_s`). Whatever else comes in is refused by `decode` in one sentence; `Intake`
drops it, counts it and goes on, so that no hostile reply reaches a model.

With randomised response a client sends an even draw over all bins with probability f, its true bin
otherwise; the histogram is unbiased by (c_j - f |c| / B) / (1 - f), cut to the simplex.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError
from kofn.fed.selectors.protocol import (
    EPOCHS,
    EPOCHS_BY_BIN,
    REFERENCE_LOSS,
    REFERENCE_S,
    ConfigValue,
    Reference,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

_LOG = logging.getLogger(__name__)

#: Version of the reply.
VERSION = 1

#: Rounds for which a client that trained counts as fresh, and after which it is worth a visit.
FRESH = 3
STALE = 20

#: Limits of what a reply may claim; anything beyond is a fault or an attack.
MAX_LOSS = 1e6
MAX_SAMPLES = 10**9
MAX_SECONDS = 1e7
MAX_ROUND = 10**9

_OPTIONAL = {"loss": MAX_LOSS, "samples": MAX_SAMPLES, "compute_s": MAX_SECONDS}
_OPTIONAL["upload_s"] = MAX_SECONDS


class Bins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The declared bins of a run: value names from low to high, speed names from slow to fast."""

    value: tuple[str, ...] = ("low", "high")
    speed: tuple[str, ...] = ("slow", "fast")

    def __post_init__(self) -> None:
        if len(self.value) not in {2, 3} or not 1 <= len(self.speed) <= 4:
            raise InputError(
                f"bins have {len(self.value)} values and {len(self.speed)} speeds, "
                "but must have 2 or 3 and 1 to 4"
            )

    @property
    def size(self) -> int:
        """Number of bins."""
        return len(self.value) * len(self.speed)

    @property
    def n_states(self) -> int:
        """Number of client states, offline included."""
        return 1 + self.size

    def index(self, value: int, speed: int) -> int:
        """Return the bin of a value bin and a speed bin."""
        return value * len(self.speed) + speed

    def split(self, bin_: int) -> tuple[int, int]:
        """Return the value bin and the speed bin of a bin."""
        return divmod(bin_, len(self.speed))

    def labels(self) -> tuple[str, ...]:
        """Return the names of all client states."""
        pairs = (f"{value} {speed}" for value in self.value for speed in self.speed)
        return ("offline", *pairs)


FIVE = Bins()
SEVEN = Bins(value=("fresh", "stale", "high"))


def client_bin(
    bins: Bins,
    *,
    server_round: int,
    last_trained: int,
    loss: float | None,
    duration_s: float,
    reference: Reference,
) -> int:
    """Return a client's bin, as it computes it itself.

    Parameters
    ----------
    bins : Bins
        As declared for the run.
    server_round, last_trained : int
        The round of the poll, and that of the client's last training (-1: never).
    loss : float, optional
        Mean sample loss that it measured when it last trained.
    duration_s : float
        Its own estimate of one full training round, s.
    reference : Reference
        As it came with the poll. Without a mean loss a client that has trained is not high.
    """
    never = last_trained < 0
    high = never or (loss is not None and reference.loss is not None and loss > reference.loss)
    age = server_round - last_trained
    two = len(bins.value) == 2
    value = int(high or age > STALE) if two else 2 if high else int(age > FRESH)
    limits = reference.duration_s
    slower = sum(duration_s > limit for limit in limits)
    speed = max(len(bins.speed) - 1 - slower, 0)
    return bins.index(value, speed)


def reference_settings(reference: Reference) -> dict[str, ConfigValue]:
    """Return a reference as settings that travel with the model."""
    settings: dict[str, ConfigValue] = {}
    if reference.loss is not None:
        settings[REFERENCE_LOSS] = float(reference.loss)
    if reference.duration_s:
        settings[REFERENCE_S] = ",".join(f"{limit:.6g}" for limit in reference.duration_s)
    return settings


def settings_reference(settings: Mapping[str, object]) -> Reference:
    """Return the reference that travelled with the model; empty where none did."""
    loss, limits = settings.get(REFERENCE_LOSS), str(settings.get(REFERENCE_S, ""))
    try:
        return Reference(
            loss=None if loss is None else float(loss),  # type: ignore[arg-type]
            duration_s=tuple(float(limit) for limit in limits.split(",") if limit),
        )
    except (TypeError, ValueError):
        raise InputError(
            f"the reference {_short(loss)}, {_short(limits)} of a call is not made of numbers"
        ) from None


def epochs_asked(settings: Mapping[str, object], bin_: int, default: int) -> int:
    """Return how many epochs a client in a bin shall train under the settings of its call."""
    if EPOCHS in settings:
        asked = settings[EPOCHS]
    elif EPOCHS_BY_BIN in settings:
        table = str(settings[EPOCHS_BY_BIN]).split(",")
        if not 0 <= bin_ < len(table):
            raise InputError(
                f"a call names epochs for {len(table)} bins, but the client's is {bin_}"
            )
        asked = table[bin_]
    else:
        return default
    try:
        epochs = int(str(asked))
    except ValueError:
        epochs = -1
    if not 1 <= epochs <= 10_000:
        raise InputError(f"a call asks for {_short(asked)} epochs, not for 1 to 10000")
    return epochs


def encode(status: Status, bins: Bins) -> dict[str, int | float]:
    """Return a status as the flat record that travels; a bad one is an InputError."""
    record: dict[str, int | float] = {
        "v": VERSION,
        "bin": status.bin,
        "last": status.last_trained,
    }
    for key in _OPTIONAL:
        value = getattr(status, key)
        if value is not None:
            record[key] = value
    decode(status.name, record, bins)
    return record


def decode(name: str, record: Mapping[str, object], bins: Bins) -> Status:
    """Return the status that a client sent.

    Raises
    ------
    InputError
        One sentence: the client, the field, the value and its limit.
    """
    if record.get("v") != VERSION:
        raise InputError(f"status of {name}: version {_short(record.get('v'))}, not {VERSION}")
    bin_ = _whole(name, "bin", record.get("bin"), 0, bins.size - 1)
    last = _whole(name, "last", record.get("last"), -1, MAX_ROUND)
    known = {"v", "bin", "last", *_OPTIONAL}
    if foreign := sorted(str(key) for key in record if key not in known):
        raise InputError(f"status of {name}: unknown field {_short(foreign[0])}")
    optional: dict[str, float | int | None] = {}
    for key, most in _OPTIONAL.items():
        if key in record:
            value = record[key]
            if key == "samples":
                optional[key] = _whole(name, key, value, 0, int(most))
            else:
                optional[key] = _real(name, key, value, most)
    return msgspec.convert(
        {"name": name, "bin": bin_, "last_trained": last, **optional}, Status, strict=False
    )


def check_status(status: Status, bins: Bins) -> Status:
    """Return a status that was not decoded here, held to the same limits."""
    encode(status, bins)
    return status


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _whole(name: str, key: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"status of {name}: {key} {_short(value)} is not a whole number")
    if not least <= value <= most:
        raise InputError(f"status of {name}: {key} {_short(value)} is not from {least} to {most}")
    return int(value)


def _real(name: str, key: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"status of {name}: {key} {_short(value)} is not a number")
    if not 0 <= value <= most or not math.isfinite(value):
        raise InputError(f"status of {name}: {key} {_short(value)} is not from 0 to {most:g}")
    return float(value)


class Intake:
    """Takes replies, drops the bad ones and counts them by client.

    Attributes
    ----------
    dropped : Counter of str
        Replies that were dropped, by the client's name.
    """

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self.dropped: Counter[str] = Counter()

    def take(self, name: str, record: Mapping[str, object]) -> Status | None:
        """Return the status of one reply, or None where it was dropped."""
        try:
            return decode(name, record, self.bins)
        except InputError as error:
            self._drop(name, error)
            return None

    def sift(self, statuses: Iterable[Status]) -> list[Status]:
        """Return those statuses, one a client, that keep the limits."""
        good: dict[str, Status] = {}
        for status in statuses:
            try:
                good.setdefault(status.name, check_status(status, self.bins))
            except InputError as error:
                self._drop(str(status.name), error)
        return list(good.values())

    def _drop(self, name: str, error: InputError) -> None:
        self.dropped[name] += 1
        if self.dropped[name] == 1:
            _LOG.warning("event=status_dropped client=%s reason=%r", name, str(error))


def randomise(bin_: int, bins: Bins, flip: float, rng: np.random.Generator) -> int:
    """Return the bin to send under randomised response with probability `flip`."""
    check_flip(flip)
    return int(rng.integers(bins.size)) if rng.random() < flip else bin_


def debias(counts: npt.ArrayLike, flip: float) -> npt.NDArray[np.float64]:
    """Return an estimate of the true counts, shape (B,), from randomised ones; same total."""
    check_flip(flip)
    seen = np.asarray(counts, dtype=np.float64)
    total = seen.sum()
    if flip == 0 or total <= 0:
        return seen
    true = np.maximum((seen - flip * total / seen.size) / (1 - flip), 0.0)
    scaled: npt.NDArray[np.float64] = true * (total / true.sum())
    return scaled


def check_flip(flip: float) -> None:
    """Raise InputError unless `flip` is a probability below 1."""
    if not 0 <= flip < 1:
        raise InputError(f"flip probability {flip} is not at least 0 and below 1")
