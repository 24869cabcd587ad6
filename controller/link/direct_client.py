# SPDX-License-Identifier: MIT
"""A paho client without the detours: whoever publishes writes, and whoever waits reads.

paho's `publish` hands a packet to its network thread and wakes it through a pair of sockets; its
reader, in that thread too, takes a packet in three system calls and wakes whoever waits for it.
Under Python's global lock each of these is a change of threads, and a poll round has one message
for every host and one from it.

- A QoS 0 packet is built here and written at once. The network thread is woken only when the socket
  did not take all of it or is broken, and then does what it would have done anyway: write the rest,
  or see the error and reconnect. So errors are still handled in one thread.
- `read` waits on the socket itself. The network thread leaves the socket alone meanwhile, and reads
  it again when nobody has called `read` for `PATIENCE_S`: a process that computes for long still
  answers the broker, and a message that came meanwhile is not taken for one that came just now.
- What the socket holds is read at once into a buffer. Messages of QoS 0 without properties are
  taken from it here; all other packets go paho's way.

Not for TLS: one thread may not write to a TLS connection while another reads from it, and that
connection has a buffer of its own.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessageInfo, MQTTv5
from paho.mqtt.enums import MessageType, MQTTErrorCode

READ_BYTES = 65_536
PATIENCE_S = 0.05
"""So long after the last `read` the network thread reads again, wall seconds. By so much a message
can look younger than it is: far less than any period of robots that move."""
HANDOVER_S = 0.005
"""Longest wait of a reader that finds the network thread reading, until it looks again."""

_PUBLISH_QOS_0 = int(MessageType.PUBLISH)
_RETAIN = 0x01


class Published(NamedTuple):
    """A message of QoS 0 as it came."""

    topic: str
    payload: bytes
    retained: bool


class _Bundle(NamedTuple):
    """Packets for one connection."""

    sock: Any
    data: bytearray


class BufferedSocket(socket.socket):
    """A socket that reads ahead; `pending` tells paho's loop not to wait for what is here.

    Takes the place of `sock`, which is not usable any more.
    """

    def __init__(self, sock: socket.socket) -> None:
        timeout_s = sock.gettimeout()
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout_s)
        # Made once: to ask for so many bytes and give most of them back, read for read, leaves
        # holes in the memory of the process.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._ahead = b""
        self._at = 0

    def pending(self) -> int:
        """Bytes that were read and not taken."""
        return len(self._ahead) - self._at

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Return at most `bufsize` bytes, as a socket does."""
        if self._at == len(self._ahead):
            self._fill(flags)
        taken = self._ahead[self._at : self._at + bufsize]
        self._at += len(taken)
        return taken

    def _fill(self, flags: int = 0) -> None:
        size = super().recv_into(self._buffer, READ_BYTES, flags)
        self._ahead, self._at = bytes(self._buffer[:size]), 0

    def take_published(self, properties: bytes) -> Published | None:
        """Take the next message if it is whole and of QoS 0; None: something else comes first.

        `properties` is what stands for none in the version that is spoken. Raises `OSError` as
        `recv` does.
        """
        if self._at == len(self._ahead):
            self._fill()
        data, at = self._ahead, self._at
        size = len(data)
        if at + 2 > size or data[at] & ~_RETAIN != _PUBLISH_QOS_0:
            return None
        head, at, length, shift = data[at], at + 1, 0, 0
        while True:  # seven bits a byte, the least first; the highest bit says that more follow
            if at == size or shift > 21:
                return None
            byte = data[at]
            length |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                break
        end = at + length
        name_at = at + 2
        if end > size or name_at > end:
            return None
        name_end = name_at + int.from_bytes(data[at:name_at], "big")
        begin = name_end + len(properties)
        if begin > end or data[name_end:begin] != properties:
            return None
        topic = data[name_at:name_end].decode(errors="replace")
        self._at = end
        return Published(topic, data[begin:end], bool(head & _RETAIN))


