# SPDX-License-Identifier: MIT
"""Selectors by their stable names, and the checks of k, m and n that need no run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kofn.controller.core.errors import InputError
from kofn.fed.checks import check_size

if TYPE_CHECKING:
    from kofn.fed.selectors.protocol import Selector

#: Name of the rule -> module and class, imported on first use: some need numba.
SELECTORS: dict[str, tuple[str, str]] = {
    "random": ("uniform", "RandomSelector"),
    "power-of-choice": ("power_of_choice", "PowerOfChoiceSelector"),
    "power-of-choice-batch": ("power_of_choice", "BatchPowerOfChoiceSelector"),
    "power-of-choice-cached": ("power_of_choice", "CachedPowerOfChoiceSelector"),
    "oort": ("oort", "OortSelector"),
    "fedcs": ("fedcs", "FedCSSelector"),
    "tifl": ("tifl", "TiFLSelector"),
    "fixed-call": ("fixed_call", "FixedCallSelector"),
    "myopic": ("myopic", "MyopicSelector"),
    "mean-field": ("mean_field", "MeanFieldSelector"),
}

#: Rules that poll k clients, and those of them that need k >= m.
NEEDS_K_OVER_M = frozenset(
    {"power-of-choice", "power-of-choice-batch", "power-of-choice-cached", "fedcs"}
)
POLLING = NEEDS_K_OVER_M | {"fixed-call", "myopic", "mean-field"}


def make_selector(name: str, *, k: int | None = None, **settings: Any) -> Selector:
    """Return a fresh selector.

    Parameters
    ----------
    name : str
        One of `SELECTORS`.
    k : int, optional
        Poll size, for the rules that poll; others ignore it.
    settings
        As the rule's class takes them.
    """
    if name not in SELECTORS:
        raise InputError(f"there is no selector {name!r}; known are {', '.join(SELECTORS)}")
    if name in POLLING:
        if k is None:
            raise InputError(f"selector {name} needs k, the number of clients to poll")
        settings["k"] = check_size("poll size", k)
    module, class_name = SELECTORS[name]
    kind = getattr(import_module(f"kofn.fed.selectors.{module}"), class_name)
    try:
        selector: Selector = kind(**settings)
    except TypeError:
        raise InputError(
            f"selector {name} does not take the settings {', '.join(sorted(settings))}"
        ) from None
    return selector


def check_sizes(name: str, *, n: int, m: int, k: int | None = None) -> None:
    """Raise InputError unless n clients, m of them trained and k polled fit the rule."""
    check_size("number of clients", n)
    check_size("clients per round", m)
    if m > n:
        raise InputError(f"clients per round {m} exceed the {n} registered clients")
    if name not in SELECTORS:
        raise InputError(f"there is no selector {name!r}; known are {', '.join(SELECTORS)}")
    if name not in POLLING:
        return
    if k is None:
        raise InputError(f"selector {name} needs k, the number of clients to poll")
    check_size("poll size", k)
    if k > n:
        raise InputError(f"poll size {k} exceeds the {n} registered clients")
    if name in NEEDS_K_OVER_M and k < m:
        raise InputError(f"poll size {k} is below the {m} clients that {name} chooses from it")
