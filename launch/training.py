# SPDX-License-Identifier: MIT
"""Training with a progress bar: what `kofn train`, `kofn sweep` and `kofn up` share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from kofn.controller.core.alternation import MAX_ROUNDS, Solution, alternating_marl
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.local_learner import Objective
from kofn.controller.core.policy import Policy
from kofn.launch.output import Progress

if TYPE_CHECKING:
    from kofn.sim.crowd_training import CrowdSolution
    from kofn.sim.kernel import Kernel


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to learn: parameters of `alternating_marl` besides game, poll, fleet, starts and seed.

    None leaves the choice to the learner.

    Raises
    ------
    InputError
        A name that there is not, or a number out of its limits.
    """

    grid: int | None = None
    objective: str = "team"
    restarts: int | None = None
    rounds: int | None = None
    polish: int = 0

    def __post_init__(self) -> None:
        known = get_args(Objective)
        if self.objective not in known:
            raise InputError(f"unknown objective {self.objective!r}; known are {', '.join(known)}")
        for name, least in (("restarts", 1), ("rounds", 1), ("polish", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value <= MAX_ROUNDS:
                raise InputError(
                    f"{name} {value} is not a whole number from {least} to {MAX_ROUNDS}"
                )

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `alternating_marl`."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in given.items() if value is not None}


def train(
    game: Game,
    *,
    k: int,
    n: int,
    learning: Learning | None = None,
    starts: Mapping[str, Policy] | None = None,
    grid: int | None = None,
    objective: str = "team",
    restarts: int | None = None,
    rounds: int | None = None,
    seed: int = 0,
    watch: Callable[[], None] = lambda: None,
) -> Solution:
    """Learn a policy; the parameters are those of `alternating_marl`.

    `learning` stands for grid, objective, restarts and rounds together. `watch` is called whenever
    there is progress; what it raises ends the learning.

    Raises
    ------
    InputError
        A setting that cannot be.
    """
    how = learning or Learning(grid=grid, objective=objective, restarts=restarts, rounds=rounds)
    with Progress("learning") as progress:

        def report(done: int, total: int, text: str) -> None:
            watch()
            progress.report(done, total, text)

        return alternating_marl(
            game, k, n, starts=starts, seed=seed, progress=report, **how.arguments()
        )


def train_crowd(
    kernel: "Kernel",
    *,
    k: int,
    n: int,
    learning: Learning,
    starts: Mapping[str, Policy],
    seed: int,
) -> "CrowdSolution":
    """Learn a policy on the binned kernel; of `starts` the local policies count.

    Raises
    ------
    InputError
        A setting that cannot be.
    """
    from kofn.launch.models import crowd_game
    from kofn.sim.crowd_training import crowd_marl

    with Progress("learning") as progress:
        return crowd_marl(
            crowd_game(kernel),
            k,
            n,
            starts={name: start.pi_l for name, start in starts.items()},
            seed=seed,
            progress=progress.report,
            **learning.arguments(),
        )
