# SPDX-License-Identifier: MIT
"""Options of every verb that connects to a broker of somebody else: certificates, or none."""

from pathlib import Path
from typing import Annotated

import typer

from kofn.controller.core.errors import InputError
from kofn.controller.link.tls import TlsFiles

TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", help="Authority of the broker (PEM); default: the system's."),
]
TlsCert = Annotated[Path | None, typer.Option("--tls-cert", help="Our certificate (PEM).")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM, mode 0600).")]
InsecureLab = Annotated[
    bool,
    typer.Option(
        "--insecure-lab", help="Go without TLS or credentials on a network; warns at each start."
    ),
]


def tls_files(ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles | None:
    """Return the files that were named; None when none was."""
    if (certificate is None) != (key is None):
        raise InputError("--tls-cert and --tls-key belong together")
    if ca is None and certificate is None:
        return None
    return TlsFiles(ca, certificate, key)
