# SPDX-License-Identifier: MIT
"""Drivers by name: the entry-point group `kofn.drivers`.

A package of somebody else adds a driver by naming its class in that group; nothing here has to
change. Each is called as `Class(clock, **settings)` and must not touch a device before `open`.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import Clock
from kofn.hardware.driver import Driver

GROUP = "kofn.drivers"


def driver_names() -> list[str]:
    """Names of the drivers installed, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def driver_class(name: str) -> Callable[..., Driver]:
    """Return the class of driver `name`; raises `InputError` as `make_driver` does."""
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            break
    else:
        known = ", ".join(driver_names()) or "none"
        raise InputError(f"no driver is called {name!r}; installed drivers: {known}")
    try:
        build: Callable[..., Driver] = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"driver {name!r} ({entry.value}) cannot be loaded: {error}") from error
    return build


def make_driver(name: str, clock: Clock, settings: Mapping[str, object] | None = None) -> Driver:
    """Construct driver `name`; nothing is opened.

    Parameters
    ----------
    name
        As in the entry-point group.
    clock
        The robot's time.
    settings
        Keyword arguments of the driver's class.

    Raises
    ------
    InputError
        No such driver, its module does not import, or a setting that it does not have.
    """
    build = driver_class(name)
    given = dict(settings or {})
    try:
        inspect.signature(build).bind(clock, **given)
    except TypeError as error:
        raise InputError(f"driver {name!r}: {error}") from error
    return build(clock, **given)
