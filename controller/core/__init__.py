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
    from kofn.controller.core.binning import Binned, bin_simulator
    from kofn.controller.core.bins import BoxBins, FunctionBins
    from kofn.controller.core.certificates import Certificate, certify
    from kofn.controller.core.chained import (
        ChainSolution,
        chain_learn,
        joint_optimum,
        realised_value,
    )
    from kofn.controller.core.continuous import (
        FieldDispatcher,
        TableDispatcher,
        learn_continuous,
        play_continuous,
    )
    from kofn.controller.core.errors import InputError, RunError
    from kofn.controller.core.estimated_certificates import EstimateCertificate, certify_estimate
    from kofn.controller.core.estimation import (
        EstimatedGame,
        blank_game,
        estimate_from_counts,
        estimate_game,
    )
    from kofn.controller.core.exact_evaluation import ExactValue, enumerate_fleet, evaluate_exactly
    from kofn.controller.core.field_filter import FieldFilter
    from kofn.controller.core.game import Game, InitialLaw
    from kofn.controller.core.global_learner import GlobalSolution, g_learn
    from kofn.controller.core.grid import histogram_rank
    from kofn.controller.core.local_learner import l_learn
    from kofn.controller.core.logged_transitions import GlobalTransitions, LocalTransitions
    from kofn.controller.core.mean_field import MeanFieldSolution, mean_field_learn
    from kofn.controller.core.model_error import optimistic_game, policy_envelope
    from kofn.controller.core.policy import Policy
    from kofn.controller.core.polishing import Polished, polish
    from kofn.controller.core.presets import arena, load_game
    from kofn.controller.core.q_learning import QSolution, q_learn
    from kofn.controller.core.released import ReleasedSolution, released_marl
    from kofn.controller.core.rollouts import Rollouts, rollout
    from kofn.controller.core.simulator import Simulator
    from kofn.controller.core.symmetric_power import SymmetricPower
    from kofn.controller.core.transitions import Transitions
    from kofn.controller.core.tuning import tune_memory
    from kofn.controller.core.ucfh import UCFHSolution, ucfh_learn

_HOME = {
    "Belief": "belief",
    "Binned": "binning",
    "BoxBins": "bins",
    "Certificate": "certificates",
    "ChainSolution": "chained",
    "EstimateCertificate": "estimated_certificates",
    "EstimatedGame": "estimation",
    "ExactValue": "exact_evaluation",
    "FieldDispatcher": "continuous",
    "FieldFilter": "field_filter",
    "FunctionBins": "bins",
    "Game": "game",
    "GlobalSolution": "global_learner",
    "GlobalTransitions": "logged_transitions",
    "InitialLaw": "game",
    "InputError": "errors",
    "LocalTransitions": "logged_transitions",
    "MeanFieldSolution": "mean_field",
    "Policy": "policy",
    "Polished": "polishing",
    "QSolution": "q_learning",
    "ReleasedSolution": "released",
    "Rollouts": "rollouts",
    "Round": "alternation",
    "RunError": "errors",
    "Simulator": "simulator",
    "Solution": "alternation",
    "SymmetricPower": "symmetric_power",
    "TableDispatcher": "continuous",
    "Transitions": "transitions",
    "UCFHSolution": "ucfh",
    "alternating_marl": "alternation",
    "arena": "presets",
    "bin_simulator": "binning",
    "blank_game": "estimation",
    "certify": "certificates",
    "certify_estimate": "estimated_certificates",
    "chain_learn": "chained",
    "enumerate_fleet": "exact_evaluation",
    "estimate_from_counts": "estimation",
    "estimate_game": "estimation",
    "evaluate_exactly": "exact_evaluation",
    "g_learn": "global_learner",
    "histogram_rank": "grid",
    "joint_optimum": "chained",
    "l_learn": "local_learner",
    "learn_continuous": "continuous",
    "load_game": "presets",
    "mean_field_learn": "mean_field",
    "optimistic_game": "model_error",
    "play_continuous": "continuous",
    "policy_envelope": "model_error",
    "polish": "polishing",
    "q_learn": "q_learning",
    "realised_value": "chained",
    "released_marl": "released",
    "rollout": "rollouts",
    "tune_memory": "tuning",
    "ucfh_learn": "ucfh",
}

__all__ = [
    "Belief",
    "Binned",
    "BoxBins",
    "Certificate",
    "ChainSolution",
    "EstimateCertificate",
    "EstimatedGame",
    "ExactValue",
    "FieldDispatcher",
    "FieldFilter",
    "FunctionBins",
    "Game",
    "GlobalSolution",
    "GlobalTransitions",
    "InitialLaw",
    "InputError",
    "LocalTransitions",
    "MeanFieldSolution",
    "Policy",
    "Polished",
    "QSolution",
    "ReleasedSolution",
    "Rollouts",
    "Round",
    "RunError",
    "Simulator",
    "Solution",
    "SymmetricPower",
    "TableDispatcher",
    "Transitions",
    "UCFHSolution",
    "alternating_marl",
    "arena",
    "bin_simulator",
    "blank_game",
    "certify",
    "certify_estimate",
    "chain_learn",
    "enumerate_fleet",
    "estimate_from_counts",
    "estimate_game",
    "evaluate_exactly",
    "g_learn",
    "histogram_rank",
    "joint_optimum",
    "l_learn",
    "learn_continuous",
    "load_game",
    "mean_field_learn",
    "optimistic_game",
    "play_continuous",
    "policy_envelope",
    "polish",
    "q_learn",
    "realised_value",
    "released_marl",
    "rollout",
    "tune_memory",
    "ucfh_learn",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
