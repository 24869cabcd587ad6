# SPDX-License-Identifier: MIT
"""`kofn fed run`, `app`, `keys`: federated learning with chosen clients, on Flower."""

from __future__ import annotations

import shutil
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from kofn.controller.core.errors import InputError, RunError
from kofn.launch import fed_engines, options
from kofn.launch.output import Progress, emit

if TYPE_CHECKING:
    from kofn.launch.fed_engines import Setting

app = typer.Typer(
    name="fed",
    help="Federated learning: choose the clients of a Flower run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RUNS = Path("runs")

Engine = Annotated[
    Literal["in-process", "ray"],
    typer.Option(help="in-process is fast; ray is Flower's simulation engine, by flwr run."),
]


@app.command()
def run(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[APP]", help="A copy of the app template; default: the template."),
    ] = None,
    selector: Annotated[str, typer.Option(help="Rule that chooses clients.")] = "mean-field",
    clients: Annotated[int, typer.Option("--clients", "--n", help="Clients in all.")] = 100,
    poll: Annotated[int, typer.Option("--poll", "--k", help="Clients polled in a round.")] = 20,
    train: Annotated[int, typer.Option("--train", "--m", help="Clients trained in a round.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 20,
    dataset: Annotated[
        str, typer.Option(help="digits, mnist-5k, synthetic, or module:function.")
    ] = "digits",
    partition: Annotated[
        str, typer.Option(help="dirichlet:ALPHA, shards:S, iid or natural.")
    ] = "dirichlet:0.3",
    strategy: Annotated[
        str, typer.Option(help="Flower's strategy: FedAvg, FedProx, FedAdam or FedAvgM.")
    ] = "FedAvg",
    model: Annotated[str, typer.Option(help="numpy, torch or auto.")] = "numpy",
    flip: Annotated[
        float, typer.Option(help="Probability with which a client tells a random bin.")
    ] = 0.0,
    devices: Annotated[
        Path | None, typer.Option(help="Device traces (CSV); default: synthetic ones.")
    ] = None,
    online: Annotated[Path | None, typer.Option(help="When clients are online (CSV).")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of the app, as KEY=VALUE (TOML)."),
    ] = None,
    engine: Engine = "in-process",
    seed: options.Seed = 0,
    out: options.Runs = RUNS,
    json: options.Json = False,
) -> None:
    """Run a federation with simulated devices; say what it reached, in which time, at what cost."""
    fed_engines.need_flower("run")
    app_folder = folder or template()
    settings: dict[str, Setting] = {
        "seed": seed,
        "selector": selector,
        "clients": clients,
        "poll": poll,
        "train": train,
        "rounds": rounds,
        "dataset": dataset,
        "partition": partition,
        "strategy": strategy,
        "model": model,
        "flip": flip,
        "devices": "" if devices is None else str(devices.resolve()),
        "online": "" if online is None else str(online.resolve()),
    }
    settings.update(_parse(setting or []))
    known = _settings_of(app_folder)
    for key, value in settings.items():
        if key not in known:
            raise InputError(
                f"the app in {app_folder} has no setting {key!r}; it has {', '.join(sorted(known))}"
            )
        _check_type(key, value, known[key])
    _check(settings)
    result = _play(app_folder, settings, engine, out)
    lines = [
        f"{result['selector']}: {result['rounds']} rounds, accuracy {_figure(result)}",
        f"{result['simulated_s']:.0f} simulated s, {result['polls']} polls, "
        f"{result['bytes_poll'] / 1e6:.2f} MB for polls, {result['bytes_model'] / 1e6:.2f} MB for "
        "models",
        f"engine {engine}, {result['wall_s']:.1f} s; rounds and logs in {result['run_dir']}",
    ]
    asked, trained = int(settings["poll"]), int(settings["train"])
    emit(result, lines + few_polled(str(settings["selector"]), asked, trained), as_json=json)


@app.command("app")
def app_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the app.")],
    json: options.Json = False,
) -> None:
    """Copy a complete Flower app whose clients are chosen; `flwr run DIR` starts it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder")
    try:
        shutil.copytree(
            template(),
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
        )
    except (OSError, shutil.Error) as error:
        raise InputError(f"cannot write the app to {folder}: {error}") from None
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{folder}: {', '.join(files)}",
        f"try it in one process: kofn fed run {folder}",
        f"on Flower's engine:    kofn fed run {folder} --engine ray",
        f"by Flower itself:      flwr run {folder} (see {folder}/README.md)",
    ]
    emit({"dir": str(folder), "files": files}, lines, as_json=json)


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for keys; again: add.")],
    superlink: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address by which clients reach the server."),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="Stable name of a client; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port of the server.")] = 8000,
    bind: Annotated[str, typer.Option(help="Address that the server listens on.")] = "0.0.0.0",  # noqa: S104
    days: Annotated[int, typer.Option(help="Validity of the server's certificate.")] = 365,
    json: options.Json = False,
) -> None:
    """Make keys, certificates and service units for a federation on a network."""
    try:
        from kofn.launch.fed_keys import make_keys
    except ModuleNotFoundError as error:
        if error.name != "cryptography":
            raise
        raise InputError('kofn fed keys needs cryptography: pip install "kofn[tls]"') from None
    made = make_keys(
        folder,
        servers=_words(superlink),
        clients=_words(client),
        port=port,
        bind=bind,
        days=days,
        now=datetime.now(UTC),
    )
    lines = [
        f"authority in {folder}/authority; its key stays on this machine",
        f"for the server: {folder}/superlink, as /etc/kofn/superlink",
    ]
    lines += [
        f"for client {each.name}: {each.folder}, as /etc/kofn/supernode; "
        f"register it: flwr supernode register {each.folder}/node.pub"
        for each in made
        if each.new
    ]
    result = {
        "dir": str(folder),
        "superlink": str(folder / "superlink"),
        "clients": [{"name": each.name, "dir": str(each.folder), "new": each.new} for each in made],
    }
    emit(result, lines, as_json=json)


def few_polled(selector: str, poll: int, train: int) -> list[str]:
    """Return a sentence where fewer are polled than train; rules without polls need none."""
    from kofn.fed.selectors.registry import POLLING

    if selector not in POLLING or poll >= train:
        return []
    return [
        f"poll size {poll} is below the {train} clients that train: the other seats go to clients "
        "drawn evenly"
    ]


def _words(values: list[str] | None) -> list[str]:
    """Values of an option that may be repeated, or name several with commas."""
    return [word for value in values or [] for word in value.split(",") if word]


def template() -> Path:
    """Return the folder of the app template."""
    import kofn.fed.streams

    # Beside a module that needs no flwr: copying the template does not either.
    return Path(kofn.fed.streams.__file__).resolve().parent / "flower" / "template"


def _play(folder: Path, settings: dict[str, Setting], engine: str, out: Path) -> dict[str, Any]:
    from kofn.controller.record import RunFolder

    started = time.monotonic()
    made = RunFolder.create(out, "fed")
    result, log = made.path.resolve() / "result.json", made.path.resolve() / "rounds.jsonl"
    settings = {**settings, "result": str(result), "log": str(log)}
    made.write_config(fed=settings, engine={"name": engine, "app": str(folder)})
    rounds = int(settings["rounds"])
    with Progress("federated rounds", rounds) as progress:

        def watch() -> None:
            if log.exists():
                progress.update(log.read_bytes().count(b"\n"))

        if engine == "ray":
            fed_engines.run_on_flower(
                folder, settings, made.logs, watch, nodes=int(settings["clients"])
            )
        else:
            fed_engines.run_in_process(folder, settings, made.logs, watch)
    try:
        found: dict[str, Any] = msgspec.json.decode(result.read_bytes())
    except (OSError, msgspec.MsgspecError):
        raise RunError(f"the app in {folder} left no result; see {made.logs}") from None
    found |= {
        "engine": engine,
        "seed": settings["seed"],
        "wall_s": time.monotonic() - started,
        "run_dir": str(made.path),
    }
    return found


def _figure(result: dict[str, Any]) -> str:
    accuracy = result["final_accuracy"]
    return "unknown" if accuracy is None else f"{accuracy:.3f}"


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings in an app's pyproject.toml."""
    path = folder / "pyproject.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = tables["tool"]["flwr"]["app"]["config"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no app as kofn fed app makes it: {path} has no settings ({error})"
        ) from None
    return found


