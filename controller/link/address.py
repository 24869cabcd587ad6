# SPDX-License-Identifier: MIT
"""Where a broker is: `mqtt://host:port`."""

from typing import NamedTuple
from urllib.parse import urlsplit

from kofn.controller.core.errors import InputError

MQTT_PORT = 1883


class BrokerAddress(NamedTuple):
    """Host name or address, and TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_url(url: str) -> BrokerAddress:
    """Take `mqtt://host[:port]` apart (port 1883 when absent).

    Raises
    ------
    InputError
        Another scheme, no host, a port that is none, or something more than host and port;
        credentials do not belong in a URL, which ends up in process lists and logs.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    extra = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme != "mqtt" or not host or port == 0 or extra or parts.path not in ("", "/"):
        shown = url if "@" not in url else "with credentials"
        raise InputError(f"broker URL {shown!r} must have the form mqtt://HOST[:PORT]")
    return BrokerAddress(host, MQTT_PORT if port is None else port)
