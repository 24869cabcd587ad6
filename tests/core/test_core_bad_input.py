# SPDX-License-Identifier: MIT
"""Whatever a user hands to the core, it is understood or refused in one sentence that names it.

One table lists the public functions with arguments that are right; each argument in turn is then
replaced by things that are wrong. A new function is one more row.
"""

from __future__ import annotations

import inspect
import math
import tracemalloc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kofn.controller import core
from kofn.controller.core import (
    Belief,
    Binned,
    BoxBins,
    FieldDispatcher,
    FieldFilter,
    FunctionBins,
    Game,
    GlobalTransitions,
    InitialLaw,
    InputError,
    LocalTransitions,
    MeanFieldSolution,
    Policy,
    Rollouts,
    SymmetricPower,
    TableDispatcher,
    Transitions,
    estimate_game,
)
from kofn.controller.core.decision import Decider
from kofn.controller.core.model_error import optimistic_game, policy_envelope
from kofn.controller.core.presets import grid as grid_preset

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

HUGE = 10**400

#: What a refusal may allocate, in bytes.
MOST_MEMORY = 20e6

#: Made by the library, not by its users; or not to be called.
RESULTS = {
    "Binned", "Certificate", "ChainSolution", "EstimateCertificate", "EstimatedGame", "ExactValue",
    "GlobalSolution", "InputError", "MeanFieldSolution", "Polished", "QSolution",
    "ReleasedSolution", "Rollouts", "Round", "RunError", "Simulator", "Solution", "UCFHSolution",
}  # fmt: skip

#: What a sentence calls an argument, where that is not its own name.
CALLED = {
    "n": ("fleet size",),
    "k": ("poll size", "grid size", "chain length"),
    "size": ("grid size", "number of bins"),
    "grid": ("grid size",),
    "tol": ("tolerance",),
    "level": ("confidence level",),
    "alpha": ("initial alpha",),
    "s_l": ("initial s_l", "s_l"),
    "cap": ("memory",),
    "start": ("weights", "start"),
    "bins": ("number of bins",),
    "max_states": ("state limit",),
    "softmax": ("softmax temperature",),
    "mean_field": ("mean field",),
    "actions": ("list of global actions",),
    "budget_s": ("budget",),
    "warm_start": ("warm start",),
    "prior_weight": ("prior weight",),
    "counts": ("counts", "histogram"),
    "function": ("bin function",),
    "values": ("functions",),
    "source": ("game",),
    "data": ("policy",),
    "low": ("low", "edges"),
    "high": ("high", "edges"),
    "step_size": ("step_size", "step size"),
    "starts": ("start",),
    "columns": ("columns", "cells"),
    "rows": ("rows", "cells"),
}


class Drifting:
    """A simulator in which everything stays where it is."""

    def reset(self, rng: np.random.Generator, episodes: int, n: int) -> tuple[Any, Any]:
        return rng.random(episodes), rng.random((episodes, n))

    def step(self, rng: Any, s_g: Any, s_l: Any, a_g: Any, a_l: Any) -> tuple[Any, ...]:
        return s_g, s_l, np.zeros(len(s_g)), np.zeros(a_l.shape)


def game(S_g: int = 2, A_g: int = 2, S_l: int = 2, A_l: int = 2) -> Game:
    return Game(
        np.full((S_g, A_g, S_g), 1 / S_g),
        np.zeros((S_g, A_g)),
        np.full((S_g, S_l, A_l, S_l), 1 / S_l),
        np.zeros((S_g, S_l, A_l)),
        0.5,
        horizon=3,
    )


