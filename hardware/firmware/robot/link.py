# SPDX-License-Identifier: MIT
"""The connection: connect, subscribe, announce, listen; when it breaks, stop and begin again.

While there is no connection nothing is queued: what a robot has to say about step t is worthless
later. Backing off 0.25, 0.5, .. 4 s with jitter, so that a fleet does not come back at once.
"""

import asyncio
import os

from robot.mqtt import Client
from robot.wire import encode


class Link:
    """Carries bytes between the broker and `app.on_message`."""

    def __init__(self, app, cfg):
        self._app, self._cfg = app, cfg
        self._root = "kofn1/%s/" % cfg["fleet"]
        self._client = None
        self.connections = 0
        self.up = False
        self.error = ""

    def topic(self, kind):
        """Topic of this host."""
        return "%s%s/%s" % (self._root, kind, self._cfg["host"])

    def _conn(self, state):
        return encode(b=self._app.host.boot, c=self.connections, st=state, n=1)

    async def run(self):
        """For ever: a connection, then a pause."""
        pause = 250
        while not self._app.ending:
            started = self._app.clock.now()
            try:
                await self._session()
            except Exception as error:  # refused, reset, timed out, bad certificate
                self.error = ("%s: %s" % (type(error).__name__, error)).replace("\n", " ")
            self._app.on_link_lost(self.error)
            if self._client is not None:
                await self._client.close()
                self._client = None
            if self._app.clock.now() - started > 10000:
                pause = 250
            await asyncio.sleep(pause * (0.5 + os.urandom(1)[0] / 256) / 1000)
            pause = min(pause * 2, 4000)

    async def _session(self):
        broker, app = self._cfg["broker"], self._app
        ping_ms = self._cfg["link_ms"] // 3
        silence_s = 3 * self._cfg["link_ms"] / 1000 / app.clock.speed
        client = Client(
            self._cfg["host"], broker["host"], broker["port"], broker.get("user", ""),
            broker.get("password", ""), tls_context(broker), broker.get("server_name", ""),
            keepalive_s=max(1, self._cfg["link_ms"] // 1000), most=broker.get("most", 16384),
        )
        self._client = client
        self.connections += 1
        await client.connect(self.topic("conn"), self._conn("CONNECTION_BROKEN"))
        root, host = self._root, self._cfg["host"]
        await client.subscribe((
            (root + "step", 0), (root + "ctl", 1), (root + "halt", 1), (root + "pol/+", 1),
            (root + "poll/" + host, 0), (root + "cmd/" + host, 1), (root + "pose/" + host, 0),
        ))
        state = "OFFLINE" if app.host.left else "ONLINE"
        await client.publish(self.topic("conn"), self._conn(state), 1, True)
        await client.publish(self.topic("roster"), app.roster(), 1, True)
        self.error = ""
        self.up = True
        app.on_heard()
        pings = asyncio.create_task(self._ping(client, ping_ms))
        try:
            while not app.ending:
                # A connection that died without a word is given up after three link times.
                message = await asyncio.wait_for(client.receive(), silence_s)
                app.on_heard()
                if message is not None and message[0].startswith(root):
                    await app.on_message(message[0][len(root):], message[1], message[2])
        finally:
            self.up = False
            pings.cancel()

    async def _ping(self, client, every_ms):
        try:
            while True:
                await self._app.clock.sleep(every_ms)
                await client.ping()
        except asyncio.CancelledError:
            raise
        except Exception:  # the reader meets the same error and ends the session
            pass

    async def leave(self):
        """Say that this robot has left the fleet."""
        await self.publish("conn", self._conn("OFFLINE"), 1, True)

    async def farewell(self):
        """Say that this is a clean end; the will is not sent then."""
        await self.publish("conn", self._conn("OFFLINE"), 1, True)
        if self._client is not None:
            await self._client.close(polite=True)

    async def publish(self, kind, payload, qos=0, retain=False):
        """Send when connected; otherwise it is gone, and that is right."""
        client = self._client
        if client is None:
            return
        try:
            await client.publish(self.topic(kind), payload, qos, retain)
        except Exception as error:
            self.error = str(error)


def tls_context(broker):
    """TLS context with the authority's certificate in DER; None without TLS."""
    if not broker.get("ca"):
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    with open(broker["ca"], "rb") as file:
        context.load_verify_locations(cadata=file.read())
    if broker.get("cert"):
        with open(broker["cert"], "rb") as cert, open(broker["key"], "rb") as key:
            context.load_cert_chain(cert.read(), key.read())
    return context
