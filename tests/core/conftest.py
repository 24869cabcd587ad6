# SPDX-License-Identifier: MIT
"""Shared pieces of the core's tests: the numpy twins, and small random games."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kofn.controller.core.game import Game, InitialLaw, LocalSees

if TYPE_CHECKING:
    from types import ModuleType

RandomGame = Callable[..., Game]


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    """Return the module of numpy twins next to this file."""
    path = Path(__file__).with_name("reference.py")
    spec = importlib.util.spec_from_file_location("kofn_core_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _random_game(
    seed: int = 0,
    S_g: int = 3,
    A_g: int = 3,
    S_l: int = 3,
    A_l: int = 2,
    *,
    gamma: float = 0.8,
    local_sees: LocalSees = "current",
    initial: InitialLaw | None = None,
    horizon: int | None = None,
) -> Game:
    rng = np.random.default_rng(seed)
    return Game(
        rng.dirichlet(np.ones(S_g), (S_g, A_g)),
        rng.random((S_g, A_g)),
        rng.dirichlet(np.ones(S_l), (S_g, S_l, A_l)),
        rng.random((S_g, S_l, A_l)) * 2,
        gamma,
        local_sees=local_sees,
        initial=initial or InitialLaw(),
        horizon=horizon,
    )


@pytest.fixture(scope="session")
def random_game() -> RandomGame:
    """Return a maker of small random games."""
    return _random_game
