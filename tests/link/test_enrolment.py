# SPDX-License-Identifier: MIT
"""The authority's folder: what is written, what is refused, and what a crash leaves."""

import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link import enrolment
from kofn.controller.link.allow_list import read_allow_list
from kofn.controller.link.enrolment import create, open_office, read_members
from kofn.controller.link.secret_files import read_secret, write_atomic
from kofn.controller.link.signing import KEYS_NAME, read_keys
from kofn.controller.link.tls import TlsFiles, make_context

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "ca", fleet="plant", broker_names=["broker.lan", "10.0.0.5"], now=NOW)
    return tmp_path / "ca"


def enroll(folder: Path, host: str, *robots: str, now: datetime = NOW) -> enrolment.Change:
    with open_office(folder) as office:
        return office.enroll(host, robots or None, now=now)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def revoked_serials(folder: Path) -> set[int]:
    crl = x509.load_pem_x509_crl((folder / "broker" / "crl.pem").read_bytes())
    return {entry.serial_number for entry in crl}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_keys_and_lists_are_private_and_the_authority_key_is_in_one_place(folder: Path) -> None:
    enroll(folder, "h1")
    key = (folder / "authority.key").read_bytes()
    for path in folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
            continue
        public = path.suffix == ".crt" or path.name in {"crl.pem", "hosts.toml"}
        assert mode == (0o644 if public else 0o600), path
        assert (path.read_bytes() == key) == (path.name == "authority.key")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_certificates_are_for_their_role_and_a_year(folder: Path) -> None:
    enroll(folder, "h1")
    host = certificate(folder / "hosts" / "h1" / "h1.crt")
    broker = certificate(folder / "broker" / "broker.crt")
    authority = certificate(folder / "ca.crt")
    for issued, usage in ((host, "clientAuth"), (broker, "serverAuth")):
        issued.verify_directly_issued_by(authority)
        assert issued.not_valid_after_utc - NOW == timedelta(days=365)
        assert issued.not_valid_before_utc == NOW - timedelta(minutes=5)
        usages = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [one._name for one in usages] == [usage]
        constraints = issued.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
    assert host.subject.rfc4514_string() == "CN=h1"
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.lan"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]


def test_an_authority_is_never_overwritten(folder: Path) -> None:
    before = snapshot(folder)
    with pytest.raises(InputError, match="is not empty; an authority is never overwritten"):
        create(folder, fleet="other", broker_names=["x"], now=NOW)
    assert snapshot(folder) == before


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty", fleet="f", broker_names=["b"], now=NOW)
    assert (tmp_path / "empty" / "authority.key").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        create(tmp_path / "file", fleet="f", broker_names=["b"], now=NOW)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fleet": "a/b"}, "fleet name 'a/b'"),
        ({"broker_names": []}, "at least one host name or address"),
        ({"broker_names": ["*.lan"]}, r"broker name '\*.lan' is no host name"),
        ({"broker_names": ["a b"]}, "broker name 'a b' is no host name"),
        ({"bind": "0.0.0.0\nlistener 1883"}, "--bind .* is no host name"),
        ({"port": 0}, "port 0 is outside 1 to 65535"),
        ({"days": 0}, "validity of 0 days is outside 1 to 3650"),
        ({"max_connections": 1}, "1 connections are fewer"),
    ],
)
def test_settings_that_cannot_be_leave_nothing_behind(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    settings: dict[str, object] = {"fleet": "f", "broker_names": ["b"], "now": NOW}
    with pytest.raises(InputError, match=sentence):
        create(tmp_path / "ca", **(settings | changes))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("controller", "is reserved"),
        ("operator", "is reserved"),
        ("localiser", "is reserved"),
        ("..", "is reserved: files of others have it"),
        ("broker", "is reserved"),
        ("ca", "is reserved"),
        ("../h", "must be 1 to 64 characters"),
        ("x" * 65, "must be 1 to 64 characters"),
        ("h\nuser controller", "must be 1 to 64 characters"),
    ],
)
def test_a_host_that_may_not_be_called_so_is_refused(
    folder: Path, host: str, sentence: str
) -> None:
    before = snapshot(folder)
    with pytest.raises(InputError, match=sentence):
        enroll(folder, host)
    assert snapshot(folder) == before


