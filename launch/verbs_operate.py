# SPDX-License-Identifier: MIT
"""`kofn fleet`: orders to a run that goes on, and a policy let loose in stages."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.order_box import Op, Order, send_order
from kofn.launch import options
from kofn.launch.output import emit
from kofn.launch.rollout import OnTrouble

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


@app.command()
def rollout(
    file: Annotated[Path, typer.Argument(metavar="POLICY", help="Policy file.")],
    run: Run,
    stages: Annotated[
        str, typer.Option(help="Robots of each stage, rising; all of them come last.")
    ] = "1",
    steps: Annotated[int, typer.Option(min=1, help="Steps that each stage is watched.")] = 10,
    fault_rate: Annotated[
        float, typer.Option(help="Faults a robot and step that are taken, 0 to 1.")
    ] = 0.0,
    answer_rate: Annotated[
        float, typer.Option(help="Least share of polled robots that answer, 0 to 1.")
    ] = 0.5,
    reward_drop: Annotated[
        float | None, typer.Option(help="Most that the mean reward may fall; default: not judged.")
    ] = None,
    on_trouble: Annotated[
        OnTrouble, typer.Option(help="hold, rollback to the old policy, or halt the fleet.")
    ] = "hold",
    stall: Annotated[float, typer.Option(help="So long without a step is trouble, s.")] = 60.0,
    simulated: Annotated[
        Path | None, typer.Option(help="Simulated run of the policy: preflight against it.")
    ] = None,
    arena: options.Arena = "{}",
    limits: Annotated[Path | None, typer.Option(help="Limits file, for the preflight.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Without a preflight; written down.")
    ] = False,
    wait: Wait = 15.0,
    json: options.Json = False,
) -> None:
    """Let a policy loose in stages: some robots, watched, then more; the others hold meanwhile.

    Code 1 when it did not come to all robots; the reason, and what was done, are said.
    """
    from kofn.controller.core.policy import Policy
    from kofn.launch.live_rollout import LiveRollout, RolloutSettings
    from kofn.launch.rollout_run import RunningFleet, check_policy, keep_old, note

    new = Policy.load(file)
    settings = RolloutSettings(
        stages=_stages(stages),
        steps=steps,
        fault_rate=fault_rate,
        answer_rate=answer_rate,
        reward_drop=reward_drop,
        on_trouble=on_trouble,
        stall_s=stall,
    ).checked()
    fleet = RunningFleet(run, wait)
    if fleet.over():
        raise InputError(f"the run in {run} is over: nobody is there to take orders")
    old = Policy.load(run / "policy.npz")
    check_policy(run, new, old, simulated, arena, limits, force=force)
    result = LiveRollout(
        fleet,
        (keep_old(run, old), old),
        (file, new),
        settings,
        told=lambda line: typer.echo(line, err=True),
    ).run()
    note(run, result | {"simulated": str(simulated or ""), "forced": force})
    if not result["complete"]:
        emit(result, [], as_json=json)
        raise RunError(f"the roll-out did not come to its end, {result['ended']}: {result['why']}")
    emit(result, [f"{result['robots']} robots follow {new.sha256[:12]}"], as_json=json)


def _stages(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--stages {text!r} must be numbers of robots, as 1,5,20") from None


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
