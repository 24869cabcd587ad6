# SPDX-License-Identifier: MIT
"""Options of every verb that connects to a broker of somebody else, declared once.

A verb takes one parameter of type `Access` and is decorated by `with_access`; the command line has
an option for each field of it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from kofn.controller.core.errors import InputError
from kofn.controller.link.tls import TlsFiles
from kofn.launch import options
from kofn.launch.parts import Connection, connect
from kofn.launch.swarm_host import MoreHost

InsecureLab = Annotated[
    bool,
    typer.Option(
        "--insecure-lab", help="Go without TLS or credentials on a network; warns at each start."
    ),
]


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a broker, and as whom; each field is an option of the command line."""

    credentials: options.Credentials = None
    mqtt: options.Mqtt = "auto"
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="Authority of the broker (PEM); default: the system's."),
    ] = None
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Our certificate (PEM).")] = (
        None
    )
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM, mode 0600).")] = (
        None
    )
    message_keys: Annotated[
        Path | None,
        typer.Option(help="Keys that sign what hosts and controller say (kofn ca writes them)."),
    ] = None
    insecure_lab: InsecureLab = False

    def __post_init__(self) -> None:
        """Raise `InputError` for a certificate without its key."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key belong together")

    @property
    def tls(self) -> TlsFiles | None:
        """The files that were named; None when none was."""
        if self.tls_ca is None and self.tls_cert is None:
            return None
        return TlsFiles(self.tls_ca, self.tls_cert, self.tls_key)

    def of(self, host: MoreHost) -> "Access":
        """How another host of the same process reaches the same broker."""

        def path(name: str | None) -> Path | None:
            return None if name is None else Path(name)

        return replace(
            self,
            credentials=path(host.credentials),
            tls_cert=path(host.tls_cert),
            tls_key=path(host.tls_key),
            message_keys=path(host.message_keys),
        )

    def connect(self, fleet: str, url: str) -> Connection:
        """Return a connection that was not tried yet; raises `InputError`."""
        return connect(
            fleet,
            url,
            self.credentials,
            self.mqtt,
            self.tls,
            self.insecure_lab,
            self.message_keys,
        )


ANONYMOUS = Access()


def with_access(verb: Callable[..., None]) -> Callable[..., None]:
    """Give `verb`, which has a parameter of type `Access`, the options of its fields instead."""
    hints = get_type_hints(verb, include_extras=True)
    taken = next(name for name, hint in hints.items() if hint is Access)
    option_hints = get_type_hints(Access, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        if name == taken:
            parameters += [
                inspect.Parameter(
                    field.name, keyword, default=field.default, annotation=option_hints[field.name]
                )
                for field in fields(Access)
            ]
        else:
            parameters.append(parameter.replace(kind=keyword, annotation=hints[name]))

    @wraps(verb)
    def expanded(**given: Any) -> None:
        access = Access(
            **{field.name: given.pop(field.name, field.default) for field in fields(Access)}
        )
        verb(**given, **{taken: access})

    # What typer reads: the signature, and the types of its parameters.
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {one.name: one.annotation for one in parameters}
    return expanded