GAME = game()
PI = GAME.uniform_local_policy()
#: Histograms of two agents over two states.
PI_G = np.zeros((2, 3), dtype=np.int64)
POLICY = Policy(GAME, 2, PI_G, PI, memory=4.0)
KERNELS = np.full((2, 2, 2), 0.5)
BOX = BoxBins([0.0, 0.5, 1.0])
PLANS = MeanFieldSolution((np.zeros((2, 1)),) * 2, (np.zeros(1, np.int64),) * 2, 1, 0.0)
FIELDS = np.full((3, 2), 0.5)
BINNED = Binned(
    GAME, Drifting(), BOX, BOX, np.zeros(2), np.ones((2, 2, 2), np.int64),
    np.ones((2, 2, 2, 2), np.int64), FIELDS, 5,
)  # fmt: skip
ESTIMATE = estimate_game(GAME)
RECORD = Transitions([0], [[1, 1]], [0], [0.0], [1], [[2, 0]])
ROLLED = Rollouts(np.zeros(3), np.zeros(3), 3, 1, 3, 1.0, None)
POWER = SymmetricPower(np.full((2, 2), 0.5), 2)
FILTER = FieldFilter(KERNELS, FIELDS)

SIZES = {"n": 4, "k": 2}
TABLES: dict[str, Any] = {"P_g": GAME.P_g, "r_g": GAME.r_g, "P_l": GAME.P_l, "r_l": GAME.r_l}


#: Zero is a seed, and no memory is a memory.
SEED: dict[str, tuple[object, ...]] = {"seed": (0,)}
ANY_MEMORY: dict[str, tuple[object, ...]] = {"memory": (None, "1")}


@dataclass(frozen=True)
class Case:
    """A function with right arguments.

    `also` names, by argument, values of the table below that are right too, and ways to spoil an
    array that do not spoil this one.
    """

    call: Callable[..., object]
    right: dict[str, Any]
    also: dict[str, tuple[object, ...]] = field(default_factory=dict)


