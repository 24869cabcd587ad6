# SPDX-License-Identifier: MIT
"""`kofn fake serial`, `create2`, `rosbridge`, `vda5050`: devices without hardware, until Ctrl-C."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kofn.hardware.arena import layout_of
from kofn.hardware.fakes.serving import (
    AnyDevice,
    Create2Device,
    FakeVehicleSettings,
    RosbridgeDevice,
    SerialDevice,
    VehiclesDevice,
    end_on_signal,
    serve,
)
from kofn.launch import options
from kofn.launch.fake_vehicles import dialect_of, nodes_of
from kofn.launch.output import emit
from kofn.launch.robot_host import table_of

app = typer.Typer(
    name="fake",
    help="Devices without hardware, for drivers to talk to.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Port = Annotated[Path, typer.Argument(help="Link to make: what the driver opens.")]


@app.command()
def serial(port: Port, json: options.Json = False) -> None:
    """Be a motor board with text lines, at the far end of a pty."""
    _serve(SerialDevice(port=str(port.absolute())), "serial", as_json=json)


@app.command()
def create2(port: Port, json: options.Json = False) -> None:
    """Be an iRobot Create 2, at the far end of a pty."""
    _serve(Create2Device(port=str(port.absolute())), "create2", as_json=json)


@app.command()
def rosbridge(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: a free one.")] = 0,
    json: options.Json = False,
) -> None:
    """Be a rosbridge server with one base, without ROS."""
    _serve(RosbridgeDevice(port=port), "rosbridge", as_json=json)


@app.command()
def vda5050(
    broker: Annotated[str, typer.Option(help="The vehicles' broker, as mqtt://host:port.")],
    vehicles: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 1,
    arena: options.Arena = "{}",
    json: options.Json = False,
) -> None:
    """Be VDA 5050 vehicles S0, S1 .. of "acme", alternately 2.1 and 3.0, one in each zone."""
    nodes = nodes_of(layout_of(table_of("--arena", arena)))
    fleet = [
        FakeVehicleSettings(serial=f"S{i}", dialect=dialect_of(i), node=node.id, x=node.x, y=node.y)
        for i, node in ((i, nodes[i % len(nodes)]) for i in range(vehicles))
    ]
    extra = {"nodes": msgspec.to_builtins(nodes)}
    _serve(VehiclesDevice(url=broker, vehicles=fleet), "vda5050", extra, as_json=json)


def _serve(
    device: AnyDevice, driver: str, extra: dict[str, Any] | None = None, *, as_json: bool
) -> None:
    def tell(settings: dict[str, Any]) -> None:
        settings = settings | (extra or {})
        how = shlex.quote(msgspec.json.encode(settings).decode())
        lines = [f"it is there; a driver finds it by: --driver {driver} --settings {how}"]
        emit({"driver": driver, "settings": settings}, lines, as_json=as_json)

    serve(device, end_on_signal(), tell)
