# SPDX-License-Identifier: MIT
"""Is there an MQTT broker? One CONNECT by hand, without a client library or a thread.

An open port proves little: brokers listen before they serve, and something else may sit there. The
probe sends the smallest MQTT 3.1.1 CONNECT (OASIS MQTT 3.1.1, section 3.1) and reads the CONNACK.
"""

import socket
import ssl
from contextlib import ExitStack
from enum import IntEnum

from kofn.controller.link.address import BrokerAddress


class Connack(IntEnum):
    """Return codes of CONNACK (section 3.2.2.3)."""

    ACCEPTED = 0
    BAD_PROTOCOL = 1
    BAD_CLIENT_ID = 2
    UNAVAILABLE = 3
    BAD_LOGIN = 4
    NOT_AUTHORIZED = 5


def probe(
    address: BrokerAddress,
    *,
    client_id: str = "kofn-probe",
    username: str | None = None,
    password: str | None = None,
    timeout_s: float = 2.0,
    tls: ssl.SSLContext | None = None,
) -> Connack:
    """Connect once, over TLS with a context, disconnect at once, and return the broker's answer.

    Raises
    ------
    OSError
        Nobody listens, no answer within `timeout_s` (a `TimeoutError`), or an answer that is not
        MQTT (a `ConnectionError`), or no TLS connection (an `ssl.SSLError`).
    """
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(address.tcp, timeout=timeout_s))
        if tls is not None:
            wrapped = tls.wrap_socket(connection, server_hostname=address.host)
            connection = stack.enter_context(wrapped)
        connection.sendall(_connect_packet(client_id, username, password))
        answer = b""
        while len(answer) < 4:
            part = connection.recv(4 - len(answer))
            if not part:
                raise ConnectionError("the connection was closed before an answer")
            answer += part
        if answer[:2] != b"\x20\x02" or answer[3] not in tuple(Connack):
            raise ConnectionError("the answer is not MQTT")
        if answer[3] == Connack.ACCEPTED:
            connection.sendall(b"\xe0\x00")  # DISCONNECT
        return Connack(answer[3])


def _connect_packet(client_id: str, username: str | None, password: str | None) -> bytes:
    flags = 0x02  # clean session
    fields = [client_id]
    if username is not None:
        flags |= 0x80
        fields.append(username)
    if password is not None:
        flags |= 0x40
        fields.append(password)
    body = b"\x00\x04MQTT\x04" + bytes([flags]) + (10).to_bytes(2, "big")  # level 4, keepalive 10 s
    for field in fields:
        data = field.encode()
        body += len(data).to_bytes(2, "big") + data
    length, header = len(body), b"\x10"
    while True:
        length, digit = divmod(length, 128)
        header += bytes([digit | (0x80 if length else 0)])
        if not length:
            return header + body
