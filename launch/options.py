# SPDX-License-Identifier: MIT
"""Options that several verbs share, each declared once."""

from pathlib import Path
from typing import Annotated

import typer

from kofn.controller.link.messages import Pace
from kofn.controller.link.mqtt import Protocol
from kofn.launch.seeds import MAX_SEED
from kofn.sim.worlds import Fidelity

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")]
Runs = Annotated[Path, typer.Option("--out", help="Folder in which the run folder is made.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens on stderr.")]

GameArgument = Annotated[
    str,
    typer.Argument(
        metavar="GAME", help="A preset, a .toml file, a kernel of identify, or module:factory."
    ),
]
FleetSize = Annotated[int, typer.Option("--n", help="Fleet size.")]
FleetOrKernels = Annotated[
    int | None, typer.Option("--n", help="Fleet size; default: 1000, or the kernel file's.")
]
KernelKind = Annotated[
    str | None,
    typer.Option(
        "--kernel", help="Of a kernel file: binned (by crowd; default with bins) or plain."
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Accept a kernel of another fleet size; it is recorded.")
]
Horizon = Annotated[int | None, typer.Option(help="Steps; default: the game's.")]
Grid = Annotated[
    int | None, typer.Option(help="Agents in a histogram of the action table; default: chosen.")
]
ObjectiveOption = Annotated[
    str, typer.Option("--objective", help="How local agents answer: team, selfish or chain.")
]
Restarts = Annotated[int | None, typer.Option(help="Starts to try; default: all.")]
Rounds = Annotated[int | None, typer.Option(help="Most alternations from one start.")]
Polish = Annotated[
    int, typer.Option(help="Passes of entry-wise search over the best local policy.")
]

Fleet = Annotated[str, typer.Option(help="Name of the fleet, a level of every topic.")]
BrokerUrl = Annotated[str, typer.Option("--broker", help="Broker as mqtt://host:port.")]
Credentials = Annotated[
    Path | None,
    typer.Option(help="JSON file with username and password, readable by its owner only."),
]
Mqtt = Annotated[Protocol, typer.Option("--mqtt", help="Version of MQTT.")]
PaceOption = Annotated[
    Pace, typer.Option("--pace", help="lockstep is as fast as the simulation can.")
]
Speed = Annotated[
    float, typer.Option(help="Fleet seconds per second; above 1 for simulated fleets only.")
]
Period = Annotated[float, typer.Option("--period", help="Length of a step, s.")]
Arena = Annotated[str, typer.Option("--arena", help="Arena as JSON; {} is the default ring.")]
FidelityOption = Annotated[
    Fidelity, typer.Option("--fidelity", help="Bullet: 50 Hz, 10 iterations; high: 240 Hz, 50.")
]
HostName = Annotated[str, typer.Option("--host", help="Name of this host on the wire.")]
Log = Annotated[Path | None, typer.Option(help="File for this host's own log (JSON lines).")]
