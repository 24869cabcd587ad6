# SPDX-License-Identifier: MIT
"""`python -m kofn.hardware.fakes DEVICE`: one process of devices without hardware."""

import sys

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.fakes.serving import end_on_signal, read_device, serve


def main(argument: str) -> int:
    """Be the device until SIGTERM or Ctrl-C; return the exit code."""
    ended = end_on_signal()
    try:
        serve(read_device(argument), ended)
    except (InputError, RunError) as error:
        sys.stderr.write(f"kofn: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))
