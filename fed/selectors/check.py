# SPDX-License-Identifier: MIT
"""The contract of a selector as a program: run it on your own rule.

`check_selector(factory)` plays rounds with clients that are offline, silent, late, malicious and
tied, and raises `AssertionError` with one sentence at the first promise that is broken.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kofn.fed.selectors.protocol import Outcome, PollRequest, Selection, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from kofn.fed.selectors.protocol import Selector

_ROUNDS = 12


class _World:
    """Made-up clients; the selector hears of them only what the contract lets it hear."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.names = [f"client-{i:03d}" for i in range(n)]
        self.loss = dict(zip(self.names, rng.uniform(0.1, 3.0, n), strict=True))
        self.duration = dict(zip(self.names, rng.lognormal(2.0, 1.0, n), strict=True))
        self.samples = dict(zip(self.names, rng.integers(1, 90, n), strict=True))

    def online(self, server_round: int) -> list[str]:
        rng = np.random.default_rng((7, server_round))
        return [name for name in self.names if rng.random() < 0.7]

    def reply(self, name: str, request: PollRequest, server_round: int) -> Status:
        full = {
            "loss": {"loss": float(self.loss[name]), "samples": int(self.samples[name])},
            "resources": {"compute_s": float(self.duration[name]), "upload_s": 1.0},
        }.get(request.what, {})
        return Status(name=name, bin=server_round % 4, **full)  # type: ignore[arg-type]

    def outcome(self, name: str, selection: Selection, arrived: bool) -> Outcome:
        return Outcome(
            name=name,
            duration_s=float(self.duration[name]),
            loss=float(self.loss[name]) if arrived else None,
            samples=int(self.samples[name]) if arrived else 0,
            arrived=arrived,
            loss_rms=float(self.loss[name]) if arrived else None,
            accuracy=0.5 if arrived else None,
            epochs=int(selection.per_client_config.get(name, {}).get("epochs", 1)),
            bin=1 if arrived else None,
        )


def _promise(kept: object, sentence: str) -> None:
    if not kept:
        raise AssertionError(sentence)


def _rng(server_round: int, step: int, seed: int = 0) -> np.random.Generator:
    return np.random.default_rng((seed, server_round, step))


def _valid(selection: Selection, online: list[str], m: int, *, exact: bool) -> None:
    chosen = selection.clients
    _promise(len(set(chosen)) == len(chosen), f"a client is chosen twice: {chosen}")
    stray = sorted(set(chosen) - set(online))
    _promise(not stray, f"{stray[:1]} is chosen but not online")
    size = min(m, len(online))
    kept = len(chosen) if selection.keep is None else min(selection.keep, len(chosen))
    if exact:
        _promise(kept == size, f"{kept} clients are kept, not min(m, online) = {size}")
    _promise(kept <= size, f"{kept} clients are kept, above min(m, online) = {size}")
    _promise(not size or chosen, f"nobody is chosen of {len(online)} clients online")
    loose = sorted(set(selection.per_client_config) - set(chosen))
    _promise(not loose, f"{loose[:1]} has settings but is not chosen")
    deadline = selection.deadline_s
    _promise(
        deadline is None or (math.isfinite(deadline) and deadline > 0),
        f"the deadline {deadline} s is not positive",
    )


def _play(selector: Selector, world: _World, m: int, rounds: range, *, exact: bool) -> list[Any]:
    seen: list[Any] = []
    for server_round in rounds:
        online = world.online(server_round)
        request = selector.wants(server_round, online, _rng(server_round, 0))
        _promise(len(set(request.clients)) == len(request.clients), "a client is polled twice")
        stray = sorted(set(request.clients) - set(world.names))
        _promise(not stray, f"{stray[:1]} is polled but was never registered")
        # Every third reply is missing; silence must not break a rule.
        replies = [
            world.reply(name, request, server_round)
            for index, name in enumerate(request.clients)
            if name in set(online) and index % 3 != 2
        ]
        selector.observe(server_round, replies)
        selection = selector.select(server_round, online, m, _rng(server_round, 1))
        _valid(selection, online, m, exact=exact)
        selector.update(
            server_round,
            [
                world.outcome(name, selection, i % 4 != 3)
                for i, name in enumerate(selection.clients)
            ],
        )
        seen.append((request, selection))
    return seen


