# SPDX-License-Identifier: MIT
"""`kofn fleet hold`, `resume`, `leave`, `halt`, `policy`: orders to a run that goes on."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.order_box import Op, Order, send_order
from kofn.launch import options
from kofn.launch.output import emit

app = typer.Typer(
    name="fleet",
    help="Orders to a run that goes on, through its controller.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Run = Annotated[Path, typer.Option("--run", help="Folder of the run, on this machine.")]
Hosts = Annotated[list[str], typer.Argument(metavar="HOST..", help="Names of hosts.")]
Why = Annotated[str, typer.Option(help="Reason, for the record and the hosts.")]
Wait = Annotated[float, typer.Option(help="How long to wait for the controller's answer, s.")]


@app.command()
def hold(
    hosts: Hosts, run: Run, why: Why = "", wait: Wait = 15.0, json: options.Json = False
) -> None:
    """Stop the robots of hosts, until they are told to resume; they are not polled meanwhile."""
    _order("hold", hosts, run, why, wait, json)


@app.command()
def resume(
    hosts: Hosts, run: Run, why: Why = "", wait: Wait = 15.0, json: options.Json = False
) -> None:
    """Let hosts take part again; their robots move at the next step."""
    _order("resume", hosts, run, why, wait, json)


@app.command()
def leave(
    hosts: Hosts, run: Run, why: Why = "", wait: Wait = 15.0, json: options.Json = False
) -> None:
    """Stop the robots of hosts and end their processes."""
    _order("leave", hosts, run, why, wait, json)


@app.command()
def halt(run: Run, why: Why = "", wait: Wait = 15.0, json: options.Json = False) -> None:
    """Stop the whole fleet and end the run; only a new controller start releases it."""
    _order("halt", [], run, why, wait, json)


@app.command()
def policy(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    run: Run,
    why: Why = "",
    wait: Wait = 15.0,
    json: options.Json = False,
) -> None:
    """Go over to another policy, at a step boundary, once the hosts hold it."""
    from kofn.controller.core.policy import Policy

    Policy.load(file)  # what is no policy is refused here, with its own sentence
    _order("policy", [], run, why, wait, json, file=str(file.resolve()))


def _order(
    op: Op, hosts: list[str], run: Path, why: str, wait: float, as_json: bool, *, file: str = ""
) -> None:
    try:
        order = msgspec.convert({"op": op, "hosts": hosts, "why": why, "file": file}, Order)
    except msgspec.ValidationError as error:
        raise InputError(f"{op}: {error}") from error
    answer = send_order(run, order, timeout_s=wait)
    if not answer.ok:
        failed = "; ".join(f"{host}: {reason}" for host, reason in answer.hosts.items())
        raise RunError(f"{op}: {failed or answer.text}")
    emit({"op": op, **msgspec.to_builtins(answer)}, [answer.text], as_json=as_json)
