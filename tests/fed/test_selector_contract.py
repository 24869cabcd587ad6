# SPDX-License-Identifier: MIT
"""Every rule keeps the contract, and the check finds rules that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kofn.controller.core.errors import InputError
from kofn.fed.selectors import (
    SELECTORS,
    Selection,
    check_selector,
    check_sizes,
    make_selector,
)
from kofn.fed.selectors.uniform import RandomSelector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

#: Rules that may keep fewer than m clients, because they observe a time limit.
INEXACT = frozenset({"fedcs", "fixed-call", "myopic", "mean-field"})

#: Learned rules meet a refit within the rounds of the check, and do not depend on its timing.
SETTINGS: dict[str, dict[str, Any]] = {
    "myopic": {"warm_up": 3, "refit_every": 5, "refit": "blocking"},
    "mean-field": {
        "warm_up": 3, "refit_every": 50, "refit": "blocking", "grid": 3, "exchanges": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SELECTORS)
def test_every_rule_keeps_the_contract(name: str) -> None:
    check_selector(
        lambda: make_selector(name, k=10, **SETTINGS.get(name, {})), exact=name not in INEXACT
    )


class _Repeats(RandomSelector):
    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        return Selection(clients=tuple(list(online[:1]) * min(m, len(online))))


class _Offline(RandomSelector):
    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        return Selection(clients=tuple(list(self.registered)[:m]))


class _TooFew(RandomSelector):
    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        return Selection(clients=tuple(sorted(online)[:1]))


class _Unseeded(RandomSelector):
    turn = 0

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        _Unseeded.turn += 1
        pool = sorted(online)
        shift = _Unseeded.turn % max(len(pool), 1)
        return Selection(clients=tuple((pool[shift:] + pool[:shift])[:m]))


class _Forgetful(RandomSelector):
    def __init__(self) -> None:
        super().__init__()
        self.turn = 0

    def select(
        self, server_round: int, online: Sequence[str], m: int, rng: np.random.Generator
    ) -> Selection:
        self.turn += 1
        pool = sorted(online)
        shift = self.turn % max(len(pool), 1)
        return Selection(clients=tuple((pool[shift:] + pool[:shift])[:m]))


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (_Repeats, "chosen twice"),
        (_Offline, "not online"),
        (_TooFew, "are kept, not"),
        (_Unseeded, "the same seed"),
        (_Forgetful, "resumed"),
    ],
)
def test_the_check_finds_a_rule_that_breaks_a_promise(
    broken: type[RandomSelector], sentence: str
) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_selector(broken)


def test_an_unknown_rule_is_one_sentence_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="no selector 'fastest'; known are random"):
        make_selector("fastest")
    with pytest.raises(InputError, match="clients per round 11 exceed the 10 registered"):
        check_sizes("random", n=10, m=11)
