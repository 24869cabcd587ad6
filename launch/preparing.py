# SPDX-License-Identifier: MIT
"""What a scenario needs before anything starts: its game, and a policy loaded or learned."""

import inspect
import time
from collections.abc import Callable

from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import PRESETS
from kofn.launch.models import load_model
from kofn.launch.output import note
from kofn.launch.scenario import GameSection, Scenario
from kofn.launch.training import train
from kofn.sim.kernel import blank


def build_game(section: GameSection) -> Game:
    """Return the game that a scenario names, with its parameters.

    Raises
    ------
    InputError
        Unknown game, or a parameter that the preset does not have (with those that it has).
    """
    preset = PRESETS.get(section.name)
    if preset is None or not section.parameters:
        if section.parameters:
            raise InputError(f"game {section.name!r} is no preset and takes no parameters")
        return load_model(section.name)[0]
    known = inspect.signature(preset).parameters
    whole: dict[str, float] = {}
    for key, value in section.parameters.items():
        if key not in known:
            raise InputError(
                f"game {section.name!r} has no parameter {key!r}; "
                f"known are {', '.join(known) or 'none'}"
            )
        whole[key] = int(value) if value.is_integer() else value
        if isinstance(known[key].default, int) and not value.is_integer():
            raise InputError(f"parameter {key!r} of the game is {value:g}, not a whole number")
    try:
        return preset(**whole)
    except InputError:
        raise
    except (ValueError, MemoryError):  # numpy's words for sizes that no memory holds
        raise InputError(f"game {section.name!r} with {whole} does not fit in memory") from None


def load_policy(scenario: Scenario) -> tuple[Game, Policy | None]:
    """Return the scenario's game, and the policy of its policy file if it names one.

    Raises
    ------
    InputError
        A damaged file, a policy that was made for another game (learned from an
        identified kernel it may differ in how robots move), or a game that does not fit the arena.
    """
    game = build_game(scenario.game)
    if game.n_local != scenario.arena.zones:
        raise InputError(
            f"game {game.name!r} has {game.n_local} zones, the arena has {scenario.arena.zones}"
        )
    if game.n_local_actions != scenario.arena.n_actions:
        raise InputError(
            f"game {game.name!r} has {game.n_local_actions} local actions, robots of a "
            f"{scenario.arena.shape} have {scenario.arena.n_actions}"
        )
    if not scenario.policy.file:
        return game, None
    policy = Policy.load(scenario.policy.file)
    _check_made_for(policy, game, scenario)
    return game, policy


def _check_made_for(policy: Policy, game: Game, scenario: Scenario) -> None:
    """Refuse a policy for another game, unless an identified kernel is all that differs.

    A finite world without a kernel of its own moves by the policy's game: there all must be equal.
    """
    by_game = any(host.world == "finite" and not host.kernel for host in scenario.hosts)
    identified = "kernel_sha256" in policy.provenance and not by_game
    if not (identified and blank(policy.game).sha256 == blank(game).sha256):
        policy.check_game(game)


def train_policy(scenario: Scenario, game: Game, watch: Callable[[], None]) -> Policy:
    """Learn a policy for the scenario's fleet; `watch` is called between two pairs."""
    started = time.monotonic()
    note(f"training a policy for {game.name}: k={scenario.k}, n={scenario.robots} ...")
    solution = train(
        game,
        k=scenario.k,
        n=scenario.robots,
        grid=scenario.policy.grid,
        objective=scenario.policy.objective,
        seed=scenario.seed,
        watch=watch,
    )
    note(f"trained in {time.monotonic() - started:.1f} s")
    return solution.policy
