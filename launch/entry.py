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


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; not an `Exception`, so that no cleanup code swallows it."""


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # A second signal must not break the cleanup that the first one started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Interrupted("Ctrl-C" if number == signal.SIGINT else "SIGTERM")


def _say(sentence: str) -> None:
    # One line, also when a library put line breaks into its message.
    print(f"kofn: {' '.join(sentence.split())}", file=sys.stderr, flush=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        from kofn.controller.core.errors import InputError, RunError
        from kofn.launch.cli import app
    except Interrupted as signalled:
        _say(f"stopped by {signalled}")
        return 1
    try:
        code = app(args=list(arguments), prog_name="kofn", standalone_mode=False)
    except InputError as error:
        _say(str(error))
        return 2
    except RunError as error:
        _say(str(error))
        return 1
    except Interrupted as signalled:
        notes = "; ".join(getattr(signalled, "__notes__", []))
        _say(f"stopped by {signalled}" + (f"; {notes}" if notes else ""))
        return 1
    except BrokenPipeError:
        # `kofn replay RUN | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # Usage errors of the command-line library (which may be bundled inside typer).
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _say(f"{message()} (see kofn --help)")
        return 2
    return int(code or 0)


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
