# SPDX-License-Identifier: MIT
"""A certificate authority of one fleet: X.509 certificates and revocation lists (RFC 5280).

Everything is ECDSA on P-256: signing costs a small robot little, and many may reconnect at once.

| certificate | name (CN) | extended key usage | alternative names |
|---|---|---|---|
| authority | `kofn <fleet> authority` | - (signs certificates and lists only) | - |
| broker | first broker name | server | host names and addresses |
| anybody else | identity on the wire | client | - |

The usages keep roles apart: a host cannot pass for the broker, nor the broker for a host.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from kofn.controller.core.errors import InputError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:  # an extra, see pyproject.toml
    raise InputError(
        "certificates need the package cryptography: pip install 'kofn[tls]'"
    ) from error

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

AUTHORITY_DAYS = 3650
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Issued:
    """A key and its certificate, as PEM, and what the authority remembers of it."""

    key: bytes
    certificate: bytes
    serial: int
    ends: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority of a fleet: its key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: "Certificate"

    def issue(
        self,
        name: str,
        *,
        now: datetime,
        days: int,
        server_names: Sequence[str] = (),
        key: bytes | None = None,
    ) -> Issued:
        """Return a new certificate.

        Parameters
        ----------
        name
            Identity, at most 64 characters.
        now
            Time with zone; the certificate is valid from five minutes before, for slow clocks.
        days
            Validity; it ends with the authority's own at the latest.
        server_names
            Host names and addresses of a broker; empty for a client.
        key
            PEM of the key to certify again; None makes a new one.
        """
        own = ec.generate_private_key(ec.SECP256R1()) if key is None else _load_key(key)
        ends = min(now + timedelta(days=days), self.certificate.not_valid_after_utc)
        serial = x509.random_serial_number()
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(own.public_key())
            .serial_number(serial)
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False
            )
            .add_extension(self._key_identifier(), critical=False)
        )
        if server_names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(self.key, hashes.SHA256())
        pem = signed.public_bytes(serialization.Encoding.PEM)
        return Issued(_dump_key(own), pem, serial, ends)

    def revocation_list(
        self, revoked: Iterable[tuple[int, datetime]], *, number: int, now: datetime
    ) -> bytes:
        """Return the list of revoked (serial, time) as PEM; lists have rising numbers.

        It stays valid as long as the authority: a broker refuses everybody once its list has run
        out, and a fleet must not stop because nobody renewed a file.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - _CLOCK_SKEW)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def make_authority(fleet: str, *, now: datetime) -> Issued:
    """Return the key and the certificate of a new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"kofn {fleet} authority"[:64])
    ends = now + timedelta(days=AUTHORITY_DAYS)
    serial = x509.random_serial_number()
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    return Issued(_dump_key(key), pem, serial, ends)


def load_authority(key: bytes, certificate: bytes) -> Authority:
    """Return the authority whose key and certificate are given as PEM.

    Raises
    ------
    InputError
        No such PEM, or a key that is not the certificate's.
    """
    try:
        loaded = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise InputError("the authority's certificate is no X.509 certificate in PEM") from error
    authority = Authority(_load_key(key), loaded)
    if loaded.public_key() != authority.key.public_key():
        raise InputError("the authority's key does not belong to its certificate")
    return authority


def read_certificate(pem: bytes, authority: Authority) -> int:
    """Return the serial number of a certificate of this authority.

    Raises
    ------
    InputError
        It is none, or somebody else's.
    """
    try:
        loaded = x509.load_pem_x509_certificate(pem)
        loaded.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InputError("not a certificate of this authority") from error
    return loaded.serial_number


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _dump_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise InputError("a private key is no PEM, or is locked with a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError("a private key is not one of an elliptic curve")
    return key
