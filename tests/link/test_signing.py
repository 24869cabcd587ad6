# SPDX-License-Identifier: MIT
"""Signed messages: what a broker, or anybody on it, cannot put into somebody's mouth."""

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import ROOT, mute

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.secret_files import write_atomic
from kofn.controller.link.signing import (
    SignedMqttTransport,
    check_keys,
    keys_text,
    new_key,
    read_keys,
    sign,
    verify,
)

KEYS = {"h1": b"1" * 32, "h2": b"2" * 32}
TEXT = st.text(alphabet="abc/", min_size=1, max_size=12)


def test_the_signature_is_hmac_sha256_of_topic_zero_payload() -> None:
    """Spelled out as RFC 2104 has it, so that another implementation can follow."""
    key = b"k" * 32
    inner, outer = (bytes(byte ^ pad for byte in key.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    signed = b"kofn1/f/rep/h1\0" + b'{"v":1}'
    digest = hashlib.sha256(outer + hashlib.sha256(inner + signed).digest()).hexdigest()
    assert sign(key, "kofn1/f/rep/h1", b'{"v":1}') == digest.encode() + b'{"v":1}'
    assert hmac.digest(key, signed, "sha256").hex() == digest


@given(st.binary(min_size=32, max_size=32), TEXT, st.binary(max_size=80))
def test_what_was_signed_is_read(key: bytes, topic: str, payload: bytes) -> None:
    assert verify(key, topic, sign(key, topic, payload)) == payload


@given(st.binary(max_size=80), TEXT, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_another_topic_or_key_is_not(
    payload: bytes, topic: str, at: int, flip: int
) -> None:
    signed = sign(KEYS["h1"], topic, payload)
    at %= len(signed)
    changed = signed[:at] + bytes([signed[at] ^ flip]) + signed[at + 1 :]
    assert verify(KEYS["h1"], topic, changed) is None
    assert verify(KEYS["h1"], topic + "x", signed) is None
    assert verify(KEYS["h2"], topic, signed) is None
    assert verify(KEYS["h1"], topic, payload) is None  # not signed at all


def test_a_byte_of_the_topic_does_not_pass_for_one_of_the_payload() -> None:
    assert verify(KEYS["h1"], "rep/h", sign(KEYS["h1"], "rep/h1", b"x")) is None
    assert verify(KEYS["h1"], "rep/h", b"1" + sign(KEYS["h1"], "rep/h1", b"x")) is None


def test_key_files_are_read_as_they_are_written(tmp_path: Path) -> None:
    keys = {"h1": new_key(), "cart:2": new_key()}
    path = write_atomic(tmp_path / "message.keys", "# of two hosts\n\n" + keys_text(keys))
    assert read_keys(path) == keys
    check_keys(keys, ["h1", "cart:2"])
    with pytest.raises(InputError, match=r"^host 'h3' has no message key: .* kofn ca enroll"):
        check_keys(keys, ["h1", "h3"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        (f"h1 {'0' * 63}\n", "line 1: not a host's name and 64 hex digits"),
        (f"h/1 {'0' * 64}\n", "line 1: not a host's name and 64 hex digits"),
        (f"h1 {'0' * 64}\nh1 {'1' * 64}\n", "line 2: a second key of host 'h1'"),
        ("\xff\xfe\n", "line 1: not a host's name"),
    ],
)
def test_a_key_file_that_is_none_is_one_sentence(
    tmp_path: Path, content: str, sentence: str
) -> None:
    path = write_atomic(tmp_path / "message.keys", content.encode("latin-1"))
    with pytest.raises(InputError, match=sentence):
        read_keys(path)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "message.keys", keys_text(KEYS), 0o640)
    with pytest.raises(InputError, match=r"has mode 640, .* chmod 600"):
        read_keys(path)


@pytest.mark.broker
def test_on_a_broker_where_anybody_may_write_only_the_genuine_counts(open_broker: str) -> None:
    def signed(name: str, *filters: str, **keys: bytes) -> SignedMqttTransport:
        transport = SignedMqttTransport(open_broker, MonotonicClock(), keys=keys, protocol="5")
        transport.open(mute(name, *filters))
        return transport

    controller = signed("controller", "rep/+", "done/+", "evt/+", **KEYS)
    host = signed("h1", "poll/h1", "step", h1=KEYS["h1"])
    forger = MqttTransport(open_broker, MonotonicClock(), protocol="5")
    forger.open(mute("forger", "rep/h1"))
    try:
        topic = f"{ROOT}rep/h1"
        forger.publish(topic, b"plain")
        forger.publish(topic, b"0" * 64 + b"zeros")
        forger.publish(topic, sign(b"f" * 32, topic, b"of another key"))
        forger.publish(topic, sign(KEYS["h2"], topic, b"of another host"))
        forger.publish(f"{ROOT}rep/h3", b"of nobody")
        forger.publish(f"{ROOT}evt/h1", b"unsigned by its kind")  # in order: all above were seen
        first = controller.receive(5.0)
        assert first is not None
        assert first.payload == b"unsigned by its kind"
        assert controller.statistics["forged"] == 5

        host.publish(topic, b"answer")
        genuine = controller.receive(5.0)
        assert genuine is not None
        assert (genuine.topic, genuine.payload) == (topic, b"answer")
        heard = [forger.receive(5.0) for _ in range(5)]
        recorded = next(m.payload for m in heard if m is not None and m.payload[64:] == b"answer")
        forger.publish(f"{ROOT}done/h1", recorded)  # the true words on another topic
        assert not controller.publish(f"{ROOT}poll/h3", b"no key")
        forger.publish(f"{ROOT}poll/h1", b"forged")
        controller.publish(f"{ROOT}step", b"for all")
        controller.publish(f"{ROOT}poll/h1", b"asked")
        got = [host.receive(5.0), host.receive(5.0)]
        assert sorted(m.payload for m in got if m is not None) == [b"asked", b"for all"]
        assert host.statistics["forged"] == 1
        assert controller.receive(0.0) is None
        assert controller.statistics["forged"] == 6
    finally:
        for transport in (controller, host, forger):
            transport.close()
