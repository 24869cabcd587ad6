# SPDX-License-Identifier: MIT
"""What the room imports: selectors work where there is no Flower, no MQTT and no physics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2] / "fed"


def test_nothing_outside_fed_flower_imports_flwr_paho_or_pybullet() -> None:
    modules = sorted(
        ".".join(("kofn.fed", *path.relative_to(ROOM).with_suffix("").parts))
        for path in ROOM.rglob("*.py")
        if path.relative_to(ROOM).parts[0] != "flower" and path.name != "__init__.py"
    )
    assert "kofn.fed.selectors.mean_field" in modules
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from kofn.fed.selectors import SELECTORS, make_selector\n"
        "for name in SELECTORS: make_selector(name, k=10)\n"
        "heavy = {'flwr', 'ray', 'paho', 'pybullet', 'matplotlib', 'sklearn', 'mlxtend', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_any_module_can_be_imported_first() -> None:
    for name in ("status", "selectors", "selectors.base", "selectors.calls", "kernel", "client"):
        subprocess.run([sys.executable, "-c", f"import kofn.fed.{name}"], check=True, timeout=120)