class DirectClient(Client):
    """`paho.mqtt.client.Client` with `send` and `read`, for QoS 0; with `loop_start` only."""

    on_published: Callable[[Published], None]
    """Called with what `BufferedSocket` takes; `on_message` with all other messages."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self._attended_until_s = float("-inf")
        self._network_reads = False
        self._bundle: _Bundle | None = None
        super().__init__(*arguments, **options)
        self._told = MQTTMessageInfo(0)  # paho marks each packet as sent; nobody asks for these
        self._properties = b"\x00" if self._protocol == MQTTv5 else b""

    def send(self, topic: str, payload: bytes) -> bool:
        """Write a message that is not retained, at QoS 0; False without a connection."""
        sock = self._sock
        if sock is None:
            return False
        name = topic.encode()
        packet = bytearray((MessageType.PUBLISH,))
        self._pack_remaining_length(packet, 2 + len(name) + len(self._properties) + len(payload))
        packet += struct.pack("!H", len(name)) + name + self._properties + payload
        if self._bundle is not None and self._bundle.sock is sock:
            self._bundle.data.extend(packet)
        else:
            self._write(bytes(packet))
        return True

    @contextmanager
    def bundled(self) -> Iterator[None]:
        """Keep back what is sent in the block and write it in one piece at its end.

        One call of the operating system for a step and a hundred polls. For one thread; what was
        kept for a connection that has broken meanwhile is lost with it.
        """
        bundle = self._bundle = _Bundle(self._sock, bytearray())
        try:
            yield
        finally:
            self._bundle = None
            if bundle.data and bundle.sock is self._sock:
                self._write(bytes(bundle.data))

    def _write(self, data: bytes) -> None:
        """Write whole packets; what the socket does not take is left to the network thread."""
        self._out_packet.append(
            {
                "command": int(MessageType.PUBLISH),
                "mid": 0,
                "qos": 0,
                "pos": 0,
                "to_process": len(data),
                "packet": data,
                "info": self._told,
            }
        )
        written = self._packet_write() == MQTTErrorCode.MQTT_ERR_SUCCESS
        if not written or self._out_packet:
            self._wake()

    def flush(self) -> None:
        """Write what paho's own methods left to the network thread."""
        if self._sock is not None and self.want_write():
            self._packet_write()
            self._wake()  # for the rest, or for an error

    def read(self, timeout_s: float, queue: Sized = ()) -> None:
        """Take in what comes, waiting at most `timeout_s` wall seconds for it to begin.

        Messages go to `on_published` and `on_message`, in this thread. A connection that breaks
        meanwhile is left to the network thread. Returns at once while there is something in
        `queue`, and soon while the network thread still reads: what that takes from the socket
        wakes nobody here.
        """
        sock = self._sock
        if sock is None:
            return
        self._attended_until_s = time.monotonic() + timeout_s + PATIENCE_S
        if self._network_reads:
            self._wake()
            timeout_s = min(timeout_s, HANDOVER_S)
        if queue:
            timeout_s = 0.0
        try:
            if timeout_s > 0 and not select.select([sock], [], [], timeout_s)[0]:
                return
            self.loop_read()
        except (OSError, ValueError):  # closed by the network thread meanwhile
            return
        if self._sock is None:
            self._wake()

    def attend(self, wait_s: float) -> Any:
        """Say that within `wait_s` wall seconds somebody will `read`; return the socket."""
        self._attended_until_s = time.monotonic() + wait_s + PATIENCE_S
        if self._network_reads:
            self._wake()
        return self._sock

    def leave(self) -> None:
        """Say that nobody is going to `read` for a while: the network thread does."""
        self._attended_until_s = float("-inf")
        self._wake()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002  paho's signature
        """Handle all packets that can be had with one read of the socket."""
        with self._read_lock:
            while True:
                sock = self._sock
                if sock is None:
                    return MQTTErrorCode.MQTT_ERR_NO_CONN
                code = self._packet_read()
                if code > 0:
                    return self._loop_rc_handle(code)
                if code == MQTTErrorCode.MQTT_ERR_AGAIN or not sock.pending():  # type: ignore[attr-defined]
                    return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _wake(self) -> None:
        if self._sockpairW is not None:
            with suppress(BlockingIOError):
                self._sockpairW.send(b"0")

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """One turn of the network thread: all of paho's, or all but reading."""
        sock, woken = self._sock, self._sockpairR
        self._network_reads = True  # before the look at who else does: `read` looks in turn
        left_s = self._attended_until_s - time.monotonic()
        if left_s <= 0 or sock is None or woken is None:
            try:
                return super()._loop(timeout)
            finally:
                self._network_reads = False
        self._network_reads = False
        try:
            writing = [sock] if self.want_write() else []
            ready, writable, _ = select.select([woken], writing, [], min(left_s, timeout))
            if ready:
                with suppress(BlockingIOError):
                    woken.recv(10_000)
            if (ready or writable) and self._sock is not None:
                code = self.loop_write()
                if code:
                    return code
        except (OSError, ValueError):  # closed by who reads
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        return self.loop_misc()

    def _packet_read(self) -> MQTTErrorCode:
        sock = self._sock
        if self._in_packet["command"] == 0 and isinstance(sock, BufferedSocket):
            try:
                published = sock.take_published(self._properties)
            except BlockingIOError:
                return MQTTErrorCode.MQTT_ERR_AGAIN
            except OSError:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            if published is not None:
                with self._msgtime_mutex:
                    self._last_bytes_received = time.monotonic()
                self.on_published(published)
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return super()._packet_read()

    def _packet_write(self) -> MQTTErrorCode:
        with self._write_lock:  # two threads must not each write a part of a packet
            return super()._packet_write()

    def _create_socket(self) -> Any:
        return BufferedSocket(super()._create_socket())  # type: ignore[arg-type]
