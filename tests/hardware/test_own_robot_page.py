# SPDX-License-Identifier: MIT
"""The page on drivers of one's own does what it says; the examples in the pages can be read."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec

from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.vda_bank import read_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_driver_of_the_page_passes_the_suite_of_the_page(tmp_path: Path) -> None:
    driver, bench = blocks("bring-your-own-robot.md", "python")
    (tmp_path / "my_robot.py").write_text(driver)
    (tmp_path / "test_my_robot.py").write_text(bench)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_robot.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout


def test_limits_and_vehicles_of_the_pages_are_read() -> None:
    (limits,) = blocks("safety.md", "toml")
    assert msgspec.convert(tomllib.loads(limits), RobotLimits).checked().v == 0.3
    (vehicles,) = blocks("drivers.md", "json")
    assert len(read_settings(json.loads(vehicles)).nodes) == 5
