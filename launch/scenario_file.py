# SPDX-License-Identifier: MIT
"""Scenario files: found by path or by name, read from TOML; an unknown key is refused by name."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from kofn.controller.core.errors import InputError
from kofn.hardware.arena import layout_of
from kofn.launch.scenario import HostSection, Scenario
from kofn.sim.faults import Fault


def scenario_names() -> list[str]:
    """Names of the scenarios that come with kofn."""
    return sorted(path.stem for path in scenario_folder().glob("*.toml"))


def load_scenario(path: str) -> Scenario:
    """Read a scenario from a `.toml` file, or one of kofn's own by name.

    Raises
    ------
    InputError
        No such file, not TOML, an unknown key (with the known ones), or a value out of range.
    """
    file = Path(path)
    if file.stem in scenario_names() and not file.exists() and "/" not in path:
        file = scenario_folder() / f"{file.stem}.toml"
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(
            f"no scenario {path!r}: neither a file nor one of {', '.join(scenario_names())}"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read scenario {path!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from error
    _refuse_unknown_keys(tables, Scenario, path, "")
    arena = tables.get("arena")
    if isinstance(arena, dict):
        arena.setdefault("shape", "ring")
        try:
            layout_of(arena)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    try:
        scenario = msgspec.convert(tables, Scenario)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from error
    zones = scenario.arena.zones
    hosts = [copy for host in scenario.hosts for copy in _copies(host, zones)]
    return msgspec.structs.replace(scenario, hosts=hosts).checked()


def scenario_folder() -> Path:
    """Folder of the scenarios that come with kofn."""
    from kofn.launch import scenarios

    return Path(next(iter(scenarios.__path__)))


def _copies(host: HostSection, zones: int) -> list[HostSection]:
    """Return NAME-0, NAME-1 .., each in the next zone; a host without copies as it is."""
    if host.copies == 1:
        return [host]
    return [
        msgspec.structs.replace(
            host, copies=1, name=f"{host.name}-{i}", zone=(host.zone + i) % zones
        )
        for i in range(host.copies)
    ]


def _refuse_unknown_keys(
    table: dict[str, Any], struct: type[msgspec.Struct], path: str, where: str
) -> None:
    """Name an unknown key together with the known ones, table by table."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in fields:
            place = f" in [{where}]" if where else ""
            known = ", ".join(sorted(fields))
            raise InputError(f"{path}: unknown key {key!r}{place}; known are {known}")
        inner = fields[key].type
        if (
            isinstance(inner, type)
            and issubclass(inner, msgspec.Struct)
            and isinstance(value, dict)
        ):
            _refuse_unknown_keys(value, inner, path, key)
        elif key in {"hosts", "faults"} and isinstance(value, list):
            for row in value:
                if isinstance(row, dict):
                    kind = HostSection if key == "hosts" else Fault
                    _refuse_unknown_keys(row, kind, path, f"[{key}]")
