# SPDX-License-Identifier: MIT
"""`kofn controller`: steer a fleet that others started, or go on where a controller was cut off."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.epoch import next_epoch
from kofn.controller.link.allow_list import read_allow_list
from kofn.controller.link.signing import check_keys
from kofn.controller.loop import check_allow_list, check_resume
from kofn.controller.record import RunFolder
from kofn.controller.results import Decision
from kofn.controller.resume import read_checkpoint, read_settings
from kofn.launch import options
from kofn.launch.access_options import ANONYMOUS, Access, with_access
from kofn.launch.output import configure_logging, emit
from kofn.launch.parts import run_controller
from kofn.launch.scenario import PollingSection
from kofn.launch.scenario_checks import check_time

_FROM_THE_RUN = (
    "policy", "k", "robots", "steps", "seed", "fleet", "period", "dispatcher", "memory", "polling",
    "wait", "beat",
)  # fmt: skip


@with_access
def controller(
    context: typer.Context,
    broker: options.BrokerUrl,
    policy: Annotated[Path | None, typer.Option(help="Policy file.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Robots polled per step.")] = None,
    robots: Annotated[
        int | None, typer.Option(help="Fleet size; the run starts when so many are there.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps to make.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, with its settings.")
    ] = None,
    hosts: Annotated[
        Path | None,
        typer.Option(help="Allow-list: which host may speak for which robots (kofn ca writes it)."),
    ] = None,
    fleet: options.Fleet = "fleet",
    access: Access = ANONYMOUS,
    period: options.Period = 6.0,
    speed: options.Speed = 1.0,
    dispatcher: Annotated[
        str, typer.Option(help="policy, or random for a control run.")
    ] = "policy",
    memory: Annotated[str, typer.Option(help="auto, none, or a cap in agents.")] = "auto",
    polling: Annotated[
        str, typer.Option(help="What to do about missing answers, as JSON (docs/polling.md).")
    ] = "{}",
    wait: Annotated[float, typer.Option(help="How long to wait for the fleet, s.")] = 30.0,
    beat: Annotated[
        float, typer.Option(help="Say so often to robots with motors: alive, s; 0: do not.")
    ] = 0.0,
    folder: Annotated[
        Path | None, typer.Option(help="Existing folder to record into; default: a new one.")
    ] = None,
    epoch_file: Annotated[
        Path | None, typer.Option(help="Counter of controller starts; default: beside the run.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve /metrics for Prometheus on 127.0.0.1."),
    ] = None,
    steps_to_log: Annotated[bool, typer.Option(hidden=True)] = False,
    verbose: options.Verbose = False,
    seed: options.Seed = 0,
    out: options.Runs = Path("runs"),
    json: options.Json = False,
) -> None:
    """Run the global controller alone, against a fleet that others started."""
    configure_logging(verbose=verbose)
    given = {name for name in context.params if _was_given(context, name)}
    checkpoint = None
    if resume is not None:
        _refuse_what_the_run_knows(given)
        config, loaded = read_settings(resume)
        checkpoint = read_checkpoint(resume)
        out = out if "out" in given else resume.resolve().parent
    elif policy is None or k is None or robots is None or steps is None:
        needed = {"policy": policy, "k": k, "robots": robots, "steps": steps}
        missing = ", ".join(f"--{name}" for name, value in needed.items() if value is None)
        raise InputError(f"{missing}: needed unless a run is resumed (--resume)")
    else:
        table: dict[str, Any] = {
            "fleet": fleet,
            "name": fleet,
            "k": k,
            "robots": robots,
            "steps": steps,
            "period_s": period,
            "beat_s": beat,
            "seed": seed,
            "dispatcher": dispatcher,
            "memory": memory if memory in {"auto", "none"} else _number("--memory", memory),
            "wait_s": wait,
            **msgspec.to_builtins(_polling(polling)),
        }
        try:
            config = msgspec.convert(table, ControllerConfig)
        except msgspec.ValidationError as error:
            raise InputError(str(error)) from error
        loaded = Policy.load(policy)
    check_time(config.period_s, speed)
    allow_list = None
    if hosts is not None:
        allow_list = read_allow_list(hosts)
        check_allow_list(allow_list, config)
    connection = access.connect(config.fleet, broker)
    if connection.keys is not None and allow_list is not None:
        check_keys(connection.keys, allow_list.hosts)
    epochs = epoch_file if epoch_file is not None else out / ".epochs" / config.fleet
    epoch = next_epoch(epochs)
    if checkpoint is not None:
        check_resume(checkpoint, config, loaded, epoch)
    # After the checks: a command that is refused leaves no folder behind.
    run_folder = RunFolder(folder) if folder is not None else RunFolder.create(out, config.name)
    summary = run_controller(
        connection,
        config,
        policy=loaded,
        folder=run_folder,
        epoch=epoch,
        speed=speed,
        progress=_log_step if steps_to_log or sys.stderr.isatty() else None,
        resume_from=checkpoint,
        allow_list=allow_list,
        metrics_port=metrics_port,
    )
    result = {"run_dir": str(run_folder.path), **msgspec.to_builtins(summary)}
    lines = [
        f"{summary.steps} steps, {summary.replies_used} answers used of {summary.polls_sent} polls",
        f"poll round p50 {summary.poll_p50_ms:.1f} ms, p99 {summary.poll_p99_ms:.1f} ms",
        f"run folder {run_folder.path}",
    ]
    emit(result, lines, as_json=json)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_what_the_run_knows(given: set[str]) -> None:
    """Raise `InputError` when an option was given that comes from the run to be resumed."""
    doubled = [name for name in _FROM_THE_RUN if name in given]
    if doubled:
        names = ", ".join(f"--{name}" for name in doubled)
        raise InputError(f"{names} cannot be given with --resume: the run has its settings already")


def _polling(text: str) -> PollingSection:
    try:
        return msgspec.json.decode(text.encode(), type=PollingSection)
    except msgspec.MsgspecError as error:
        raise InputError(f"--polling: {error}") from error


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} {text!r} is not auto, none or a number") from None


def _log_step(decision: Decision) -> None:
    counts = " ".join(map(str, decision.counts))
    sys.stderr.write(f"step={decision.t} target={decision.g} next={decision.u} polled=[{counts}]\n")
    sys.stderr.flush()
