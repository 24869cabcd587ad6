# SPDX-License-Identifier: MIT
"""The game as environments for other learners: Gymnasium (dispatcher), PettingZoo (robots).

Importing this package registers `kofn/Dispatcher-v0` with Gymnasium.
"""

try:
    import gymnasium
    import pettingzoo  # noqa: F401
except ImportError as error:
    raise ImportError(
        "kofn.sim.rl needs Gymnasium and PettingZoo: pip install 'kofn[rl]'"
    ) from error

from kofn.sim.rl.dispatcher import DispatcherEnv
from kofn.sim.rl.swarm import SwarmEnv

DISPATCHER_ID = "kofn/Dispatcher-v0"

__all__ = ["DISPATCHER_ID", "DispatcherEnv", "SwarmEnv"]

gymnasium.register(DISPATCHER_ID, entry_point="kofn.sim.rl.dispatcher:DispatcherEnv")
