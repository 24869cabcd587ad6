# SPDX-License-Identifier: MIT
"""Typed wrappers of numba's decorators, with a cache that survives read-only installs.

Kernels are compiled on their first call and the machine code is stored next to the module or, where
that folder is read-only, in the user's cache folder. Where neither can be written, numba refuses to
decorate at all; the kernels are then compiled anew in each process instead of failing.

Kernels release the GIL and are run from plain threads (`parallel_map`): numba's own parallel loops
take several times longer to compile, and their default thread layer aborts the process when two
threads enter it at once, as a controller and a trainer in one process would.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

F = TypeVar("F", bound="Callable[..., object]")
T = TypeVar("T")
R = TypeVar("R")


def jit(function: F) -> F:
    """Compile `function` on its first call, without the GIL, and cache the machine code."""
    try:
        return cast("F", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # no writable cache folder
        return cast("F", numba.njit(nogil=True, error_model="numpy")(function))


def inline(function: F) -> F:
    """Compile a helper that is only called from other kernels; it is stored with its callers."""
    return cast("F", numba.njit(nogil=True, error_model="numpy")(function))


def unrolled(function: F) -> F:
    """Compile a helper into the body of its callers: a call counts references of each array."""
    return cast("F", numba.njit(nogil=True, error_model="numpy", forceinline=True)(function))


@cache
def thread_count() -> int:
    """Return the number of threads that kernels are spread over (`KOFN_THREADS` or the CPUs)."""
    wanted = os.environ.get("KOFN_THREADS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="kofn-core")


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Apply a function that spends its time in kernels to each item, one thread per CPU.

    Numba compiles under a lock, so a kernel is compiled once however many threads call it first.
    Must not be called from inside `function`.
    """
    todo = list(items)
    if len(todo) <= 1 or thread_count() == 1:
        return [function(item) for item in todo]
    return list(_pool().map(function, todo))
