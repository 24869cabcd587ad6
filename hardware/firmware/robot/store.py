# SPDX-License-Identifier: MIT
"""What must outlive a reset: the highest epoch seen and the highest halt. Written when it rises."""

import json
import os


class Store:
    """A file that is replaced whole; unreadable, it forbids motion until an operator clears it."""

    def __init__(self, path):
        self._path = path
        self.ep = self.halt_ep = -1
        self.damaged = False
        try:
            with open(path) as file:
                data = json.load(file)
            self.ep, self.halt_ep = int(data["ep"]), int(data["halt_ep"])
        except OSError:
            pass
        except Exception:  # a torn file: the epochs are unknown
            self.damaged = True

    def keep(self, ep, halt_ep):
        """Write when a number rose."""
        if ep <= self.ep and halt_ep <= self.halt_ep:
            return
        self.ep, self.halt_ep = max(ep, self.ep), max(halt_ep, self.halt_ep)
        with open(self._path + ".new", "w") as file:
            json.dump({"ep": self.ep, "halt_ep": self.halt_ep}, file)
        os.rename(self._path + ".new", self._path)
