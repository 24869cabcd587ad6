# SPDX-License-Identifier: MIT
"""Checks of what users hand over: each returns the value in one plain type, or refuses it by name.

A refusal is one sentence with the argument, the value and the limit. Whole numbers may come as
floats (5.0), as they do from JSON and from numpy; truth values are no numbers, and text is none
either. Nothing is copied or computed before shapes and limits are known to hold.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from kofn.controller.core.game import FloatArray, IntArray

T = TypeVar("T")

#: Largest seed: what fits in a signed 64-bit word.
MAX_SEED = 2**63 - 1

#: Largest fleet: counts of larger ones would lose agents to rounding.
MAX_AGENTS = 10**12

#: Largest whole number that every float up to it can tell from its neighbours.
MAX_WHOLE = 2**53

#: Most steps of an episode, episodes of a run, sweeps and the like.
MAX_TIMES = 10**9

#: Rows of a kernel may miss 1 by this much before they are refused; they are then renormalised.
ROW_TOLERANCE = 1e-9

#: Largest reward or value, so that sums and squares of them are finite.
MAX_REWARD = 1e100

#: Largest table that is taken over, in bytes.
MAX_TABLE_BYTES = 4 * 2**30
_ROUNDING = 1e-13

_LONGEST_TEXT = 60


def shown(value: object) -> str:
    """Return a value as a sentence can show it, however long it is: 5, 'five', about 1e400."""
    if isinstance(value, (bool, np.bool_)) or value is None:
        return str(value)
    if isinstance(value, (int, np.integer)):
        bits = int(value).bit_length()
        if bits <= 64:
            return str(value)
        sign = "-" if value < 0 else ""
        return f"about {sign}1e{round((bits - 0.5) * math.log10(2))}"
    if isinstance(value, (float, complex, np.floating, np.complexfloating)):
        return str(value)
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 4]}...'"
    return f"of type {type(value).__name__}"


def check_int(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """Return a whole number from `least` to `most` as an int."""
    number = _whole(value)
    if number is None or number < least or (most is not None and number > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} {shown(value)} is not a whole number {limit}")
    return number


def _whole(value: object) -> int | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return int(value)
    return None


def check_real(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number within the limits as a float."""
    number = math.nan
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    inside = math.isfinite(number) and least <= number <= most and above < number < below
    if not inside:
        raise InputError(
            f"{name} {shown(value)} is not {_interval(least, above, most, below)}"
        )  # fmt: skip
    return number


def _interval(least: float, above: float, most: float, below: float) -> str:
    low, high = max(least, above), min(most, below)
    if math.isfinite(least) and math.isfinite(most):
        return f"a number from {low:g} to {high:g}"
    if math.isfinite(above) and math.isfinite(below):
        return f"a number between {low:g} and {high:g}"
    limits = []
    if math.isfinite(low):
        limits.append(f"{'of at least' if math.isfinite(least) else 'above'} {low:g}")
    if math.isfinite(high):
        limits.append(f"{'at most' if math.isfinite(most) else 'below'} {high:g}")
    return f"a number {' and '.join(limits)}" if limits else "a finite number"


def check_flag(name: str, value: object) -> bool:
    """Return a truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} {shown(value)} is not true or false")
    return bool(value)


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse what is not one of a few names."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown {name} {shown(value)}; known are {', '.join(known)}")


def check_kind(name: str, value: object, kind: type[T]) -> T:
    """Return an object of a class of ours."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise InputError(f"{name} {shown(value)} is not {article} {kind.__name__}")
    return value


def check_mapping(name: str, value: object) -> None:
    """Refuse what is given, but maps nothing to anything."""
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{name} {shown(value)} is not a mapping")


def check_path(name: str, value: object) -> Path:
    """Return the path of a file."""
    if not isinstance(value, (str, os.PathLike)) or not Path(value).name or "\0" in str(value):
        raise InputError(f"{name} {shown(value)} is not the path of a file")
    return Path(value)


def check_callable(name: str, value: object) -> None:
    """Refuse what is given, but cannot be called."""
    if value is not None and not callable(value):
        raise InputError(f"{name} {shown(value)} is not a function")


def check_seed(value: object) -> int:
    """Return a seed of random numbers."""
    return check_int("seed", value, 0, MAX_SEED)


def check_poll(k: object, n: object) -> tuple[int, int]:
    """Return poll size and fleet size, 1 <= k <= n."""
    poll, fleet = check_int("poll size", k, 1), check_int("fleet size", n, 1, MAX_AGENTS)
    if poll > fleet:
        raise InputError(f"poll size {shown(poll)} exceeds fleet size {fleet}")
    return poll, fleet


