# SPDX-License-Identifier: MIT
"""What kofn imports, kofn asks for: a package that another one happens to bring may go with it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("controller", "sim", "hardware", "launch", "fed")
BOARD = ROOT / "hardware" / "firmware"
"""MicroPython: its modules are those of the board."""


PROVIDED = packages_distributions()
PART_OF = {"llvmlite": "numba", "sklearn": "scikit-learn"}
"""Numba's own other half; a name that is not installed where these tests run."""


def normal(name: str) -> str:
    """A name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Distributions that kofn asks for, extras included; those of developers are not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"]]
    for extra, packages in extras.items():
        asked += packages if extra not in {"dev", "bench"} else []
    return {normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in asked}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level packages that are imported anywhere in a module, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno


@pytest.mark.parametrize("room", ROOMS)
def test_every_package_that_is_imported_is_asked_for(room: str) -> None:
    known = {"kofn", *sys.stdlib_module_names}
    asked = declared()
    undeclared = []
    for path in sorted((ROOT / room).rglob("*.py")):
        if BOARD in path.parents or "template" in path.parts:
            continue
        for name, line in imports(ast.parse(path.read_text())):
            by = {normal(one) for one in [PART_OF.get(name, name), *PROVIDED.get(name, [])]}
            if name not in known and not by & asked:
                undeclared.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not undeclared
