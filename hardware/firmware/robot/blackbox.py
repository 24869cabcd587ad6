# SPDX-License-Identifier: MIT
"""The robot's own record: JSON lines, flushed on steps and state changes, two files in turn.

Its rows are those of `hostlog.py`, so that films and figures are made from a board's record as from
any other host's; rows `incident` of kind "board" hold what else happened.
"""

import json
import os


class BlackBox:
    """Appends rows to `path`; at `most` bytes it becomes `path.old`. No path, no record."""

    def __init__(self, path, most=0):
        self._path, self._most, self._size = path, most, 0
        self._file = open(path, "w") if path else None
        self.broken = False

    def write(self, row, flush=True):
        """Append one row; a full flash ends the record, not the robot."""
        if self._file is None or self.broken:
            return
        try:
            line = json.dumps(row) + "\n"
            self._file.write(line)
            self._size += len(line)
            if flush:
                self._file.flush()
            if self._most and self._size > self._most:
                self._file.close()
                os.rename(self._path, self._path + ".old")
                self._file, self._size = open(self._path, "w"), 0
        except OSError:
            self.broken = True

    def note(self, now, what):
        """A state change, a stop, a refusal."""
        self.write({"row": "incident", "time_s": now / 1000, "i": 0, "kind": "board", "text": what})

    def close(self):
        """Flush and close."""
        if self._file is not None:
            self._file.close()
            self._file = None
