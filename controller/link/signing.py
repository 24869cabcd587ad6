# SPDX-License-Identifier: MIT
"""Messages that a broker cannot forge: HMAC-SHA256 with a key per host.

TLS ends at the broker, which could write any answer and any order itself. With keys, what one host
and the controller say to each other goes out as

    HMAC-SHA256(key of the host, topic, 0, payload) as 64 hex digits, then the payload

on the topics of `SIGNED`, and what comes in without the right digits is dropped and counted as
`forged`. The topic is part of it, so that nothing can be moved to another topic; that nothing old
counts again is the work of epoch, step and nonce in the payload. A step goes to all hosts: a key
that all of them know would prove nothing, so steps, presence and halts are not signed.

A key file has a line `<host> <64 hex digits>` for each host and is readable by its owner alone: one
line on a host, all of them at the controller. `kofn ca enroll` writes both.
"""

import hmac
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kofn.controller.core.errors import InputError
from kofn.controller.link.audit import AuditLog
from kofn.controller.link.clock import Clock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.secret_files import read_secret
from kofn.controller.link.topics import NAME_PATTERN
from kofn.controller.link.transport import Inbound

SIGNED = frozenset({"poll", "cmd", "rep", "done", "ack"})
"""Kinds of topics between the controller and one host."""

DIGITS = 64

KEYS_NAME = "message.keys"
"""Name of the key files that `kofn ca` writes."""

_KEY_LINE = re.compile(r"(\S+)\s+([0-9a-f]{64})")

log = logging.getLogger(__name__)

Keys = Mapping[str, bytes]
"""Host -> its key, 32 bytes."""


def new_key() -> bytes:
    """Return a key from the operating system's source of randomness."""
    return secrets.token_bytes(32)


def sign(key: bytes, topic: str, payload: bytes) -> bytes:
    """Return the payload with its signature in front."""
    return _signature(key, topic, payload) + payload


def verify(key: bytes, topic: str, signed: bytes) -> bytes | None:
    """Return the payload of a signed message; None when the signature is not right."""
    signature, payload = signed[:DIGITS], signed[DIGITS:]
    right = hmac.compare_digest(_signature(key, topic, payload), signature)
    return payload if right else None


def _signature(key: bytes, topic: str, payload: bytes) -> bytes:
    # No topic holds a zero byte, so topic and payload cannot be divided in another way.
    return hmac.digest(key, topic.encode() + b"\0" + payload, "sha256").hex().encode()


def read_keys(path: Path) -> dict[str, bytes]:
    """Read a key file.

    Raises
    ------
    InputError
        No such file, one that others may read, or a line that is not `<host> <64 hex digits>`.
    """
    keys: dict[str, bytes] = {}
    lines = read_secret(path).decode(errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _KEY_LINE.fullmatch(line.strip())
        if found is None or not NAME_PATTERN.fullmatch(found[1]):
            raise InputError(f"{path}, line {number}: not a host's name and 64 hex digits")
        if found[1] in keys:
            raise InputError(f"{path}, line {number}: a second key of host {found[1]!r}")
        keys[found[1]] = bytes.fromhex(found[2])
    if not keys:
        raise InputError(f"{path} holds no key")
    return keys


def keys_text(keys: Keys) -> str:
    """Return the content of a key file."""
    return "".join(f"{host} {key.hex()}\n" for host, key in sorted(keys.items()))


def check_keys(keys: Keys, hosts: Iterable[str]) -> None:
    """Raise `InputError` unless every host has a key."""
    lacking = sorted(set(hosts) - set(keys))
    if lacking:
        raise InputError(
            f"host {lacking[0]!r} has no message key: add its line, or run kofn ca enroll again"
        )


class SignedMqttTransport(MqttTransport):
    """An MQTT connection whose messages between a host and the controller are signed.

    Parameters
    ----------
    url, clock, options
        As for `MqttTransport`.
    keys
        Of one host, or at the controller of all of them. Nothing is said to a host without a key,
        and nothing that is said in its name counts.
    """

    def __init__(self, url: str, clock: Clock, *, keys: Keys, **options: Any) -> None:
        super().__init__(url, clock, **options)
        self._keys = dict(keys)
        self._forged = 0
        self._audit = AuditLog(clock)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send, signed where it must be; False as well when there is no key for this host."""
        kind, name = _address(topic)
        if kind in SIGNED:
            key = self._keys.get(name)
            if key is None:
                self._note("unkeyed", name, f"nothing is sent on {kind}")
                return False
            payload = sign(key, topic, payload)
        return super().publish(topic, payload, qos=qos, retain=retain)

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message that is genuine, or that is not signed by its kind."""
        end_s = self._clock.now() + timeout_s
        while (message := super().receive(timeout_s)) is not None:
            kind, name = _address(message.topic)
            if kind not in SIGNED:
                return message
            key = self._keys.get(name)
            payload = None if key is None else verify(key, message.topic, message.payload)
            if payload is not None:
                return message._replace(payload=payload)
            self._forged += 1
            self._note("forged" if key is not None else "unkeyed", name, kind)
            timeout_s = max(0.0, end_s - self._clock.now())
        return None

    @property
    def statistics(self) -> dict[str, int]:
        """As of `MqttTransport`, and `forged`: messages dropped for their signature."""
        return {**super().statistics, "forged": self._forged}

    def _note(self, reason: str, host: str, detail: str) -> None:
        line = self._audit.note(reason, host, detail)
        if line is not None:
            log.warning("%s", line)


def _address(topic: str) -> tuple[str, str]:
    """The last two levels of a topic: its kind and the host, of those that have one."""
    levels = topic.rsplit("/", 2)
    return (levels[-2], levels[-1]) if len(levels) == 3 else ("", "")