#: One row for each function; a key may have a second part for its methods.
CASES: dict[str, Case] = {
    "Belief": Case(Belief, {"kernels": KERNELS, "cap": 3.0, "start": [1.0, 1.0]}),
    "Belief.predict": Case(Belief(KERNELS, 3.0).predict, {"s_g": 1}, {"s_g": (0,)}),
    "Belief.update": Case(Belief(KERNELS, 3.0).update, {"counts": [1, 1]}),
    "Belief.restore": Case(Belief(KERNELS, 3.0).restore, {"weights": [1.0, 1.0]}),
    "BoxBins": Case(BoxBins, {"edges": [0.0, 1.0]}, {"edges": ("negative", "one more axis")}),
    "BoxBins.equal": Case(
        BoxBins.equal,
        {"low": 0.0, "high": 1.0, "bins": 2},
        {"low": (0, -1), "high": ([1],), "bins": ([1],)},
    ),
    "Decider": Case(
        Decider(POLICY, 2).decide,
        {"moved_by": 0, "s_g": 0, "counts": [1, 1]},
        {"moved_by": (0, -1), "s_g": (0,)},
    ),
    "EstimatedGame.sample": Case(ESTIMATE.sample, {"seed": 0}, {"seed": (0,)}),
    "EstimatedGame.l1_radius": Case(ESTIMATE.l1_radius, {"level": 0.9}),
    "FieldDispatcher": Case(
        FieldDispatcher,
        {
            "game": GAME,
            "pi_l": PI,
            "solution": PLANS,
            "fields": FIELDS,
            "trust": 1.0,
            "memory": 2.0,
        },
    ),
    "FieldFilter": Case(
        FieldFilter,
        {
            "kernels": KERNELS,
            "fields": FIELDS,
            "local_sees": "current",
            "trust": 1.0,
            "memory": 2.0,
        },
    ),
    "FieldFilter.start": Case(FILTER.start, {"episodes": 1}),
    "FieldFilter.observe": Case(FILTER.observe, {"s_g": [0], "counts": [[1, 1]]}),
    "FunctionBins": Case(FunctionBins, {"function": np.floor, "size": 2}),
    "Game": Case(
        Game,
        {**TABLES, "gamma": 0.5, "local_sees": "next", "initial": InitialLaw(), "name": "x"},
        {"gamma": (0,), "r_g": ("negative",), "r_l": ("negative",)},
    ),
    "Game.horizon": Case(
        lambda horizon: Game(**TABLES, gamma=0.5, horizon=horizon),
        {"horizon": 3},
        {"horizon": (None,)},
    ),
    "Game.local_policy": Case(GAME.local_policy, {"pi_l": PI}),
    "Game.marginals": Case(GAME.marginals, {"pi_l": PI}),
    "GlobalTransitions": Case(
        GlobalTransitions,
        {"s_g": [0], "a_g": [0], "s_g_next": [0], "reward": [0.5]},
        {"reward": ("negative",)},
    ),
    "InitialLaw": Case(
        lambda s_g, s_l: InitialLaw(s_g=s_g, s_l=s_l).resolve(2, 2),
        {"s_g": [0.5, 0.5], "s_l": [0.5, 0.5]},
        {"s_g": (None,), "s_l": (None,)},
    ),
    "InitialLaw.alpha": Case(
        lambda alpha: InitialLaw(alpha=alpha).resolve(2, 2), {"alpha": 1.0}, {"alpha": (None,)}
    ),
    "LocalTransitions": Case(
        LocalTransitions,
        {
            "s_g": [0],
            "s_l": [0],
            "a_l": [0],
            "s_l_next": [0],
            "s_g_next": [0],
            "reward": [0.5],
        },
        {"reward": ("negative",)},
    ),
    "MeanFieldSolution.table": Case(PLANS.table, {"grid": 2}),
    "MeanFieldSolution.decide": Case(PLANS.decide, {"s_g": [0], "fields": [[0.5, 0.5]]}),
    "MeanFieldSolution.values": Case(PLANS.values, {"s_g": [0], "fields": [[0.5, 0.5]]}),
    "Policy": Case(
        Policy,
        {
            "game": GAME,
            "grid": 2,
            "action": PI_G,
            "pi_l": PI,
            "memory": 3.0,
            "prior": np.ones((2, 2)),
            "provenance": {},
            "bare": Policy(GAME, 2, PI_G, PI),
        },
        {"provenance": ({}, {"a": 1})},
    ),
    "Policy.uniform": Case(Policy.uniform, {"game": GAME, "k": 2}, {"game": ("other game",)}),
    "Policy.decide": Case(POLICY.decide, {"s_g": 1, "weights": [1, 1]}, {"s_g": (0,)}),
    "Policy.belief": Case(POLICY.belief, {"k": 2, "memory": 3.0}, ANY_MEMORY),
    "Policy.memory_cap": Case(POLICY.memory_cap, {"k": 2, "memory": 3.0}, ANY_MEMORY),
    "Policy.remembers": Case(POLICY.remembers, {"k": 2, "memory": 3.0}, ANY_MEMORY),
    "Policy.check_game": Case(POLICY.check_game, {"game": GAME}),
    "Policy.from_bytes": Case(Policy.from_bytes, {"data": POLICY.to_bytes()}),
    "Policy.load": Case(Policy.load, {"path": "policy.npz"}),
    "Policy.save": Case(POLICY.save, {"path": "/nowhere/policy.npz"}),
    "Rollouts.interval": Case(ROLLED.interval, {"level": 0.9}),
    "SymmetricPower": Case(
        SymmetricPower,
        {"P": [[0.5, 0.5], [0, 1]], "size": 2, "method": "factored", "seed": 0},
        SEED,
    ),
    "SymmetricPower.apply": Case(
        POWER.apply, {"values": np.zeros(3)}, {"values": ("negative", "large")}
    ),
    "TableDispatcher": Case(TableDispatcher, {"policy": POLICY, "k": 2, "memory": 3.0}, ANY_MEMORY),
    "Transitions": Case(
        Transitions,
        {
            "s_g": [0],
            "counts": [[1, 1]],
            "a_g": [0],
            "reward": [0.5],
            "s_g_next": [0],
            "counts_next": [[1, 1]],
        },
        {"reward": ("negative",)},
    ),
    "alternating_marl": Case(
        core.alternating_marl,
        {
            "game": GAME,
            **SIZES,
            "grid": 2,
            "objective": "team",
            "restarts": 1,
            "rounds": 1,
            "starts": {"mine": PI},
            "polish": 0,
            "seed": 0,
            "progress": print,
        },
        {**SEED, "restarts": (0,), "starts": ({},), "polish": (0,)},
    ),
    "arena": Case(
        core.arena,
        {
            "zones": 3,
            "move_success": 0.5,
            "stay_success": 0.5,
            "call_success": 0.5,
            "drift": 0.5,
            "horizon": 3,
        },
        {
            "horizon": (None,),
            **dict.fromkeys(("move_success", "stay_success", "call_success", "drift"), (0,)),
        },
    ),
    "arena.grid": Case(grid_preset, {"columns": 2, "rows": 2, "drift": 0.5}, {"drift": (0,)}),
    "bin_simulator": Case(
        core.bin_simulator,
        {
            "simulator": Drifting(),
            "bins_g": BOX,
            "bins_l": BOX,
            "actions": [0.0, 1.0],
            "local_actions": 2,
            "n": 3,
            "gamma": 0.5,
            "horizon": 3,
            "samples": 2,
            "starts": 2,
            "seed": 0,
            "name": "x",
        },
        {**SEED, "gamma": (0,), "actions": ("negative", "large", "longer", "one more axis")},
    ),
    "blank_game": Case(
        core.blank_game,
        {
            "r_g": GAME.r_g,
            "r_l": GAME.r_l,
            "gamma": 0.5,
            "local_sees": "next",
            "initial": InitialLaw(),
            "horizon": 3,
            "name": "x",
        },
        {"gamma": (0,), "r_g": ("negative", "longer"), "r_l": ("negative", "longer")},
    ),
    "certify": Case(
        core.certify,
        {"game": GAME, "policy": POLICY, **SIZES, "horizon": 2, "budget_s": 1.0, "seed": 0},
        SEED,
    ),
    "certify_estimate": Case(
        core.certify_estimate,
        {"estimate": ESTIMATE, "policy": POLICY, **SIZES, "budget_s": 1.0, "draws": 1},
    ),
    "chain_learn": Case(
        core.chain_learn,
        {"game": GAME, "pi_g": PI_G, "k": 2, "tol": 0.1, "joint": False, "max_states": 100},
        {"max_states": (HUGE,)},
    ),
    "enumerate_fleet": Case(
        core.enumerate_fleet,
        {"game": GAME, "policy": POLICY, **SIZES, "horizon": 2, "memory": 2.0, "tol": 0.1},
        ANY_MEMORY,
    ),
    "estimate_from_counts": Case(
        core.estimate_from_counts,
        {
            "template": GAME,
            "P_l_counts": np.ones((2, 2, 2, 2)),
            "P_g_counts": np.ones((2, 2, 2)),
            "prior": GAME,
            "prior_weight": 1.0,
        },
    ),
    "estimate_game": Case(
        core.estimate_game,
        {
            "template": GAME,
            "local": LocalTransitions([0], [0], [0], [0]),
            "global_": GlobalTransitions([0], [0], [0]),
            "prior": GAME,
            "prior_weight": 1.0,
        },
    ),
    "evaluate_exactly": Case(
        core.evaluate_exactly,
        {"game": GAME, "policy": POLICY, **SIZES, "horizon": 2, "memory": 2.0, "tol": 0.1},
        ANY_MEMORY,
    ),
    "g_learn": Case(
        core.g_learn,
        {
            "game": GAME,
            "pi_l": PI,
            "k": 2,
            "backend": "sampled",
            "samples": 2,
            "tol": 0.1,
            "warm_start": np.zeros((2, 3)),
            "seed": 0,
        },
        {**SEED, "warm_start": ("negative", "longer")},
    ),
    "histogram_rank": Case(core.histogram_rank, {"counts": [1, 1]}, {"counts": ("longer",)}),
    "joint_optimum": Case(core.joint_optimum, {"game": GAME, "pi_g": PI_G, "k": 2, "tol": 0.1}),
    "l_learn": Case(
        core.l_learn,
        {
            "game": GAME,
            "pi_g": PI_G,
            "pi_l": PI,
            "k": 2,
            "objective": "selfish",
            "softmax": 0.5,
            "mean_field": "released",
        },
    ),
    "learn_continuous": Case(
        core.learn_continuous,
        {"model": BINNED, **SIZES, "rounds": 1, "episodes": 2, "seed": 0, "progress": print},
        SEED,
    ),
    "load_game": Case(core.load_game, {"source": "ring-paper"}),
    "mean_field_learn": Case(
        core.mean_field_learn,
        {
            "game": GAME,
            "pi_l": PI,
            "fields": FIELDS,
            "points": 10,
            "sweeps": 1,
            "tol": 0.1,
            "seed": 0,
        },
        {**SEED, "tol": (0,)},
    ),
    "optimistic_game": Case(
        optimistic_game,
        {
            "game": GAME,
            "l1_g": np.zeros((2, 2)),
            "l1_l": np.zeros((2, 2, 2)),
            "horizon": 3,
            "pi_l": PI,
        },
    ),
    "play_continuous": Case(
        core.play_continuous,
        {
            "model": BINNED,
            "dispatcher": TableDispatcher(POLICY, 2),
            **SIZES,
            "horizon": 2,
            "episodes": 2,
            "seed": 0,
        },
        SEED,
    ),
    "policy_envelope": Case(
        policy_envelope,
        {
            "game": GAME,
            "l1_g": np.zeros((2, 2)),
            "l1_l": np.zeros((2, 2, 2)),
            "policy": POLICY,
            **SIZES,
            "horizon": 3,
            "memory": 2.0,
        },
        ANY_MEMORY,
    ),
    "polish": Case(
        core.polish,
        {
            "game": GAME,
            "policy": POLICY,
            **SIZES,
            "passes": 1,
            "seed": 0,
            "play": "both",
            "progress": print,
        },
        SEED,
    ),
    "q_learn": Case(
        core.q_learn,
        {
            "game": GAME,
            "pi_l": PI,
            "k": 2,
            "samples": 9,
            "exploration": "epsilon-greedy",
            "epsilon": 0.1,
            "horizon": 3,
            "step_size": 0.5,
            "start": 0.0,
            "seed": 0,
        },
        {**SEED, "epsilon": (0,), "start": (0, -1)},
    ),
    "q_learn.transitions": Case(
        core.q_learn,
        {"game": GAME, "pi_l": PI, "k": 2, "transitions": RECORD, "passes": 1},
        {"pi_l": (None,)},
    ),
    "realised_value": Case(
        core.realised_value, {"game": GAME, "pi_g": PI_G, "pi_l": PI, "k": 2, "tol": 0.1}
    ),
    "released_marl": Case(
        core.released_marl,
        {"game": GAME, **SIZES, "rounds": 1, "seed": 0},
        {**SEED, "game": ("other game",)},
    ),
    "rollout": Case(
        core.rollout,
        {
            "game": GAME,
            "policy": POLICY,
            **SIZES,
            "horizon": 2,
            "rollouts": 2,
            "seed": 0,
            "memory": 3.0,
            "record": False,
            "act_first": False,
        },
        {**SEED, **ANY_MEMORY},
    ),
    "tune_memory": Case(
        core.tune_memory, {"game": GAME, "policy": POLICY, **SIZES, "seed": 0}, SEED
    ),
    "ucfh_learn": Case(
        core.ucfh_learn,
        {
            "game": GAME,
            "pi_g": PI_G,
            "k": 2,
            "epsilon": 0.1,
            "delta": 0.1,
            "horizon": 2,
            "m": 1.0,
            "max_samples": 100,
            "seed": 0,
        },
        SEED,
    ),
}

