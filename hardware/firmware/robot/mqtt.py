# SPDX-License-Identifier: MIT
"""An MQTT 3.1.1 client for asyncio: QoS 0 and 1, last will, TLS, no session kept.

One task reads; any task may publish. Every wait on the network has a limit, and a packet above
`most` bytes is read past and counted, never stored.
"""

import asyncio
import struct

TIMEOUT_S = 8


class MQTTError(Exception):
    """The broker refused, vanished, or sent what is no MQTT."""


def _string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">H", len(data)) + data


def _packet(kind, *parts):
    body = b"".join(parts)
    size, head = len(body), bytearray([kind])
    while True:
        head.append(size & 127 | (128 if size > 127 else 0))
        size >>= 7
        if not size:
            return bytes(head) + body


class Client:
    """One connection; after an error it is closed and a new one is made."""

    def __init__(self, client_id, host, port, user="", password="", tls=None, server_name="",
                 keepalive_s=1, most=16384):
        self._id, self._host, self._port = client_id, host, port
        self._user, self._password = user, password
        self._tls, self._name = tls, server_name
        self._keepalive, self._most = keepalive_s, most
        self._reader = self._writer = None
        self._lock = asyncio.Lock()
        self._next_id = 0
        self._early = []
        self.too_long = 0

    async def connect(self, topic, will):
        """Connect with a retained QoS 1 last will."""
        if self._tls is None:
            opening = asyncio.open_connection(self._host, self._port)
        else:
            opening = asyncio.open_connection(
                self._host, self._port, ssl=self._tls, server_hostname=self._name or self._host
            )
        self._reader, self._writer = await asyncio.wait_for(opening, TIMEOUT_S)
        _no_delay(self._writer)
        flags = 2 | 4 | 8 | 32
        parts = [_string(self._id), _string(topic), _string(will)]
        if self._user:
            flags |= 128 | 64
            parts += [_string(self._user), _string(self._password)]
        head = b"\x00\x04MQTT\x04" + bytes([flags]) + struct.pack(">H", self._keepalive)
        await self._send(_packet(0x10, head, *parts))
        kind, body = await asyncio.wait_for(self._read(), TIMEOUT_S)
        if kind != 0x20 or len(body) != 2:
            raise MQTTError("no MQTT broker there")
        if body[1]:
            raise MQTTError("the broker refused the login (%d)" % body[1])

    async def subscribe(self, filters):
        """Subscribe to (filter, QoS) pairs; each must be granted."""
        parts = [_string(topic) + bytes([qos]) for topic, qos in filters]
        number = self._number()
        await self._send(_packet(0x82, number, *parts))
        while True:
            kind, body = await asyncio.wait_for(self._read(), TIMEOUT_S)
            if kind == 0x90 and body[:2] == number:
                break
            if kind >> 4 == 3:  # kept messages may come before the acknowledgement
                self._early.append((kind, body))
        for (topic, _), code in zip(filters, body[2:]):
            if code > 2:
                raise MQTTError("the broker refused the subscription to %s" % topic)

    async def receive(self):
        """(topic, payload, retained) of the next message, or None for a sign of life."""
        kind, body = self._early.pop(0) if self._early else await self._read()
        if kind >> 4 != 3:
            return None
        if body is None or len(body) < 2:
            return None
        size = struct.unpack(">H", body[:2])[0]
        topic, at = body[2:2 + size], 2 + size
        if kind & 6:
            await self._send(_packet(0x40, body[at:at + 2]))
            at += 2
        try:
            return topic.decode(), body[at:], bool(kind & 1)
        except UnicodeError:
            return None

    async def publish(self, topic, payload, qos=0, retain=False):
        """Send a message; QoS 1 is acknowledged in `receive`, and sent again by the next birth."""
        number = self._number() if qos else b""
        await self._send(_packet(0x30 | qos << 1 | int(retain), _string(topic), number, payload))

    async def ping(self):
        """Ask the broker for a sign of life."""
        await self._send(b"\xc0\x00")

    async def close(self, polite=False):
        """Close; with `polite` the will is not sent."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            if polite:
                writer.write(b"\xe0\x00")
                await asyncio.wait_for(writer.drain(), 1)
            writer.close()
        except Exception:  # it is being thrown away
            pass

    def _number(self):
        self._next_id = self._next_id % 65535 + 1
        return struct.pack(">H", self._next_id)

    async def _send(self, data):
        async with self._lock:
            if self._writer is None:
                raise MQTTError("not connected")
            self._writer.write(data)
            await asyncio.wait_for(self._writer.drain(), TIMEOUT_S)

    async def _exactly(self, size):
        data = await self._reader.readexactly(size)
        if len(data) != size:
            raise MQTTError("the connection ended")
        return data

    async def _read(self):
        kind = (await self._exactly(1))[0]
        size = shift = 0
        while True:
            byte = (await self._exactly(1))[0]
            size |= (byte & 127) << shift
            if not byte & 128:
                break
            shift += 7
            if shift > 21:
                raise MQTTError("bad length")
        if size <= self._most:
            return kind, await self._exactly(size) if size else b""
        self.too_long += 1
        while size:
            size -= len(await self._exactly(min(size, 1024)))
        return kind, None


def _no_delay(writer):
    """Nagle's algorithm costs 40 ms a message; boards' stacks have it off or know no option."""
    try:
        sock = writer.s if hasattr(writer, "s") else writer.get_extra_info("socket")
        sock.setsockopt(6, 1, 1)
    except Exception:  # a TLS stream has no such option
        pass
