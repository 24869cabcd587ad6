# SPDX-License-Identifier: MIT
"""The file in which an app leaves its figures, or the error that it ended with.

Flower's engines run an app in processes that keep what went wrong to their logs; the file tells the
command that started them whether the input was bad or the run failed.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kofn.controller.core.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_result(path: str, figures: dict[str, Any]) -> None:
    """Leave figures in a file; nothing where no path is given."""
    if path:
        Path(path).write_text(json.dumps(figures), encoding="utf-8")


@contextmanager
def report_errors(path: str) -> Iterator[None]:
    """Leave an error of ours in the file, and let it go on."""
    try:
        yield
    except (InputError, RunError) as error:
        write_result(path, {"error": str(error), "bad_input": isinstance(error, InputError)})
        raise
