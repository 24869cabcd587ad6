# SPDX-License-Identifier: MIT
"""Rows of a sweep as Ray tasks, one per k: on the cluster of RAY_ADDRESS, else on this machine.

A cluster's machines need the same kofn installed; the game travels with the task.
"""

import importlib.util
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Any

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.game import Game

if TYPE_CHECKING:
    from kofn.launch.sweep_results import Row, Settings
    from kofn.launch.sweeping import Report

#: How often a wait looks up, so that progress goes on and a signal ends it soon.
WAIT_S = 1.0
CONNECT_S = 5.0


def check_installed() -> None:
    """Refuse where Ray is missing."""
    if importlib.util.find_spec("ray") is None:
        raise InputError("engine ray takes Ray: pip install 'kofn[ray]'")


def _check_reachable(address: str) -> None:
    """Refuse a cluster where nobody listens; Ray itself tries for minutes."""
    place = re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address)
    if place is None:
        return
    try:
        socket.create_connection((place[1], int(place[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"no Ray cluster answers at RAY_ADDRESS {address}: {error}") from None


def _task(game: Game, k: int, settings: "Settings") -> "Row":
    # One task, one CPU; before the first kernel asks how many threads there are.
    os.environ.setdefault("KOFN_THREADS", "1")
    from kofn.launch.sweeping import measure

    return measure(game, k, settings)


def _start(ray: Any, address: str) -> None:
    """Connect; signals wait until this process's own handlers are back in place.

    Ray installs one in C that aborts, and one in Python that exits.
    """
    held = {signal.SIGINT, signal.SIGTERM}
    handlers = {number: signal.getsignal(number) for number in held}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RunError(f"Ray at {address!r} cannot be reached or started: {error}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, held)


def on_ray(
    game: Game, ks: Sequence[int], settings: "Settings", report: "Report"
) -> Iterator["Row"]:
    """Yield rows as they come; the largest k, which takes longest, is started first."""
    if not ks:
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        _start(ray, address)
        task = ray.remote(num_cpus=1)(_task)
        # Plain futures: a signal that comes inside Ray's own waiting is turned into a SystemError.
        pending = {task.remote(game, k, settings).future(): k for k in sorted(ks, reverse=True)}
        while pending:
            report("on Ray: " + ", ".join(f"k={k}" for k in pending.values()) + " to come")
            ready, _ = wait(pending, timeout=WAIT_S, return_when=FIRST_COMPLETED)
            for future in ready:
                k = pending.pop(future)
                try:
                    row: Row = future.result()
                except (InputError, RunError) as error:  # Ray adds the task's traceback to its own
                    raise getattr(error, "cause", error) from None
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    raise RunError(
                        f"the Ray task of k={k} failed: {type(cause).__name__}: {cause}"
                    ) from None
                yield row
    finally:
        ray.shutdown()
