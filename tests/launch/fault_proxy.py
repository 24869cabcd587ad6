# SPDX-License-Identifier: MIT
"""A TCP proxy between MQTT clients and their broker that does what bad networks do.

TCP repairs what a radio loses, so bytes that vanish here would look like corruption to the broker.
What a fleet feels of radio loss is that a message of QoS 0 never comes: queues overflow, a
connection is renewed. Hence `loss` drops whole PUBLISH packets of QoS 0, the only ones for which
MQTT promises nothing; QoS 1 in a living connection is delayed, never lost. Jitter delays packets
and keeps their order, as TCP does.
"""

import asyncio
import random
from contextlib import suppress
from threading import Thread
from types import TracebackType
from typing import Self

PUBLISH_QOS_0 = 0x30
"""First byte of a PUBLISH without its flags DUP and RETAIN."""

SERVER_SHUTTING_DOWN = b"\xe0\x02\x8b\x00"
"""DISCONNECT of MQTT 5 with its reason, without properties."""


class FaultProxy:
    """Forwards a port of its own to a broker; set its fields at any time, from any thread.

    Attributes
    ----------
    delay_s, jitter_s
        Each packet waits `delay_s` plus a uniform part of `jitter_s`.
    loss
        Chance of a PUBLISH of QoS 0 to vanish.
    corrupt
        Chance of a packet to have one byte changed, anywhere.
    bytes_per_s
        How fast bytes pass; a slow reader. None: at once.
    half_open
        Nothing passes, in either direction, and connections stay.
    dropped, changed
        Packets so far.
    """

    def __init__(self, target: int, seed: int = 1) -> None:
        self.delay_s = self.jitter_s = self.loss = self.corrupt = 0.0
        self.bytes_per_s: float | None = None
        self.half_open = False
        self.dropped = self.changed = 0
        self.port = 0
        self._target = target
        self._random = random.Random(seed)
        self._links: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="fault-proxy")
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Forward everything at once again; connections stay."""
        self.delay_s = self.jitter_s = self.loss = self.corrupt = 0.0
        self.bytes_per_s, self.half_open = None, False

    def cut(self) -> None:
        """Break all connections; new ones are taken."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def dismiss(self) -> None:
        """Say goodbye to all clients as an MQTT 5 server that shuts down, then break the links."""
        self._loop.call_soon_threadsafe(self._dismiss)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _cut(self) -> None:
        for writer in list(self._links):
            writer.transport.abort()

    def _dismiss(self) -> None:
        for writer in list(self._clients):
            writer.write(SERVER_SHUTTING_DOWN)
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._cut()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, up_writer}
        self._links |= both
        self._clients.add(writer)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer)),
            asyncio.create_task(self._pump(up_reader, writer)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # by `close`; streams would log it
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in both:
                end.transport.abort()
            self._links -= both
            self._clients.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one direction until it ends."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(due, writer))
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    packet = await read_packet(reader)
                    if packet[0] & 0xF6 == PUBLISH_QOS_0 and self._random.random() < self.loss:
                        self.dropped += 1
                        continue
                    if self._random.random() < self.corrupt:
                        self.changed += 1
                        packet = self._damaged(packet)
                    wait_s = self.delay_s + self._random.random() * self.jitter_s
                    due.put_nowait((self._loop.time() + wait_s, packet))
        finally:
            sender.cancel()

    async def _send(
        self, due: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while True:
                at_s, packet = await due.get()
                await asyncio.sleep(max(0.0, at_s - self._loop.time()))
                while self.half_open:  # noqa: ASYNC110  set by another thread
                    await asyncio.sleep(0.02)
                writer.write(packet)
                await writer.drain()
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(packet) / self.bytes_per_s)

    def _damaged(self, packet: bytes) -> bytes:
        at = self._random.randrange(len(packet))
        return packet[:at] + bytes([packet[at] ^ self._random.randrange(1, 256)]) + packet[at + 1 :]


async def read_packet(reader: asyncio.StreamReader) -> bytes:
    """Read one MQTT packet: a first byte, the length in up to four bytes of 7 bits, the rest."""
    head = await reader.readexactly(1)
    length = shift = 0
    while True:
        digit = await reader.readexactly(1)
        head += digit
        length |= (digit[0] & 0x7F) << shift
        shift += 7
        if digit[0] < 0x80 or shift > 21:
            return head + await reader.readexactly(length)
