# SPDX-License-Identifier: MIT
"""`MqttTransport`: a session kept alive over a real broker, with paho-mqtt.

A session is up when CONNECT was accepted, every filter was granted, and presence was published, in
this order. paho's network thread does all that at each connection and otherwise only pushes into a
bounded queue; whoever owns the transport reads it in its own loop.

The connection number `c` rises with every CONNECT that is sent, accepted or not: a broker may hold
the last will of an attempt that looked failed from here, and no later connection may share its
number. So numbers rise, with gaps.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from random import SystemRandom
from threading import Condition
from typing import Any, Literal

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.clock import Clock
from kofn.controller.link.direct_client import DirectClient, Published
from kofn.controller.link.inbox import Inbox
from kofn.controller.link.tls import TlsFiles, check_access, make_context
from kofn.controller.link.transport import Inbound, Outbound, Session

Protocol = Literal["auto", "5", "3.1.1"]

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
_MQTT5_TRIAL_S = 3.0
_INFLIGHT = 100
_QUEUED = 64
_FLUSH_S = 2.0
_PING_TOPIC = "kofn1/ping"
_WRONG_LOGIN = ("Not authorized", "Bad user name or password", "Banned")


class MqttTransport:
    """One MQTT connection; implements `Transport`.

    Parameters
    ----------
    url
        `mqtt://host[:port]`, or `mqtts://host[:port]` for TLS.
    clock
        Stamps arrivals and translates the fleet seconds of `receive`.
    username, password
        Login; None for an anonymous broker.
    keepalive_s
        The broker publishes the last will after 1.5 times this silence.
    protocol
        "auto" tries MQTT 5 for 3 s, then 3.1.1; pin it where it is known (`Broker.protocol`).
    tls
        Certificates for `mqtts://`; None there means the authorities of the operating system.
    insecure_lab
        Allow a broker on another machine without TLS or credentials, with a warning.

    Raises
    ------
    InputError
        A URL that is none, unusable certificates, or an address that needs more (see `tls`).
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        username: str | None = None,
        password: str | None = None,
        keepalive_s: int = 15,
        protocol: Protocol = "auto",
        tls: TlsFiles | None = None,
        insecure_lab: bool = False,
    ) -> None:
        self._address = parse_url(url)
        self._warning = check_access(
            self._address, tls, username=username, insecure_lab=insecure_lab
        )
        self._tls = make_context(tls or TlsFiles()) if self._address.tls else None
        self._named = username is not None or (tls is not None and tls.certificate is not None)
        self._clock = clock
        self._username = username
        self._password = password
        self._keepalive_s = keepalive_s
        self._protocol: Protocol = protocol
        self._client: Client | None = None
        self._session: Session | None = None
        self._inbox = Inbox(1)
        self._changed = Condition()
        self._ready = False
        self._refusal = ""
        self._stage = ""
        self._connection = 0
        self._established = 0
        self._sent = 0
        self._unsent = 0
        self._heard_wall_s = float("-inf")
        self._pongs = 0
        self._wake: Callable[[], None] | None = None
        self._collecting = False

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Connect, subscribe, announce; a broker that is not there yet is waited for.

        Raises
        ------
        RunError
            The broker refuses the login or a subscription (at once), or the session is not up
            within `timeout_s` wall seconds.
        """
        if self._client is not None:
            raise RuntimeError("transport is open already")
        if self._warning:
            _log.warning(self._warning)
        deadline_s = time.monotonic() + timeout_s
        self._session = session
        self._inbox = Inbox(session.queue, session.newest_only)
        self._refusal = ""
        self._stage = "did not answer (nothing listens there)"
        try:
            if self._protocol == "auto":
                trial_s = min(timeout_s / 2, _MQTT5_TRIAL_S)
                until_s = time.monotonic() + trial_s
                if self._try(MQTTProtocolVersion.MQTTv5, session, until_s):
                    return
            pinned = self._protocol == "5"
            version = MQTTProtocolVersion.MQTTv5 if pinned else MQTTProtocolVersion.MQTTv311
            if self._try(version, session, deadline_s):
                return
        except BaseException:
            self.close()
            raise
        raise RunError(f"MQTT broker {self._address} {self._stage} within {timeout_s:g} s")

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send; False, and nothing queued, while the session is down or the window is full."""
        client = self._client
        # paho would keep a QoS 1 message for the next connection: a stale order, hence the gate.
        if client is None or not self.connected:
            self._unsent += 1
            return False
        if qos == 0 and not retain and isinstance(client, DirectClient):
            sent = client.send(topic, payload)
        else:
            sent = client.publish(topic, payload, qos, retain).rc == MQTTErrorCode.MQTT_ERR_SUCCESS
        if not sent:
            self._unsent += 1
            return False
        self._sent += 1
        return True

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message, waiting at most `timeout_s` fleet seconds; None if none came."""
        message = self._inbox.take()
        if message is not None:
            return message
        left_s = self._clock.to_wall_s(timeout_s)
        end_s = time.monotonic() + left_s
        while isinstance(client := self._client, DirectClient) and self.connected:
            client.read(max(0.0, left_s), self._inbox)
            message = self._inbox.take()
            left_s = end_s - time.monotonic()
            if message is not None or left_s <= 0:
                return message
        return self._inbox.take(left_s)

    def tell(self, wake: Callable[[], None] | None) -> None:
        """Call `wake`, in any thread, for what comes while nobody is in `collect`."""
        self._wake = wake

    def attend(self, wait_s: float) -> socket.socket | None:
        """Say that `collect` is called within `wait_s` wall seconds; return what to wait on.

        None where what comes is seen by `tell` only: with TLS, or without a connection.
        """
        client = self._client
        if not isinstance(client, DirectClient) or not self.connected:
            return None  # a session comes up in the network thread
        sock: socket.socket | None = client.attend(wait_s)
        return sock

    def collect(self) -> list[Inbound]:
        """Return all that has come, without waiting."""
        client = self._client
        self._collecting = True
        if isinstance(client, DirectClient) and self.connected:
            client.read(0.0)
        self._collecting = False
        return self._inbox.take_all()

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Publish `farewell` and wait until it is out, then disconnect cleanly. Idempotent."""
        client = self._client
        if client is None:
            return
        if isinstance(client, DirectClient):
            client.leave()
        if self.connected:
            deadline_s = time.monotonic() + _FLUSH_S
            infos = [client.publish(m.topic, m.payload, m.qos, m.retain) for m in farewell]
            for info in infos:
                with suppress(RuntimeError, ValueError):  # the connection was lost meanwhile
                    info.wait_for_publish(max(0.0, deadline_s - time.monotonic()))
        self._drop(client)

    @property
    def connected(self) -> bool:
        """Whether the session is up, so that a publish would go out now."""
        client = self._client
        return self._ready and client is not None and client.is_connected()

    def ping(self) -> None:
        """Ask the broker for a sign of life; sends nothing while the session is down.

        An unsubscription from a topic that nobody has: the broker must acknowledge it and has
        nothing else to do. paho sends a PINGREQ of its own only after a keepalive of silence.
        """
        client = self._client
        if client is not None and self.connected:
            client.unsubscribe(_PING_TOPIC)

    def echo(self, pings: int, timeout_s: float) -> float | None:
        """Milliseconds until so many pings that leave in one piece are answered; None: too long.

        For a process that does not `receive` meanwhile. `timeout_s` in wall seconds.
        """
        began_s, wanted = time.monotonic(), self._pongs + pings
        with self.in_one_segment():
            for _ in range(pings):
                self.ping()
        while self._pongs < wanted:
            if time.monotonic() - began_s > timeout_s:
                return None
            time.sleep(0.0001)
        return 1000 * (time.monotonic() - began_s)

    @contextmanager
    def in_one_segment(self) -> Iterator[None]:
        """Hold back what is published meanwhile and send it in one piece (Linux without TLS).

        A broker that reads several messages at once answers at once: whether it then holds back
        small packets can be seen, where messages one by one hide it by chance.
        """
        client = self._client
        sock: Any = client.socket() if isinstance(client, DirectClient) else None
        if not isinstance(client, DirectClient) or sock is None or not hasattr(socket, "TCP_CORK"):
            yield
            return
        with suppress(OSError):  # closed meanwhile: nothing is sent either
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        try:
            with client.bundled():
                yield
        finally:
            with suppress(OSError):
                client.flush()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    @property
    def heard_wall_s(self) -> float:
        """When the broker was last heard, on `time.monotonic`; minus infinity before it was."""
        return self._heard_wall_s

    @property
    def _login(self) -> str | None:
        """Whom the broker takes us for, in messages."""
        if self._username is None and self._named and self._session is not None:
            return self._session.client_id
        return self._username

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since open, see `Transport`."""
        return {
            "connections": self._established,
            "dropped": self._inbox.dropped,
            "queued": len(self._inbox),
            "superseded": self._inbox.superseded,
            "received": self._inbox.received,
            "sent": self._sent,
            "unsent": self._unsent,
        }

    def _try(self, version: MQTTProtocolVersion, session: Session, deadline_s: float) -> bool:
        """Bring the session up with one MQTT version; False when that took too long."""
        client = self._client = self._make_client(version, session)
        client.connect_async(*self._address.tcp, keepalive=self._keepalive_s, clean_start=True)
        client.loop_start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or bool(self._refusal), deadline_s - time.monotonic()
            )
            if self._ready:
                return True
        self._drop(client)
        if self._refusal:
            raise RunError(f"MQTT broker {self._address} {self._refusal}")
        return False

    def _make_client(self, version: MQTTProtocolVersion, session: Session) -> Client:
        shared = not self._named and session.fleet  # nothing but the id keeps fleets apart
        kind = Client if self._tls is not None else DirectClient
        client = kind(
            CallbackAPIVersion.VERSION2,
            client_id=f"{session.fleet}.{session.client_id}" if shared else session.client_id,
            protocol=version,
        )
        if isinstance(client, DirectClient):
            client.on_published = self._on_published
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(_INFLIGHT)
        client.max_queued_messages_set(_INFLIGHT + _QUEUED)  # paho counts those in flight too
        # Doubling from a base of its own keeps the clients of a restarted broker apart.
        base_s = SystemRandom().uniform(0.5, 1.5)
        cap_s = SystemRandom().uniform(20.0, 30.0)
        client.reconnect_delay_set(base_s, cap_s)  # type: ignore[arg-type]  # floats do as well
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
            client.on_connect_fail = self._on_connect_fail
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_unsubscribe = self._on_pong
        return client

    def _drop(self, client: Client) -> None:
        """Disconnect, end the network thread, and free its sockets."""
        self._client = None
        client.disconnect()
        client.loop_stop()
        self._ready = False
        client.on_connect = client.on_subscribe = client.on_disconnect = None
        client.on_message = client.on_socket_open = client.on_connect_fail = None
        client.on_unsubscribe = None
        # paho leaves its wake-up socket pair to the garbage collector.
        client._reset_sockets()  # noqa: SLF001

    # What follows runs in paho's network thread, or where a message is waited for.

    def _on_socket_open(self, client: Client, _: Any, sock: Any) -> None:
        """Before CONNECT is sent: no Nagle delay, and the last will of this connection."""
        if client is not self._client:
            raise ConnectionAbortedError("closed while it was connecting")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self._session is not None  # noqa: S101
        self._connection += 1
        self._stage = "did not answer as an MQTT broker"
        if self._tls is not None:
            self._tls.forget()
        will = self._session.will(self._connection)
        if will is not None:
            client.will_set(will.topic, will.payload, will.qos, will.retain)

    def _on_connect(
        self, client: Client, _: Any, __: ConnectFlags, reason: ReasonCode, ___: Properties | None
    ) -> None:
        assert self._session is not None  # noqa: S101
        if reason.is_failure:
            self._stage = f"refused the connection ({reason})"
            if reason.getName() in _WRONG_LOGIN:
                self._refuse(f"refused the login of {self._login!r} ({reason})")
            return
        # Unacknowledged messages of the connection before are stale; the birth says what holds.
        client.drop_out_messages()
        self._stage = "accepted the login but did not answer the subscription"
        if self._session.filters:
            client.subscribe([(topic, qos) for topic, qos in self._session.filters])
        else:
            self._announce(client)

    def _on_subscribe(
        self, client: Client, _: Any, __: int, reasons: list[ReasonCode], ___: Properties | None
    ) -> None:
        assert self._session is not None  # noqa: S101
        filters = self._session.filters
        refused = [f for (f, _), code in zip(filters, reasons, strict=False) if code.is_failure]
        if refused or len(reasons) != len(filters):
            names = ", ".join(refused) or "some filters"
            self._refuse(f"does not let {self._login!r} subscribe to {names}")
            return
        self._announce(client)

    def _announce(self, client: Client) -> None:
        assert self._session is not None  # noqa: S101
        for message in self._session.birth(self._connection):
            client.publish(message.topic, message.payload, message.qos, message.retain)
            self._sent += 1
        self._heard_wall_s = time.monotonic()
        with self._changed:
            self._established += 1
            self._ready = True
            self._changed.notify_all()
        _log.info("connected broker=%s connection=%d", self._address, self._connection)

    def _on_disconnect(
        self, _: Client, __: Any, ___: DisconnectFlags, reason: ReasonCode, ____: Properties | None
    ) -> None:
        if self._ready and self._client is not None:
            _log.info("disconnected broker=%s reason=%r", self._address, str(reason))
        self._ready = False
        self._judge_tls()  # with TLS 1.3 a broker refuses our certificate after the handshake

    def _on_pong(self, *_: Any) -> None:
        self._heard_wall_s = time.monotonic()
        self._pongs += 1

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        self._keep(
            Inbound(message.topic, bytes(message.payload), message.retain, self._clock.now())
        )

    def _on_published(self, message: Published) -> None:
        self._keep(Inbound(*message, self._clock.now()))

    def _keep(self, message: Inbound) -> None:
        self._heard_wall_s = time.monotonic()
        self._inbox.put(message)
        wake = self._wake
        if wake is not None and not self._collecting:
            wake()

    def _on_connect_fail(self, client: Client, _: Any) -> None:
        if client is self._client:
            self._judge_tls()

    def _judge_tls(self) -> None:
        """Give up at once where a certificate was refused; it would be again."""
        if self._tls is None or not self._tls.failure:
            return
        self._stage = self._tls.failure
        if self._tls.final:
            self._refuse(self._tls.failure)

    def _refuse(self, why: str) -> None:
        """Fail `open`; at a reconnection, say so in the log and stay down."""
        with self._changed:
            if self._established:
                _log.error("broker=%s %s", self._address, why)
            self._refusal = why
            self._changed.notify_all()
