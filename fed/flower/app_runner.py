# SPDX-License-Identifier: MIT
"""Run a Flower app in this process: `python -m kofn.fed.flower.app_runner APP [KEY=VALUE ...]`.

The ServerApp and ClientApp are those that `flwr run` would start; values are JSON. Meant for a
process of its own, as `kofn fed run` starts it: an app may leave modules and settings behind.
"""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, RecordDict

from kofn.controller.core.errors import InputError, RunError
from kofn.fed.flower.in_process import RUN_ID, SERVER_NODE_ID, InProcessGrid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.app import UserConfigValue


def read_app(folder: Path) -> dict[str, Any]:
    """Return the section [tool.flwr.app] of an app's pyproject.toml."""
    path = folder / "pyproject.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} is no Flower app: cannot read {path}: {reason}") from None
    app = settings.get("tool", {}).get("flwr", {}).get("app", {})
    if not {"serverapp", "clientapp"} <= set(app.get("components", {})):
        raise InputError(f"{path} names no serverapp and clientapp in [tool.flwr.app.components]")
    found: dict[str, Any] = app
    return found


def run_app(
    folder: Path, overrides: Mapping[str, UserConfigValue], *, nodes: int | None = None
) -> None:
    """Run an app on `nodes` nodes, by default as many as its setting `clients` says.

    Raises
    ------
    InputError
        No such app, or a setting that it does not have.
    """
    app = read_app(folder)
    config = flatten(app.get("config", {}))
    for key in overrides:
        if key not in config:
            raise InputError(f"the app in {folder} has no setting {key!r}; {_known(config)}")
    config.update(overrides)
    sys.path.insert(0, str(folder.resolve()))
    server, client = (_load(app["components"][part]) for part in ("serverapp", "clientapp"))
    count = int(config["clients"]) if nodes is None else nodes
    grid = InProcessGrid(client, count, config)
    context = Context(
        run_id=RUN_ID,
        node_id=SERVER_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(config),
    )
    server(grid, context)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, UserConfigValue]:
    """Return settings under dotted names, as Flower hands them to an app."""
    flat: dict[str, UserConfigValue] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _known(config: Mapping[str, object]) -> str:
    return f"it has {', '.join(sorted(config))}" if config else "it has none"


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot load {reference}: {error}") from error


def main(arguments: Sequence[str]) -> int:
    """Run an app; 0 it finished, 1 it failed, 2 bad input, with one sentence on stderr."""
    folder, *pairs = arguments
    overrides = {key: json.loads(value) for key, _, value in (p.partition("=") for p in pairs)}
    try:
        run_app(Path(folder), overrides)
    except (InputError, RunError) as error:
        print(f"kofn: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
