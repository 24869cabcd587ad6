# SPDX-License-Identifier: MIT
"""Training with a progress bar: what `kofn train` and `kofn up` share."""

from collections.abc import Callable
from typing import get_args

from kofn.controller.core.alternation import Solution, alternating_marl
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.local_learner import Objective
from kofn.launch.output import Progress


def train(
    game: Game,
    *,
    k: int,
    n: int,
    grid: int | None = None,
    objective: str = "team",
    restarts: int | None = None,
    rounds: int | None = None,
    seed: int = 0,
    watch: Callable[[], None] = lambda: None,
) -> Solution:
    """Learn a policy; the parameters are those of `alternating_marl`.

    `watch` is called whenever there is progress; what it raises ends the learning.

    Raises
    ------
    InputError
        A setting that cannot be.
    """
    known: dict[str, Objective] = {name: name for name in get_args(Objective)}
    if objective not in known:
        raise InputError(f"unknown objective {objective!r}; known are {', '.join(known)}")
    limits = {} if rounds is None else {"rounds": rounds}
    with Progress("learning") as progress:

        def report(done: int, total: int, text: str) -> None:
            watch()
            progress.report(done, total, text)

        return alternating_marl(
            game,
            k,
            n,
            grid=grid,
            objective=known[objective],
            restarts=restarts,
            seed=seed,
            progress=report,
            **limits,
        )