#: A game that no policy and no table above fits.
OTHER = game(3, 3, 3, 3)

NOTHING: tuple[object, ...] = (
    "seven", "1", b"x", [], [[1], [1, 2]], {}, {"a": 1}, 1j, object(), math.nan,
)  # fmt: skip
NUMBERS: tuple[object, ...] = (True, [1], math.inf, -math.inf, HUGE, -HUGE, -1)

#: What is never right, by the kind of what is.
WRONG: dict[str, tuple[object, ...]] = {
    "flag": (*NOTHING, None, 0, 1, [True]),
    "int": (*NOTHING, *NUMBERS, None, 0, 1.5),
    "float": (*NOTHING, *NUMBERS, None, 0),
    "choice": (*NOTHING, *NUMBERS, None, ""),
    "label": (*NOTHING[2:], *NUMBERS, None),
    "path": (*NOTHING[2:], *NUMBERS, None, "", "a\0b"),
    "array": (
        *NOTHING, None, True, 0.5, HUGE, [HUGE], ["a"], [None], [1j], [math.nan], [[math.inf]],
        np.zeros((0, 2)), np.full((1, 1, 1, 1, 1), 0.5), np.array([{}]), np.array([1j]),
        np.broadcast_to(0.5, (10**6, 10**6)),
    ),
    "object": (*NOTHING, *NUMBERS, None, 0, Game),
    "function": (*NOTHING, *NUMBERS, None, 0),
}  # fmt: skip


