# SPDX-License-Identifier: MIT
"""What a command prints: JSON or lines for people on stdout, everything else on stderr."""

import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import msgspec


def emit(result: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print `result` as one JSON object, or `lines` for people."""
    if as_json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        for line in lines:
            sys.stdout.write(line + "\n")
    sys.stdout.flush()


def write_json(path: Path, table: dict[str, Any]) -> None:
    """Write a result as indented JSON, completely or not at all; raises `InputError`."""
    from kofn.controller.core.archive import write_whole

    text = msgspec.json.format(msgspec.json.encode(table), indent=1)
    write_whole(path, text + b"\n", "report")


def configure_logging(*, verbose: bool = False) -> None:
    """Log as `key=value` lines on stderr; warnings only unless `verbose`."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="level=%(levelname)s logger=%(name)s %(message)s",
    )


class Progress:
    """Progress of long work on stderr: a bar on a terminal, otherwise a line every ten seconds.

    Parameters
    ----------
    title
        What is under way.
    total
        How many units of work there are; None when unknown.
    """

    LINE_EVERY_S = 10.0

    def __init__(self, title: str, total: int | None = None) -> None:
        self._title = title
        self._total = total
        self._next_line = time.monotonic() + self.LINE_EVERY_S
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[detail]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, detail="")
        return self

    def update(self, done: int, detail: str = "") -> None:
        """Report `done` units of work and what is being worked on."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, detail=detail)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + self.LINE_EVERY_S
            of = f" of {self._total}" if self._total else ""
            sys.stderr.write(f"{self._title}: {done}{of} {detail}\n")
            sys.stderr.flush()

    def report(self, done: int, total: int, text: str) -> None:
        """Report as the learners do: `done` of at most `total`, and what was done."""
        self._total = total
        if self._bar is not None:
            self._bar.update(self._task, total=total)
        self.update(done, text)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def note(sentence: str) -> None:
    """Tell the person at the terminal what is happening now (stderr)."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
