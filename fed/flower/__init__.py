# SPDX-License-Identifier: MIT
"""Client selection in Flower: everything that imports flwr (package extra `fed`).

On the server `SelectedStrategy` goes around any strategy; on the client `attach_status` and
`remember` let it be asked. `InProcessGrid` runs both in one process, for tests and sweeps.
"""

from kofn.fed.flower.clients import StatusProvider, attach_status, remember
from kofn.fed.flower.in_process import InProcessGrid
from kofn.fed.flower.round_log import RoundRecord, read_log
from kofn.fed.flower.strategy import SelectedStrategy
from kofn.fed.flower.timekeeping import Measured, Simulated, Timekeeper

__all__ = [
    "InProcessGrid",
    "Measured",
    "RoundRecord",
    "SelectedStrategy",
    "Simulated",
    "StatusProvider",
    "Timekeeper",
    "attach_status",
    "read_log",
    "remember",
]
