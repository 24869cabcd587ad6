# SPDX-License-Identifier: MIT
"""What people install is what the folders hold."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = ROOT / "hardware" / "firmware"
"""MicroPython for boards: shipped as files, imported by nobody here."""
ROOMS = ("controller", "hardware", "sim", "fed", "launch")


def modules_in_folders() -> set[str]:
    """Dotted names of all modules below the rooms."""
    return {
        ".".join(("kofn", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if FIRMWARE not in path.parents
    }


def data_in_folders() -> set[str]:
    """Files below the rooms that are not Python, as paths inside the wheel."""
    return {
        f"kofn/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file()
        and (path.suffix != ".py" or FIRMWARE in path.parents)
        and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what the repository holds."""
    out = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", *ROOMS):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), str(source)],
        check=True,
    )
    (built,) = out.glob("kofn-*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; other people's packages come from this one.

    The slow test installs the declared dependencies for real.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install(wheel, home, "--no-deps")
    (site,) = home.glob("lib/python*/site-packages")
    # A line of a .pth file is a place to look in, but .pth files there (our editable install) are
    # not read: `kofn` can come from the wheel only.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(wheel: Path, home: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install",
         "--quiet", "--disable-pip-version-check", *options, f"{wheel}[all]"],
        check=True,
        cwd=home,
    )  # fmt: skip


def import_everything(python: Path) -> dict[str, str]:
    """Import all modules in `python`; return the file that each came from."""
    # fed/flower needs flwr, which is not part of `all` (see pyproject.toml).
    names = sorted(
        name
        for name in modules_in_folders() - {"kofn.launch.__main__"}
        if not name.startswith("kofn.fed.flower")
    )
    code = (
        "import importlib, json, sys\n"
        f"found = {{name: importlib.import_module(name).__file__ for name in {names!r}}}\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run(
        [python, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=python.parent,
        env={"PATH": os.environ["PATH"]},
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(names)
    return found


def test_the_wheel_holds_every_file_of_the_folders(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {
        name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name in names
        if name.endswith(".py") and not name.startswith("kofn/hardware/firmware/")
    }
    assert modules == modules_in_folders()
    assert data_in_folders() <= set(names)


@pytest.mark.timeout(400)
def test_every_module_imports_from_the_wheel_in_a_clean_environment(clean_python: Path) -> None:
    found = import_everything(clean_python)
    outside = [path for path in found.values() if not path.startswith(str(clean_python.parents[1]))]
    assert not outside


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_declared_dependencies_are_enough(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    install(wheel, tmp_path)
    found = import_everything(tmp_path / "bin" / "python")
    assert all(path.startswith(str(tmp_path)) for path in found.values())


@pytest.mark.timeout(400)
def test_the_installed_command_works_from_any_folder(clean_python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [clean_python.parent / "kofn", "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "demo" in done.stdout


def test_foreign_packages_called_launch_and_controller_do_not_break_ours(tmp_path: Path) -> None:
    # ROS 2 ships a package `launch`, Webots one called `controller`.
    for name in ("launch", "controller"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("FOREIGN = True\n")
    code = (
        "import launch, controller\n"
        "assert launch.FOREIGN and controller.FOREIGN\n"
        "import kofn.launch.scenario, kofn.controller.core.errors\n"
    )
    # -c puts the working directory, where the foreign packages are, first on the path.
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
