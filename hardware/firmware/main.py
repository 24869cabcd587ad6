# SPDX-License-Identifier: MIT
"""Started by the board at power-on; on the bench: `micropython main.py SETTINGS`."""

import sys

from robot.app import run

run(*sys.argv[1:2])
