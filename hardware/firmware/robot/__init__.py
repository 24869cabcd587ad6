# SPDX-License-Identifier: MIT
"""kofn on a microcontroller: a host of one differential-drive robot (MicroPython, one robot).

Times are integer milliseconds and lengths metres: floats have 24 bits on most boards.
"""

VERSION = "0.1.0"
