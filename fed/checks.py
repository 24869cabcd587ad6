# SPDX-License-Identifier: MIT
"""Checks of whole numbers that several modules share; imports nothing else of fed."""

from __future__ import annotations

import numpy as np

from kofn.controller.core.errors import InputError


def check_size(what: str, value: int, least: int = 1) -> int:
    """Return a whole number of at least `least`; anything else is an InputError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{what} {value!r} is not a whole number of at least {least}")
    return int(value)