def _kind(name: str, value: object) -> str:
    if name in {"name", "path"}:
        return {"name": "label", "path": "path"}[name]
    for kind, types in (("flag", bool), ("int", int), ("float", float), ("choice", str)):
        if isinstance(value, types):
            return kind
    if isinstance(value, (list, np.ndarray)):
        return "array"
    return "function" if name in {"function", "progress"} else "object"


def _spoilt(value: npt.ArrayLike) -> dict[str, object]:
    """Return arrays like the right one, but for one thing each, by what it is."""
    right = np.array(value, dtype=np.float64)
    spoilt: dict[str, object] = {
        "one more axis": right[None],
        "longer": np.concatenate([right, right], axis=-1),
        "complex": right.astype(complex),
        "text": right.astype(str),
        "ragged": [right.tolist(), [1]],
    }
    for what, bad in (("nan", math.nan), ("inf", math.inf), ("negative", -1), ("large", 1e300)):
        copy = right.copy()
        copy.flat[0] = bad
        spoilt[what] = copy
    return spoilt


def _same(a: object, b: object) -> bool:
    return type(a) is type(b) and not isinstance(a, np.ndarray) and a == b


def bad_values(case: Case, name: str) -> list[object]:
    """Return what is wrong in the place of an argument."""
    right, also = case.right[name], case.also.get(name, ())
    kind = _kind(name, right)
    values = [x for x in WRONG[kind] if not any(_same(x, fine) for fine in also)]
    if inspect.signature(case.call).parameters[name].default is None:
        values = [value for value in values if value is not None]
    if kind == "array":
        values += [x for what, x in _spoilt(right).items() if what not in also]
    if "other game" not in also:
        values.append(OTHER)
    return values


