# SPDX-License-Identifier: MIT
"""`python -m kofn.hardware.fakes DEVICE`: one process of devices without hardware."""

import signal
import sys
import threading
from types import FrameType

from kofn.controller.core.errors import InputError, RunError
from kofn.hardware.fakes.serving import read_device, serve


def main(argument: str) -> int:
    """Be the device until SIGTERM or Ctrl-C; return the exit code."""
    end = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        end.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        serve(read_device(argument), end.wait)
    except (InputError, RunError) as error:
        sys.stderr.write(f"kofn: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) == 2 else ""))
