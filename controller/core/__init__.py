# SPDX-License-Identifier: MIT
"""The mathematics of kofn: games, best responses, rollouts and policies. numpy and numba, no I/O.

Names are imported on first use, so that a robot host can load a `Policy` with numpy alone: numba is
imported only by the learners and the rollouts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kofn.controller.core.alternation import Round, Solution, alternating_marl
    from kofn.controller.core.belief import Belief
    from kofn.controller.core.certificates import Certificate, certify
    from kofn.controller.core.errors import InputError, RunError
    from kofn.controller.core.game import Game, InitialLaw
    from kofn.controller.core.global_learner import GlobalSolution, g_learn
    from kofn.controller.core.grid import histogram_rank
    from kofn.controller.core.local_learner import l_learn
    from kofn.controller.core.policy import Policy
    from kofn.controller.core.presets import arena, load_game
    from kofn.controller.core.q_learning import QSolution, q_learn
    from kofn.controller.core.rollouts import Rollouts, rollout
    from kofn.controller.core.symmetric_power import SymmetricPower
    from kofn.controller.core.transitions import Transitions

_HOME = {
    "Belief": "belief",
    "Certificate": "certificates",
    "Game": "game",
    "GlobalSolution": "global_learner",
    "InitialLaw": "game",
    "InputError": "errors",
    "Policy": "policy",
    "QSolution": "q_learning",
    "Rollouts": "rollouts",
    "Round": "alternation",
    "RunError": "errors",
    "Solution": "alternation",
    "SymmetricPower": "symmetric_power",
    "Transitions": "transitions",
    "alternating_marl": "alternation",
    "arena": "presets",
    "certify": "certificates",
    "g_learn": "global_learner",
    "histogram_rank": "grid",
    "l_learn": "local_learner",
    "load_game": "presets",
    "q_learn": "q_learning",
    "rollout": "rollouts",
}

__all__ = [
    "Belief",
    "Certificate",
    "Game",
    "GlobalSolution",
    "InitialLaw",
    "InputError",
    "Policy",
    "QSolution",
    "Rollouts",
    "Round",
    "RunError",
    "Solution",
    "SymmetricPower",
    "Transitions",
    "alternating_marl",
    "arena",
    "certify",
    "g_learn",
    "histogram_rank",
    "l_learn",
    "load_game",
    "q_learn",
    "rollout",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