def test_enrolling_twice_changes_nothing_but_the_robots(folder: Path) -> None:
    first = enroll(folder, "h1", "a", "b")
    key = (folder / "hosts" / "h1" / "h1.key").read_bytes()
    again = enroll(folder, "h1")
    assert (first.what, again.what) == ("issued", "unchanged")
    assert read_allow_list(folder / "controller" / "hosts.toml").hosts == {"h1": ("a", "b")}
    assert enroll(folder, "h1", "c").what == "updated"
    assert read_allow_list(folder / "controller" / "hosts.toml").hosts == {"h1": ("c",)}
    assert (folder / "hosts" / "h1" / "h1.key").read_bytes() == key


def test_a_robot_of_another_host_is_refused_and_nothing_is_written(folder: Path) -> None:
    enroll(folder, "h1", "a", "b")
    before = snapshot(folder)
    with pytest.raises(InputError, match="robot b belongs to both h1 and h2"):
        enroll(folder, "h2", "b")
    assert snapshot(folder) == before


def test_all_certificates_of_a_revoked_host_are_on_the_list(folder: Path) -> None:
    enroll(folder, "h1", "a")
    enroll(folder, "h2", "b")
    with open_office(folder) as office:
        office.renew("h1", now=NOW)
        office.revoke("h1", now=NOW)
    serials = {int(c.serial, 16) for c in read_members(folder).hosts["h1"].certificates}
    assert len(serials) == 2
    assert revoked_serials(folder) == serials
    assert not (folder / "hosts" / "h1").exists()
    assert "h1" not in (folder / "broker" / "acl").read_text()
    assert read_allow_list(folder / "controller" / "hosts.toml").hosts == {"h2": ("b",)}
    assert enroll(folder, "h3", "a").what == "issued"  # its robot is free
    back = enroll(folder, "h1", "c")
    assert back.what == "issued"
    new = certificate(folder / "hosts" / "h1" / "h1.crt").serial_number
    assert new not in revoked_serials(folder) == serials


def test_a_host_that_is_not_enrolled_cannot_be_revoked_or_renewed(folder: Path) -> None:
    with open_office(folder) as office:
        for call in (office.revoke, office.renew):
            with pytest.raises(InputError, match="no host 'h9' is enrolled"):
                call("h9", now=NOW)


def test_a_renewal_keeps_the_key_unless_the_old_ones_are_revoked(folder: Path) -> None:
    path = folder / "operator" / "operator.key"
    first, old = path.read_bytes(), certificate(path.with_suffix(".crt")).serial_number
    with open_office(folder) as office:
        office.renew("operator", now=NOW)
    assert path.read_bytes() == first
    assert revoked_serials(folder) == set()
    with open_office(folder) as office:
        office.renew("operator", now=NOW, revoke=True)
    assert path.read_bytes() != first
    assert old in revoked_serials(folder)
    assert certificate(path.with_suffix(".crt")).serial_number not in revoked_serials(folder)


def test_a_certificate_that_has_run_out_is_replaced_by_enrolling_again(folder: Path) -> None:
    enroll(folder, "h1")
    later = NOW + timedelta(days=366)
    assert enroll(folder, "h1", now=later).ends == later + timedelta(days=365)


def test_the_list_of_revoked_stays_valid_as_long_as_the_authority(folder: Path) -> None:
    crl = x509.load_pem_x509_crl((folder / "broker" / "crl.pem").read_bytes())
    authority = certificate(folder / "ca.crt")
    assert crl.next_update_utc == authority.not_valid_after_utc
    assert crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]


def test_every_bundle_works_in_a_strict_tls_context(folder: Path) -> None:
    enroll(folder, "h1")
    for name, where in (("h1", folder / "hosts" / "h1"), ("operator", folder / "operator")):
        files = TlsFiles(where / "ca.crt", where / f"{name}.crt", where / f"{name}.key")
        make_context(files).verify_flags |= ssl.VERIFY_X509_STRICT


class PowerCutError(BaseException):
    """Ends the process between two system calls, as far as files are concerned."""


