# SPDX-License-Identifier: MIT
"""`kofn hw preflight`: a policy for real robots, held against a simulated run of it."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kofn.controller.core.errors import InputError
from kofn.controller.link.policies import pack_file
from kofn.hardware.limits_file import RobotLimits, read_limits
from kofn.hardware.preflight_result import PreflightResult, words, write_preflight
from kofn.launch import options
from kofn.launch.hw_common import State, own_limits, report_lines, utc_now
from kofn.launch.robot_files import read_robot_files
from kofn.launch.robot_host import state_folder


def preflight(
    run: Annotated[Path, typer.Argument(help="Folder of a simulated run of the same policy.")],
    policy: Annotated[Path, typer.Option(help="Policy file for the robots.")],
    robots: Annotated[int, typer.Option(help="Robots of the physical fleet, n.")],
    k: Annotated[int, typer.Option("--k", help="Robots polled per step.")],
    limits: Annotated[Path | None, typer.Option(help="The robots' limits file.")] = None,
    fleet_file: Annotated[
        Path | None, typer.Option(help="Fleet file that lowers the limits of --host.")
    ] = None,
    arena: options.Arena = "{}",
    host: Annotated[
        str | None, typer.Option(help="Keep the result for the robot of this host here.")
    ] = None,
    fleet: options.Fleet = "fleet",
    state: State = None,
    json: options.Json = False,
) -> None:
    """Check a policy for real robots against a simulated run; code 1 when it must not be used.

    With --host or --state the robot here remembers it, and `kofn hw arm` asks for it: passed, about
    the limits that the robot obeys, and about the local policy that it holds.
    """
    from kofn.controller.core.policy import Policy
    from kofn.hardware.ring import RingLayout
    from kofn.launch.preflight import preflight as check

    try:
        layout = msgspec.json.decode(arena.encode(), type=RingLayout)
    except msgspec.MsgspecError as error:
        raise InputError(f"--arena: {error}") from error
    folder = state or (state_folder(fleet, host) if host is not None else None)
    if limits is None and folder is not None:
        own = own_limits(folder)
    else:
        own = RobotLimits() if limits is None else read_limits(limits)
    if fleet_file is not None:
        if host is None:
            raise InputError("--fleet-file needs --host, the robot to look up")
        fleets = read_robot_files(host, None, fleet_file, None).limits
        own = own if fleets is None else own.lowered(fleets)
    loaded = Policy.load(policy)
    lines = check(run, loaded, layout, n=robots, k=k, limits=own)
    if folder is not None:
        failed = [f"{line.name}: {line.seen} ({line.hint})" for line in lines if not line.ok]
        result = PreflightResult(
            ok=not failed,
            policy=loaded.sha256,
            local=pack_file(loaded.pi_l).digest,
            limits=words(own),
            run=str(run),
            utc=utc_now(),
            failed=failed,
        )
        write_preflight(folder, result)
    report_lines(lines, json)
