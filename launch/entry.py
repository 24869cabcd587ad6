# SPDX-License-Identifier: MIT
"""The `kofn` command: exit codes and one-line messages, whatever happens inside.

0 ok · 1 the run failed or was interrupted · 2 bad input. Nothing heavy is imported before the
handlers are in place, so that Ctrl-C during the imports ends as quietly as later on.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RETRY_S = 0.02


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; not an `Exception`, so that no cleanup code swallows it."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # A second signal must not break the cleanup that the first one started.
    _ignore_signals()
    interrupted = Interrupted("Ctrl-C" if number == signal.SIGINT else "SIGTERM")

    def check_not_swallowed(_number: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        if not _being_handled(interrupted):
            raise interrupted

    signal.signal(signal.SIGALRM, check_not_swallowed)
    signal.setitimer(signal.ITIMER_REAL, RETRY_S)
    raise interrupted


def _being_handled(interrupted: Interrupted) -> bool:
    """Whether the code that runs now is the cleanup after `interrupted`.

    Otherwise somebody swallowed it: libraries guard optional imports by a bare `except:`, and
    Python drops what is raised in destructors and callbacks.
    """
    error = sys.exception()
    while error is not None:
        if error is interrupted:
            return True
        error = error.__context__
    return False


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _drop_quietly(dropped: Any) -> None:
    """Say nothing about an `Interrupted` that Python dropped: the timer raises it again."""
    if not isinstance(dropped.exc_value, Interrupted):
        sys.__unraisablehook__(dropped)


def _say(sentence: str) -> None:
    # One line, also when a library put line breaks into its message.
    print(f"kofn: {' '.join(sentence.split())}", file=sys.stderr, flush=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        from kofn.controller.core.errors import InputError, RunError
        from kofn.launch.cli import app
    except Interrupted as signalled:
        return _stopped(signalled)
    try:
        code = app(args=list(arguments), prog_name="kofn", standalone_mode=False)
    except InputError as error:
        _say(str(error))
        return 2
    except RunError as error:
        _say(str(error))
        return 1
    except Interrupted as signalled:
        return _stopped(signalled)
    except BrokenPipeError:
        # `kofn replay RUN | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The machine's own limits: a full disk, too many open files. Its words name the file.
        _say(str(error))
        return 1
    except Exception as error:
        # Usage errors of the command-line library (which may be bundled inside typer).
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _say(f"{message()} (see kofn --help)")
        return 2
    return int(code or 0)


def _stopped(signalled: Interrupted) -> int:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    _say("; ".join([f"stopped by {signalled}", *getattr(signalled, "__notes__", [])]))
    return 1


def main() -> None:
    """Entry point of the console script."""
    sys.unraisablehook = _drop_quietly
    try:
        for number in SIGNALS:
            signal.signal(number, _interrupt)
        code = run(sys.argv[1:])
        _ignore_signals()  # the work is done; what Python does at its end must not be broken off
    except Interrupted as signalled:
        code = _stopped(signalled)
    sys.exit(code)


if __name__ == "__main__":
    main()