def cut_power_at(write: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the `write`-th file be the last one that is begun."""
    count = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count >= write:
            raise PowerCutError
        os.rename(self, target)  # noqa: PTH104  `Path.replace` is this function
        return target

    monkeypatch.setattr(Path, "replace", replace)


def broken_off(command: Callable[[], object], write: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a command whose `write`-th file never appears; False when it needs fewer files."""
    with monkeypatch.context() as patch:
        cut_power_at(write, patch)
        try:
            command()
        except PowerCutError:
            return True
    return False


def consistent(folder: Path) -> None:
    """Whatever is valid can be revoked, is in the rights, and has a matching key."""
    members = read_members(folder)
    acl = (folder / "broker" / "acl").read_text().splitlines()
    allowed = read_allow_list(folder / "controller" / "hosts.toml")
    active = {name for name, host in members.hosts.items() if host.active}
    assert set(allowed.hosts) == active
    assert {line for line in acl if line.startswith("user ")} == {
        f"user {name}" for name in (*(set(members.services) - {"broker"}), *active)
    }
    for host in folder.glob("hosts/*"):
        path = host / f"{host.name}.crt"
        recorded = {int(c.serial, 16) for c in members.hosts[path.stem].certificates}
        assert certificate(path).serial_number in recorded
        make_context(TlsFiles(folder / "ca.crt", path, path.with_suffix(".key")))


def test_an_initialisation_broken_off_anywhere_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ca"

    def command() -> None:
        create(folder, fleet="f", broker_names=["b"], now=NOW)

    for write in range(1, 100):
        if not broken_off(command, write, monkeypatch):
            break
        assert not folder.exists()
    assert write > 15
    consistent(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


@pytest.mark.parametrize("what", ["enroll", "renew", "revoke"])
def test_a_command_broken_off_anywhere_is_repaired_by_repeating_it(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for write in range(1, 30):
        folder = tmp_path / f"ca{write}"
        create(folder, fleet="plant", broker_names=["b"], now=NOW)
        enroll(folder, "h1", "a")
        issued_before = {c.serial for c in read_members(folder).hosts["h1"].certificates}

        def command(folder: Path = folder) -> None:
            with open_office(folder) as office:
                if what == "enroll":
                    office.enroll("h2", ("b",), now=NOW)
                elif what == "renew":
                    office.renew("h1", now=NOW, revoke=True)
                else:
                    office.revoke("h1", now=NOW)

        cut = broken_off(command, write, monkeypatch)
        # Nothing issued before is forgotten, so everything can still be revoked.
        assert issued_before <= {c.serial for c in read_members(folder).hosts["h1"].certificates}
        if cut:
            command()
        consistent(folder)
        if not cut:
            break
    assert write > 4


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomic(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*file: No space left on device"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "key", b"secret")
    assert read_secret(path) == b"secret"
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(InputError, match=rf"has mode {mode:03o}.*chmod 600"):
            read_secret(path)
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read_secret(tmp_path / "missing")


@pytest.mark.parametrize("name", ["authority.key", "members.json", "ca.crt"])
def test_a_spoilt_folder_is_one_sentence(folder: Path, name: str) -> None:
    (folder / name).write_text("spoilt")
    with pytest.raises(InputError):
        enroll(folder, "h1")


def test_a_folder_without_an_authority_is_one_sentence(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="no authority in"), open_office(folder):
            pass


def test_an_authority_key_of_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", fleet="f", broker_names=["b"], now=NOW)
    (folder / "authority.key").write_bytes((tmp_path / "other" / "authority.key").read_bytes())
    with pytest.raises(InputError, match="key does not belong to its certificate"):
        enroll(folder, "h1")


def test_each_host_has_a_message_key_that_the_controller_knows(folder: Path) -> None:
    def keys(*where: str) -> dict[str, bytes]:
        return read_keys(folder.joinpath(*where, KEYS_NAME))

    enroll(folder, "h1")
    enroll(folder, "h2")
    own = keys("hosts", "h1") | keys("hosts", "h2")
    assert keys("controller") == own
    assert list(keys("hosts", "h1")) == ["h1"]
    assert len(set(own.values())) == 2
    enroll(folder, "h1", "a", "b")  # other robots, the same key
    assert keys("controller") == own
    with open_office(folder) as office:
        office.renew("h1", now=NOW)
    assert keys("controller") == own
    with open_office(folder) as office:
        office.renew("h1", now=NOW, revoke=True)
        office.revoke("h2", now=NOW)
    assert list(keys("controller")) == ["h1"]
    assert keys("controller") == keys("hosts", "h1")
    assert keys("controller")["h1"] != own["h1"]
    assert not (folder / "hosts" / "h2").exists()


def test_a_host_of_before_gets_its_message_key_when_it_is_enrolled_again(folder: Path) -> None:
    enroll(folder, "h1")
    (folder / "hosts" / "h1" / KEYS_NAME).unlink()
    assert enroll(folder, "h1").what == "unchanged"
    assert read_keys(folder / "controller" / KEYS_NAME) == read_keys(
        folder / "hosts" / "h1" / KEYS_NAME
    )
