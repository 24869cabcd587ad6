# SPDX-License-Identifier: MIT
"""Which connections are allowed, and which certificates can be used; no broker needed."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from wires import FLEET, USERS, mute

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.broker import start_broker
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.enrolment import create
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.tls import TlsFiles, check_access, make_context

OWN = TlsFiles(Path("ca"), Path("crt"), Path("key"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca"
    create(path, fleet=FLEET, broker_names=["b"], now=datetime.now(UTC))
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_this_machine_needs_nothing(scheme: str, host: str) -> None:
    assert check_access(parse_url(f"{scheme}://{host}"), None, username=None) == ""


@pytest.mark.parametrize(
    "url",
    ["mqtt://broker.lan", "mqtt://10.0.0.5", "mqtt://0.0.0.0", "mqtt://[fe80::1]", "mqtt://LOCAL"],
)
@pytest.mark.parametrize("username", [None, "controller"])
def test_another_machine_needs_tls(url: str, username: str | None) -> None:
    with pytest.raises(InputError, match=r"is not on this machine: it needs TLS .* --insecure-lab"):
        check_access(parse_url(url), None, username=username)


def test_another_machine_needs_credentials_too() -> None:
    address = parse_url("mqtts://broker.lan")
    for tls in (None, TlsFiles(Path("ca"))):
        with pytest.raises(InputError, match="it needs credentials, or --insecure-lab"):
            check_access(address, tls, username=None)
    assert check_access(address, None, username="h1") == ""
    assert check_access(address, OWN, username=None) == ""


def test_certificates_are_never_dropped_silently() -> None:
    with pytest.raises(InputError, match=r"certificates need a broker URL mqtts://"):
        check_access(parse_url("mqtt://127.0.0.1"), OWN, username=None)
    with pytest.raises(InputError, match=r"certificates need a broker URL mqtts://"):
        check_access(parse_url("mqtt://b"), OWN, username=None, insecure_lab=True)


def test_going_without_is_said_at_every_start(caplog: pytest.LogCaptureFixture) -> None:
    transport = MqttTransport("mqtt://0.0.0.0:9", MonotonicClock(), insecure_lab=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(RunError):
                transport.open(mute("h1"), 0.05)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all(
        line.startswith("INSECURE: broker=mqtt://0.0.0.0:9 is used without") for line in said
    )


def test_a_broker_of_somebody_else_elsewhere_needs_tls(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not on this machine"):
        start_broker("mqtt://192.0.2.1", fleet=FLEET, users=USERS, workdir=tmp_path)


def test_a_transport_cannot_be_made_without_what_its_address_needs() -> None:
    with pytest.raises(InputError, match="is not on this machine"):
        MqttTransport("mqtt://192.0.2.1", MonotonicClock())


@pytest.mark.parametrize("files", [TlsFiles(certificate=Path("c")), TlsFiles(key=Path("k"))])
def test_a_certificate_and_its_key_belong_together(files: TlsFiles) -> None:
    with pytest.raises(InputError, match="a client certificate needs its key"):
        make_context(files)


def test_files_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    ca = folder / "ca.crt"
    certificate, key = (folder / "operator" / f"operator.{kind}" for kind in ("crt", "key"))
    junk = tmp_path / "junk"
    junk.write_text("junk")
    junk.chmod(0o600)
    missing = tmp_path / "missing"
    cases = {
        rf"cannot read .*{missing.name}": TlsFiles(missing),
        r"junk: not usable for TLS \(": TlsFiles(junk),
        r"cannot read .*missing$": TlsFiles(ca, missing, key),
        r"cannot read .*missing: No such file": TlsFiles(ca, certificate, missing),
        r"junk: not usable for TLS \(no PEM\)": TlsFiles(ca, certificate, junk),
        r"controller.key: not usable for TLS \(key values mismatch\)": TlsFiles(
            ca, certificate, folder / "controller" / "controller.key"
        ),
    }
    for sentence, files in cases.items():
        with pytest.raises(InputError, match=sentence):
            make_context(files)


def test_a_key_that_others_can_read_is_refused(folder: Path, tmp_path: Path) -> None:
    key = tmp_path / "operator.key"
    key.write_bytes((folder / "operator" / "operator.key").read_bytes())
    key.chmod(0o644)
    with pytest.raises(InputError, match=r"operator.key has mode 644.*chmod 600"):
        make_context(TlsFiles(folder / "ca.crt", folder / "operator" / "operator.crt", key))


def test_a_locked_key_is_one_sentence_and_no_prompt(folder: Path, tmp_path: Path) -> None:
    plain = (folder / "operator" / "operator.key").read_bytes()
    locked = serialization.load_pem_private_key(plain, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    key = tmp_path / "operator.key"
    key.write_bytes(locked)
    key.chmod(0o600)
    with pytest.raises(InputError, match="is locked with a passphrase"):
        make_context(TlsFiles(folder / "ca.crt", folder / "operator" / "operator.crt", key))


@pytest.mark.parametrize(
    "url", ["mqtts://", "mqtts://a..b", "mqtts://-a", "mqtts://a/x", "mqtts://u:p@x", "ssl://x"]
)
def test_a_bad_url_is_one_sentence(url: str) -> None:
    with pytest.raises(InputError, match="must have the form"):
        parse_url(url)
