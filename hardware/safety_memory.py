# SPDX-License-Identifier: MIT
"""`SafetyMemory`: what a robot must still know after its power was off.

The highest epoch seen, the highest epoch that a halt forbids, and whether an emergency stop is in
force. Written whole and synced to the disk before a caller goes on, so an emergency stop outlives
the robot's own restart. A file that cannot be read counts as an emergency stop.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import msgspec

from kofn.controller.core.errors import RunError
from kofn.controller.link.secret_files import write_atomic

_log = logging.getLogger(__name__)

FILE = "safety.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file; -1 is none."""

    schema: int = 1
    epoch: int = -1
    halt_ep: int = -1
    estop: bool = False
    why: str = ""


class Recalled(NamedTuple):
    """What was kept, and why it could not be read (None: it could)."""

    kept: Kept
    trouble: str | None


class SafetyMemory:
    """The file `safety.json` in a robot's state folder.

    Parameters
    ----------
    folder
        The state folder; made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._last: Kept | None = None

    def recall(self) -> Recalled:
        """Read the file; without one the robot is new."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            kept = msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return Recalled(Kept(), None)
        except (OSError, msgspec.MsgspecError) as error:
            why = f"{self._path} cannot be read: {error}"
            return Recalled(Kept(estop=True, why=why), why)
        self._last = kept
        return Recalled(kept, None)

    def keep(self, kept: Kept) -> str | None:
        """Write when something changed; return why that failed, None when it did not."""
        if kept == self._last:
            return None
        try:
            write_atomic(self._path, msgspec.json.encode(kept))
        except RunError as error:
            _log.error("safety memory=%s", error)
            return str(error)
        self._last = kept
        return None
