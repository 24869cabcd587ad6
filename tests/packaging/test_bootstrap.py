# SPDX-License-Identifier: MIT
"""The first thing a stranger runs: which Python is taken, and what is said when none fits."""

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "dirname", "cksum", "grep", "rm", "cat", "pwd", "mkdir")


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the bootstrap script, and a PATH that holds basic tools only."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    shutil.copy(ROOT / "scripts" / "bootstrap", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def bootstrap(machine: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [machine / "scripts" / "bootstrap", "all"],
        env={"PATH": str(machine / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(machine: Path, name: str, version: str) -> None:
    """A stand-in interpreter that knows its version, makes venvs of itself, and 'installs'."""
    executable(
        machine / "bin" / name,
        f"""#!/bin/sh
case "$1 $2" in
  "-c import"*) echo {version} ;;
  "-m venv") mkdir -p .venv/bin && cat "$0" > .venv/bin/python && : > .venv/bin/kofn \\
      && {shutil.which("chmod")} +x .venv/bin/python .venv/bin/kofn ;;
  "-m pip") echo "$@" >> installs ;;
esac
""",
    )


def test_python_3_12_without_uv_is_refused_in_one_sentence(machine: Path) -> None:
    fake_python(machine, "python3", "3.12")
    done = bootstrap(machine)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "python3 is Python 3.12, and PyBullet has wheels for Python 3.11 only" in sentence


def test_python_3_12_with_uv_says_so_and_lets_uv_provide_3_11(machine: Path) -> None:
    fake_python(machine, "python3", "3.12")
    fake_python(machine, "python-of-uv", "3.11")
    executable(
        machine / "bin" / "uv",
        '#!/bin/sh\necho "$@" > uv-called\nexec "$(dirname "$0")/python-of-uv" -m venv .venv\n',
    )
    done = bootstrap(machine)
    assert done.returncode == 0, done.stderr
    assert "using uv to get Python 3.11" in done.stderr.splitlines()[0]
    assert "--python 3.11" in (machine / "uv-called").read_text()
    assert "-e .[all]" in (machine / "installs").read_text()


def test_python_3_11_is_preferred_to_a_newer_default(machine: Path) -> None:
    fake_python(machine, "python3", "3.13")
    fake_python(machine, "python3.11", "3.11")
    done = bootstrap(machine)
    assert done.returncode == 0, done.stderr
    assert "PyBullet" not in done.stderr


def test_no_python_at_all_is_one_sentence(machine: Path) -> None:
    done = bootstrap(machine)
    assert done.returncode == 1
    assert "there is no working Python" in done.stderr


def test_an_existing_installation_is_not_made_again(machine: Path) -> None:
    fake_python(machine, "python3.11", "3.11")
    assert bootstrap(machine).returncode == 0
    assert bootstrap(machine).returncode == 0
    assert len((machine / "installs").read_text().splitlines()) == 1
    (machine / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert bootstrap(machine).returncode == 0
    assert len((machine / "installs").read_text().splitlines()) == 2


def test_a_failed_installation_fails(machine: Path) -> None:
    fake_python(machine, "python3.11", "3.11")
    script = (machine / "bin" / "python3.11").read_text()
    executable(machine / "bin" / "python3.11", script.replace('echo "$@" >> installs', "exit 7"))
    done = bootstrap(machine)
    assert done.returncode == 1
    assert "installation failed" in done.stderr
