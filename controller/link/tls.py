# SPDX-License-Identifier: MIT
"""TLS of a client: whom it believes, who it is, and when it must not go without.

TLS 1.2 or newer; the broker's certificate and its name are always checked, and nothing here can
switch that off. What may leave this machine follows from the address:

| address | needs |
|---|---|
| `mqtt://` loopback | nothing |
| `mqtt://` elsewhere | `insecure_lab`, which warns at every start |
| `mqtts://` | a broker with a valid certificate; elsewhere than loopback also credentials of ours |
"""

import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kofn.controller.core.errors import InputError
from kofn.controller.link.address import BrokerAddress
from kofn.controller.link.secret_files import read_secret


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates of a client, as PEM files.

    Attributes
    ----------
    ca
        Authority that signed the broker's certificate; None for those of the operating system.
    certificate, key
        Our own certificate and its key (mode 0600); both or neither.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class TlsSocket(ssl.SSLSocket):
    """Remembers in its context why a connection failed: a client library may swallow it."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands; a failure closes the socket."""
        try:
            super().do_handshake(block)
        except OSError as error:
            _note(self.context, error)
            self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """Send; when the other side has closed already, its reason may wait to be read."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            with suppress(OSError, ValueError):
                self.recv(1)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive; with TLS 1.3 a refused client certificate shows only here."""
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as error:
            _note(self.context, error)
            raise


class TlsContext(ssl.SSLContext):
    """An `SSLContext` of a client that can say why its last connection failed."""

    sslsocket_class = TlsSocket
    failure = ""
    """Why the last connection failed, as the end of a sentence; empty when it did not."""
    final = False
    """Whether trying again would fail the same way: a certificate was judged."""

    def forget(self) -> None:
        """Begin a new connection."""
        self.failure, self.final = "", False


def make_context(files: TlsFiles) -> TlsContext:
    """Return the context for a client.

    Raises
    ------
    InputError
        A file is missing, is no certificate or key, the key is readable by others or belongs to
        another certificate.
    """
    if (files.certificate is None) != (files.key is None):
        raise InputError("a client certificate needs its key, and a key its certificate")
    context = TlsContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name by itself
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.ca is None:
        context.load_default_certs()
    else:
        _load(context.load_verify_locations, files.ca)
    if files.certificate is not None and files.key is not None:
        read_secret(files.key)

        def refuse() -> str:  # instead of a prompt at the terminal
            raise InputError(f"key {files.key} is locked with a passphrase")

        _load(context.load_cert_chain, files.certificate, files.key, refuse)
    return context


def check_access(
    address: BrokerAddress,
    tls: TlsFiles | None,
    *,
    username: str | None,
    insecure_lab: bool = False,
) -> str:
    """Refuse a connection that the table above forbids.

    Returns the warning to log at each start about one that was forced; empty for all others.

    Raises
    ------
    InputError
        Plain text or no credentials towards another machine, or certificates without `mqtts://`.
    """
    if tls is not None and not address.tls:
        raise InputError(f"certificates need a broker URL mqtts://.., not {address.url}")
    known = username is not None or (tls is not None and tls.certificate is not None)
    if address.loopback or (address.tls and known):
        return ""
    missing = "credentials" if address.tls else "TLS (mqtts://) and credentials"
    if not insecure_lab:
        raise InputError(
            f"broker {address.url} is not on this machine: it needs {missing}, or --insecure-lab "
            "on a network where you trust everybody"
        )
    return (
        f"INSECURE: broker={address.url} is used without {missing} (--insecure-lab): whoever is on "
        "this network can read and forge everything, and move robots"
    )


def _load(loader: Any, *arguments: Any) -> None:
    """Load PEM files; the sentence of a failure names them."""
    try:
        loader(*arguments)
    except InputError:
        raise
    except (ssl.SSLError, ValueError) as error:
        names = " and ".join(str(path) for path in arguments if isinstance(path, Path))
        reason = getattr(error, "reason", None)
        why = "no PEM" if reason in {None, "PEM_LIB", "NO_START_LINE"} else _words(str(reason))
        raise InputError(f"{names}: not usable for TLS ({why})") from error
    except OSError as error:
        missing = [str(p) for p in arguments if isinstance(p, Path) and not p.is_file()]
        raise InputError(f"cannot read {missing[0] if missing else arguments[0]}") from error


def _note(context: ssl.SSLContext, error: OSError) -> None:
    """Keep the reason of a failure in the context of the socket."""
    if not isinstance(context, TlsContext):
        return
    if isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return
    if isinstance(error, ssl.SSLCertVerificationError):
        context.failure = f"has a certificate that is not accepted ({error.verify_message})"
        context.final = True
    elif isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        context.failure = f"refused the TLS connection ({_words(error.reason)})"
        context.final = "CERT" in error.reason or "UNKNOWN_CA" in error.reason
    elif isinstance(error, ssl.SSLError):
        context.failure = f"does not speak TLS ({_words(error.reason or 'end of file')})"
    else:
        context.failure = f"broke off the TLS handshake ({error.strerror or error})"


def _words(reason: str) -> str:
    """`TLSV1_ALERT_UNKNOWN_CA` -> `unknown ca`."""
    _, _, alert = reason.rpartition("ALERT_")
    return alert.replace("_", " ").lower()
