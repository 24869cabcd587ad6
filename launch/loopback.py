# SPDX-License-Identifier: MIT
"""The loopback interface, which a fresh network namespace has but leaves down."""

import fcntl
import socket
import struct
import sys

from kofn.controller.core.errors import RunError
from kofn.launch.output import note

# From <linux/sockios.h> and <linux/if.h>.
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_REQUEST = "16sH14x"


def works() -> bool:
    """Whether processes of this machine can reach each other at 127.0.0.1."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5.0).close()
    except OSError:
        return False
    return True


def bring_up_loopback() -> None:
    """Switch the loopback interface on where it is off, as every system does when it starts.

    Raises
    ------
    RunError
        It is off and this process may not switch it on.
    """
    if works():
        return
    if not sys.platform.startswith("linux"):
        raise RunError("processes cannot talk at 127.0.0.1: is the loopback interface down?")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            ask = struct.pack(_REQUEST, b"lo", 0)
            _, flags = struct.unpack(_REQUEST, fcntl.ioctl(control, _SIOCGIFFLAGS, ask))
            up = struct.pack(_REQUEST, b"lo", flags | _IFF_UP)
            fcntl.ioctl(control, _SIOCSIFFLAGS, up)
    except OSError as error:
        raise RunError(
            f"processes cannot talk at 127.0.0.1, and the loopback interface cannot be switched on "
            f"({error}): run `ip link set lo up` as root"
        ) from None
    if not works():
        raise RunError("processes cannot talk at 127.0.0.1: is the loopback interface down?")
    note("the loopback interface was down: switched on")