def _parse(pairs: list[str]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r} is not KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a word needs no quotes
        if not isinstance(value, (bool, int, float, str)):
            raise InputError(f"--set {pair!r}: an app takes texts, numbers, true or false")
        found[key.strip()] = value
    return found


def _check_type(key: str, value: Setting, usual: Any) -> None:
    kinds = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
    fits = type(value) is type(usual) or (type(usual) is float and type(value) is int)
    if not fits:
        raise InputError(f"setting {key} is {value!r}, not {kinds.get(type(usual), 'what it was')}")


def _check(settings: dict[str, Setting]) -> None:
    """Raise InputError for what an engine would find out only after half a minute."""
    from kofn.fed.data import client_names
    from kofn.fed.devices import read_fleet
    from kofn.fed.selectors import check_sizes, make_selector
    from kofn.fed.simulate import Federation
    from kofn.fed.status import check_flip

    clients, train, poll, rounds = (
        int(settings[key]) for key in ("clients", "train", "poll", "rounds")
    )
    if rounds < 1:
        raise InputError(f"rounds is {rounds}, but at least 1 is played")
    name = str(settings["selector"])
    check_sizes(name, n=clients, m=train, k=poll)
    if poll > clients:
        raise InputError(f"poll size {poll} exceeds the {clients} clients")
    make_selector(name, k=poll).close()
    check_flip(float(settings["flip"]))
    if settings["devices"]:
        online = Path(str(settings["online"])) if settings["online"] else None
        fleet = read_fleet(Path(str(settings["devices"])), online)
        missing = [client for client in client_names(clients) if client not in fleet.devices]
        if missing:
            raise InputError(f"{settings['devices']} has no line for {missing[0]}")
    elif settings["online"]:
        raise InputError(f"--online {settings['online']} needs --devices")
    dataset = str(settings["dataset"])
    if ":" not in dataset:  # a user's own may lie beside the app, where only the app finds it
        Federation.make(dataset, clients, str(settings["partition"]), seed=int(settings["seed"]))
