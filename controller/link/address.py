# SPDX-License-Identifier: MIT
"""Where a broker is: `mqtt://host:port`, or `mqtts://host:port` for TLS."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from kofn.controller.core.errors import InputError

MQTT_PORT = 1883
MQTTS_PORT = 8883

_SCHEMES = {"mqtt": MQTT_PORT, "mqtts": MQTTS_PORT}
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Host name or address, TCP port, and whether TLS is spoken there."""

    host: str
    port: int
    tls: bool = False

    @property
    def tcp(self) -> tuple[str, int]:
        """What a socket connects to."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """`mqtt://..` or `mqtts://..` with the port."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self}"

    @property
    def loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_host_name(name: str) -> bool:
    """Whether `name` is an IP address or has the form of a host name."""
    try:
        ip_address(name)
    except ValueError:
        return _HOST_NAME.fullmatch(name) is not None
    return True


def parse_url(url: str) -> BrokerAddress:
    """Take `mqtt://host[:port]` or `mqtts://host[:port]` apart (ports 1883 and 8883 when absent).

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
    known = parts.scheme in _SCHEMES and host is not None and is_host_name(host)
    if not known or host is None or port == 0 or extra or parts.path not in ("", "/"):
        shown = url if "@" not in url else "with credentials"
        raise InputError(
            f"broker URL {shown!r} must have the form mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
        )
    default = _SCHEMES[parts.scheme]
    return BrokerAddress(host, default if port is None else port, parts.scheme == "mqtts")