def array_of(name: str, value: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return an array of real numbers as it is given, of any type of number."""
    try:
        array = np.asarray(value)
        if array.dtype == np.object_:
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is not a rectangular table of numbers") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} is not a rectangular table of numbers")
    return array


def table(
    name: str, value: npt.ArrayLike, ndim: int, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Return `value` as a fresh float64 C-contiguous array of `ndim` axes with finite entries.

    With a `shape`, any other is refused before anything is copied.
    """
    given = array_of(name, value)
    if given.ndim != ndim:
        raise InputError(f"{name} has {given.ndim} axes, not {ndim}")
    if given.size == 0:
        raise InputError(f"{name} is empty: its shape is {given.shape}")
    if shape is not None and given.shape != shape:
        raise InputError(f"{name} has shape {given.shape}, but must have {shape}")
    if 8 * given.size > MAX_TABLE_BYTES:
        raise InputError(
            f"{name} of shape {given.shape} takes {8 * given.size} bytes, above the limit of "
            f"{MAX_TABLE_BYTES}"
        )
    array = np.array(given, dtype=np.float64, order="C")
    bad = ~np.isfinite(array)
    if bad.any():
        index = first(bad)
        raise InputError(f"{name}[{index_text(index)}] is {array[index]}, not a finite number")
    return array


def whole_table(
    name: str, value: npt.ArrayLike, ndim: int, shape: tuple[int, ...] | None = None
) -> IntArray:
    """Return a fresh int64 array of non-negative whole numbers."""
    array = table(name, value, ndim, shape)
    check_whole_table(name, array)
    return array.astype(np.int64)


def check_whole_table(name: str, array: FloatArray) -> None:
    """Refuse a table with an entry that is no whole number of at least 0, by its index."""
    bad = (array != np.floor(array)) | (array < 0) | (array >= MAX_WHOLE)
    if bad.any():
        index = first(bad)
        raise InputError(
            f"{name}[{index_text(index)}] is {array[index]:g}, not a whole number of at least 0"
        )


def index_array(name: str, value: npt.ArrayLike, shape: tuple[int, ...], size: int) -> IntArray:
    """Return numbers of states or actions, each from 0 to size - 1, without a copy if they can."""
    array = array_of(name, value)
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, not {shape}")
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} holds {array.dtype}, not whole numbers")
    if array.size and not (array.min() >= 0 and array.max() < size):
        index = first((array < 0) | (array >= size))
        raise InputError(f"{name}[{index_text(index)}] is {array[index]}, not one of 0..{size - 1}")
    return array.astype(np.int64, copy=False)


def rewards(name: str, value: npt.ArrayLike, ndim: int) -> FloatArray:
    """Return a fresh table of rewards or values."""
    array = table(name, value, ndim)
    if (bad := np.abs(array) > MAX_REWARD).any():
        index = first(bad)
        raise InputError(
            f"{name}[{index_text(index)}] is {array[index]:g}, beyond the limit of {MAX_REWARD:g}"
        )
    return array


def weights_table(
    name: str, value: npt.ArrayLike, ndim: int, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Return a fresh table of counts or pseudo-counts of agents."""
    array = table(name, value, ndim, shape)
    if array.min() < 0 or array.max() > MAX_AGENTS:
        bad = (array < 0) | (array > MAX_AGENTS)
        index = first(bad)
        raise InputError(
            f"{name}[{index_text(index)}] is {array[index]:g}, not a number of agents from 0 to "
            f"{MAX_AGENTS:g}"
        )
    return array


def distribution(
    name: str, value: npt.ArrayLike, ndim: int, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Return `value` as a table whose last axis holds distributions, normalised."""
    array = table(name, value, ndim, shape)
    negative = array < 0
    if negative.any():
        index = first(negative)
        raise InputError(f"{name}[{index_text(index)}] is {array[index]:g}, a negative probability")
    with np.errstate(over="ignore"):  # what is infinite is not 1 either
        total = array.sum(axis=-1)
    off = np.abs(total - 1.0) > ROW_TOLERANCE
    if off.any():
        row = first(off) if off.ndim else ()
        where = f"{name}[{index_text(row)}]" if row else name
        raise InputError(f"{where} sums to {total[row]:.10g}, not 1")
    # Rows that are right up to rounding are left alone, so that a table survives any number of
    # round trips unchanged.
    scale = np.where(np.abs(total - 1.0) > _ROUNDING, total, 1.0)
    normalised: FloatArray = array / scale[..., None]
    return normalised


def first(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the index of the first entry that is set."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def index_text(index: tuple[int, ...]) -> str:
    """Return an index as it is written between brackets."""
    return ", ".join(map(str, index))