def complaint(case: Case, name: str, value: object) -> str | None:
    """Return what is wrong with how a bad value is met, if anything."""
    try:
        case.call(**{**case.right, name: value})
    except InputError as error:
        text = str(error)
        # Where another game does not fit, the tables are named.
        if value is not OTHER and not any(x in text for x in (name, *CALLED.get(name, ()))):
            return f"is not named: {text}"
        if "\n" in text or len(text) > 300:
            return f"is met by no short sentence: {text[:500]}"
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    return "was accepted"


@pytest.mark.parametrize("key", CASES)
def test_a_bad_argument_is_refused_in_one_sentence_that_names_it(key: str) -> None:
    case = CASES[key]
    found = []
    tracemalloc.start()
    for name in case.right:
        for value in bad_values(case, name):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            wrong = complaint(case, name, value)
            taken = tracemalloc.get_traced_memory()[1] - before
            if wrong is None and taken > MOST_MEMORY:
                wrong = f"took {taken / 1e6:.0f} MB"
            if wrong is not None:
                shown = (
                    "huge" if isinstance(value, int) and abs(value) == HUGE else repr(value)[:60]
                )
                found.append(f"{name} = {shown} {wrong}")
    tracemalloc.stop()
    assert not found, f"{len(found)} found:\n" + "\n".join(found)


def test_every_public_name_is_in_the_table() -> None:
    listed = {key.partition(".")[0] for key in CASES}
    assert set(core.__all__) <= listed | RESULTS