def check_selector(
    factory: Callable[[], Selector], *, n: int = 40, m: int = 5, exact: bool = True
) -> None:
    """Hold a selector to its contract.

    Parameters
    ----------
    factory : callable
        Returns a fresh selector each time.
    n, m : int
        Clients in the made-up federation, and how many are to be chosen in a round.
    exact : bool
        Whether exactly min(m, online) clients are kept. A rule that may keep fewer, because it
        observes a time limit, is checked with False.

    Raises
    ------
    AssertionError
        With the promise that is broken.
    """
    world = _World(n, seed=1)

    def fresh() -> Selector:
        selector = factory()
        selector.register(world.names)
        return selector

    def play(selector: Selector, rounds: range) -> list[Any]:
        return _play(selector, world, m, rounds, exact=exact)

    half, whole = range(1, _ROUNDS // 2), range(1, _ROUNDS)
    selectors = [fresh() for _ in range(5)]
    first, second, resumed, odd, third = selectors
    try:
        seen = play(first, whole)
        _promise(seen == play(second, whole), "the same seed does not give the same choices")
        play(third, half)
        saved = json.loads(json.dumps(third.state()))
        resumed.restore(saved)
        rest = range(half.stop, whole.stop)
        _promise(play(resumed, rest) == seen[len(half) :], "a resumed selector chooses otherwise")
        _check_edges(odd, world, m, exact=exact)
    finally:
        for selector in selectors:
            selector.close()


def _check_edges(selector: Selector, world: _World, m: int, *, exact: bool) -> None:
    names = world.names
    selector.wants(1, [], _rng(1, 0))
    selector.observe(1, [])
    nobody = selector.select(1, [], m, _rng(1, 1))
    _promise(nobody.clients == (), "clients are chosen although nobody is online")
    selector.update(1, [])
    few = names[: max(m - 2, 1)]
    selector.wants(2, few, _rng(2, 0))
    selector.observe(2, [])
    _valid(selector.select(2, few, m, _rng(2, 1)), few, m, exact=exact)
    ties = [
        Outcome(name=name, duration_s=1.0, loss=1.0, samples=5, arrived=True, loss_rms=1.0)
        for name in names
    ]
    selector.update(2, ties)
    hostile = [
        Status(name=names[0], bin=10**30),
        Status(name=names[1], bin=-1),
        Status(name=names[2], bin=0, loss=math.nan),
        Status(name=names[3], bin=0, loss=1e300),
        Status(name=names[4], bin="0"),  # type: ignore[arg-type]
        Status(name=names[5], bin=0, last_trained=1.5),  # type: ignore[arg-type]
        Status(name=names[6], bin=0, samples=-4, compute_s=math.inf),
    ]
    for server_round in range(3, 9):
        selector.wants(server_round, names, _rng(server_round, 0))
        selector.observe(server_round, hostile)
        selection = selector.select(server_round, names, m, _rng(server_round, 1))
        _valid(selection, names, m, exact=exact)
        selector.update(
            server_round,
            [
                Outcome(name=name, duration_s=math.nan, loss=math.inf, samples=3, arrived=True)
                for name in selection.clients
            ],
        )
    joined = [*names, "late-joiner"]
    selector.register(["late-joiner"])
    selector.wants(9, joined, _rng(9, 0))
    selector.observe(9, [])
    _valid(selector.select(9, joined, m, _rng(9, 1)), joined, m, exact=exact)
    json.dumps(selector.state(), allow_nan=False)
