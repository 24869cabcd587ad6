# SPDX-License-Identifier: MIT
"""What `SelectedStrategy` asks of the strategy it wraps, checked before a run starts.

Flower's strategies wait for nodes in an endless loop when they are asked for more than there are.
Since they are shown the chosen nodes only, settings that ask for more than m would never return.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic, Strategy

from kofn.controller.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger(__name__)

Value = TypeVar("Value")

_MINIMA = ("min_train_nodes", "min_available_nodes")


def layers(strategy: Strategy) -> Iterator[Strategy]:
    """Yield a strategy and those it wraps, as the differential privacy ones do."""
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)


def check_inner(strategy: object, m: int, rule: str) -> None:
    """Raise InputError unless m nodes chosen by `rule` will do for a strategy."""
    if not isinstance(strategy, Strategy):
        raise InputError(
            f"the inner strategy is a {type(strategy).__name__}, not a flwr.serverapp Strategy"
        )
    for layer in layers(strategy):
        name = type(layer).__name__
        if isinstance(layer, FedXgbCyclic):
            raise InputError(f"{name} has an order of clients of its own: nothing may choose them")
        fraction = getattr(layer, "fraction_train", 1.0)
        if fraction != 1.0:
            raise InputError(
                f"{name} has fraction_train {fraction}, but must have 1.0 to train those chosen"
            )
        for minimum in _MINIMA:
            least = getattr(layer, minimum, 0)
            if least > m:
                raise InputError(
                    f"{name} has {minimum} {least}, more than the {m} clients chosen in a round: "
                    "it would wait for ever"
                )
        if getattr(layer, "accountant", None) is not None:
            raise InputError(
                f"{name} has a privacy accountant, whose bounds assume clients drawn at random"
            )
        if hasattr(layer, "noise_multiplier") and rule != "random":
            _LOG.warning(
                "event=privacy_not_amplified strategy=%s selector=%s: privacy bounds that assume "
                "random sampling do not hold under informed selection",
                name,
                rule,
            )


def least_nodes(strategy: Strategy) -> int:
    """Return how many nodes a strategy needs to see before it trains."""
    return max(getattr(layer, name, 0) for layer in layers(strategy) for name in _MINIMA)


def least_evaluation_nodes(strategy: Strategy) -> int:
    """Return how many nodes a strategy needs to see before it evaluates; 0 if it does not."""
    if setting(strategy, "fraction_evaluate", 1.0) == 0:
        return 0
    names = ("min_evaluate_nodes", "min_available_nodes")
    return max(getattr(layer, name, 0) for layer in layers(strategy) for name in names)


def grows(strategy: Strategy) -> bool:
    """Return whether updates have other shapes than the model: trees that clients add."""
    return any(isinstance(layer, FedXgbBagging) for layer in layers(strategy))


def setting(strategy: Strategy, name: str, default: Value) -> Value:
    """Return a setting of the outermost layer that has it."""
    for layer in layers(strategy):
        if hasattr(layer, name):
            found: Value = getattr(layer, name)
            return found
    return default
