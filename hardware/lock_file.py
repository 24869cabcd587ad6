# SPDX-License-Identifier: MIT
"""`PortLock`: one owner a device, by a locked file that names the owner's process id.

The lock is the operating system's (`flock`): it ends with its process, however that ends, so there
is no stale lock to remove. The folder is shared by all users of the machine.
"""

import fcntl
import os
import re
import tempfile
from pathlib import Path

from kofn.hardware.driver import DriverError

FOLDER = "kofn-locks"


class PortLock:
    """Exclusive ownership of a named device.

    Parameters
    ----------
    name
        Device as its driver calls it: a path, an address, an identifier.
    folder
        Where lock files are; None is a folder in the machine's temporary one.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self._name = name
        self._folder = folder if folder is not None else Path(tempfile.gettempdir()) / FOLDER
        self._file: int | None = None

    @property
    def path(self) -> Path:
        """The lock file."""
        return self._folder / (re.sub(r"[^A-Za-z0-9_.-]", "_", self._name) + ".lock")

    def take(self) -> None:
        """Become the owner; does nothing for the owner.

        Raises
        ------
        DriverError
            Another process, or another driver of this one, owns the device.
        """
        if self._file is not None:
            return
        try:
            if not self._folder.exists():
                self._folder.mkdir(parents=True)
                self._folder.chmod(0o1777)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise DriverError(
                f"cannot write lock file {self.path}: {error.strerror}", "check its owner"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(file, 32).decode(errors="replace").strip() or "unknown"
            os.close(file)
            raise DriverError(
                f"{self._name} is in use by process {pid}", "end that process, or choose another"
            ) from None
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        self._file = file

    def free(self) -> None:
        """Give the device back; idempotent, never raises."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)  # the lock goes with it; the file stays, or two could own one name
