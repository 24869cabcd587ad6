# SPDX-License-Identifier: MIT
"""A paho client without the detours: writes in the thread that publishes, reads in large pieces.

paho's `publish` hands a packet to its network thread and wakes it through a pair of sockets, and
its reader takes a packet in three system calls. Under Python's global lock each of these is a
change of threads, and a poll round has one message for every host and one from it.

- A QoS 0 packet is built here and written at once. The network thread is woken only when the socket
  did not take all of it or is broken, and then does what it would have done anyway: write the rest,
  or see the error and reconnect. So errors are still handled in one thread.
- What the socket holds is read at once into a buffer, from which packets are taken.

Not for TLS: one thread may not write to a TLS connection while another reads from it, and that
connection has a buffer of its own.
"""

import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client, MQTTMessageInfo, MQTTv5
from paho.mqtt.enums import MessageType, MQTTErrorCode

READ_BYTES = 65_536


class BufferedSocket(socket.socket):
    """A socket that reads ahead; `pending` tells paho's loop not to wait for what is here.

    Takes the place of `sock`, which is not usable any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        timeout_s = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout_s)
        self._ahead = b""
        self._at = 0

    def pending(self) -> int:
        """Bytes that were read and not taken."""
        return len(self._ahead) - self._at

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return at most `bufsize` bytes, as a socket does."""
        if self._at == len(self._ahead):
            self._ahead, self._at = super().recv(READ_BYTES, flags), 0
        taken = self._ahead[self._at : self._at + bufsize]
        self._at += len(taken)
        return taken


class DirectClient(Client):
    """`paho.mqtt.client.Client` with `send`, for QoS 0."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._write_lock = threading.RLock()
        super().__init__(*arguments, **options)
        self._told = MQTTMessageInfo(0)  # paho marks each packet as sent; nobody asks for these
        self._properties = b"\x00" if self._protocol == MQTTv5 else b""

    def send(self, topic: str, payload: bytes) -> bool:
        """Write a message that is not retained, at QoS 0; False without a connection."""
        if self._sock is None:
            return False
        name = topic.encode()
        packet = bytearray((MessageType.PUBLISH,))
        self._pack_remaining_length(packet, 2 + len(name) + len(self._properties) + len(payload))
        packet += struct.pack("!H", len(name)) + name + self._properties + payload
        self._out_packet.append(
            {
                "command": int(MessageType.PUBLISH),
                "mid": 0,
                "qos": 0,
                "pos": 0,
                "to_process": len(packet),
                "packet": bytes(packet),
                "info": self._told,
            }
        )
        written = self._packet_write() == MQTTErrorCode.MQTT_ERR_SUCCESS
        if (not written or self._out_packet) and self._sockpairW is not None:
            with suppress(BlockingIOError):
                self._sockpairW.send(b"0")
        return True

    def _packet_write(self) -> MQTTErrorCode:
        with self._write_lock:  # two threads must not each write a part of a packet
            return super()._packet_write()

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())  # type: ignore[arg-type]
