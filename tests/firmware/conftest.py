# SPDX-License-Identifier: MIT
"""The firmware's folder on the path: its pure modules run under CPython too, as `robot.*`."""

import sys
from pathlib import Path

FIRMWARE = Path(__file__).parents[2] / "hardware" / "firmware"
sys.path.insert(0, str(FIRMWARE))
