# SPDX-License-Identifier: MIT
"""A sweep over poll sizes: for each k one policy is learned and played, with and without memory.

The folder of a sweep holds `results.json`, which is written anew after each k and from which a
sweep that was broken off goes on, `table.md` and figures (`sweep_figures`). Everything but the
times is a function of the settings: neither the engine nor the order of the ks changes it.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np

from kofn.controller.core import alternation
from kofn.controller.core.alternation import alternating_marl
from kofn.controller.core.errors import InputError
from kofn.controller.core.game import Game
from kofn.controller.core.global_learner import Surrogate
from kofn.controller.core.grid import check_grid, grid_points
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.controller.core.rollouts import Rollouts, resolve_horizon, rollout
from kofn.launch.output import Progress
from kofn.launch.sweep_results import Episode, Played, Row, Settings, Sweep, read, write
from kofn.launch.training import Learning

#: Larger grids are not timed: one value function on them takes seconds and gigabytes.
MOST_STATES = 10_000_000

Report = Callable[[str], None]


def parse_ks(text: str, n: int) -> list[int]:
    """Return the poll sizes of a list like `1,5,10`, ascending, that n agents allow."""
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise InputError(f"--ks {text!r} is not a list of whole numbers like 1,5,10") from None
    if ks[0] < 1:
        raise InputError(f"poll size {ks[0]} is not a whole number of at least 1")
    if ks[-1] > n:
        raise InputError(f"poll size {ks[-1]} exceeds fleet size {n}")
    return ks


def settings_of(
    game: Game, *, n: int, horizon: int | None, rollouts: int, seed: int, learning: Learning
) -> Settings:
    """Return checked settings."""
    if n < 1:
        raise InputError(f"fleet size {n} is not a whole number of at least 1")
    if not 2 <= rollouts <= 10**9:
        raise InputError(f"--rollouts {rollouts} must lie in 2..{10**9}")
    if learning.grid is not None:
        check_grid(learning.grid, game.n_local, game.n_global)
    return Settings(
        code=_code(),
        game=game.name or "game",
        game_sha256=game.sha256,
        global_states=game.n_global,
        local_states=game.n_local,
        n=n,
        horizon=resolve_horizon(game, horizon),
        rollouts=rollouts,
        seed=seed,
        learning=learning,
    )


def measure(game: Game, k: int, settings: Settings, report: Report = lambda _: None) -> Row:
    """Learn for polls of k and play; `report` hears what is being done."""
    report("compiling")
    _compile()
    began = time.perf_counter()
    solution = alternating_marl(
        game,
        k,
        settings.n,
        seed=settings.seed,
        progress=lambda _done, _total, text: report(text),
        **settings.learning.arguments(),
    )
    train_s = time.perf_counter() - began
    policy = solution.policy

    def play(memory: str) -> Played:
        report(f"playing with memory {memory}")

        def episodes(rollouts: int, *, record: bool) -> Rollouts:
            return rollout(
                game,
                policy,
                n=settings.n,
                k=k,
                horizon=settings.horizon,
                rollouts=rollouts,
                seed=settings.seed,
                memory=memory,
                record=record,
            )

        first = episodes(1, record=True).records
        assert first is not None  # noqa: S101 - record=True
        played = episodes(settings.rollouts, record=False)
        return Played(
            mean=played.mean,
            stderr=played.stderr,
            ci=played.interval(),
            mode_accuracy=played.mode_accuracy,
            memory=played.memory,
            episode=Episode(
                s_g=first.s_g[0].tolist(),
                shares=np.round(first.counts[0] / settings.n, 6).tolist(),
            ),
        )

    memoryless, belief = play("none"), play("auto")
    report("timing a sweep")
    states = game.n_global * grid_points(k, game.n_local)
    return Row(
        k=k,
        grid=policy.grid,
        start=str(policy.provenance.get("start", "")),
        sha256=policy.sha256,
        memoryless=memoryless,
        belief=belief,
        train_s=train_s,
        sweep_s=time_sweep(game, policy, k) if states <= MOST_STATES else None,
        states=states,
    )


@cache
def _code() -> str:
    """Return a short hash of the mathematics: rows of another version are not mixed with ours."""
    digest = hashlib.sha256()
    for path in sorted(Path(alternation.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _compile() -> None:
    """Learn once where that takes a moment, so that no compilation is timed."""
    alternating_marl(arena(horizon=1), 1, 2, grid=2, rounds=2, restarts=1)


def time_sweep(game: Game, policy: Policy, k: int) -> float:
    """Return the median wall time of an exact Bellman sweep on the grid of k agents, s."""
    surrogate = Surrogate(game, policy.pi_l, k)
    values = surrogate.sweep(np.zeros((surrogate.n_points, game.n_global)))[0]
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.1 and len(times) < 50):
        began = time.perf_counter()
        surrogate.sweep(values)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def on_this_machine(
    game: Game, ks: Sequence[int], settings: Settings, report: Report
) -> Iterator[Row]:
    """Yield the rows one after the other."""
    for k in ks:
        yield measure(game, k, settings, partial(_about, k, report))


def _about(k: int, report: Report, text: str) -> None:
    report(f"k={k}: {text}")


def engine(name: str) -> Callable[[Game, Sequence[int], Settings, Report], Iterator[Row]]:
    """Return what computes rows: `local`, or `ray` (one task per k)."""
    if name == "local":
        return on_this_machine
    if name == "ray":
        from kofn.launch.ray_engine import check_installed, on_ray

        check_installed()
        return on_ray
    raise InputError(f"unknown engine {name!r}; known are local, ray")


def sweep(
    game: Game,
    ks: Sequence[int],
    settings: Settings,
    folder: Path,
    *,
    engine_name: str = "local",
    fresh: bool = False,
) -> Sweep:
    """Compute the rows that the folder lacks, with a progress bar, and return all it then holds.

    Parameters
    ----------
    game, ks, settings
        What is swept; ks as from `parse_ks`.
    folder
        Made if it does not exist. Rows of the same settings are kept, those of others refused.
    engine_name
        See `engine`.
    fresh
        Forget what the folder holds.
    """
    compute = engine(engine_name)
    known = None if fresh else read(folder)
    if known is not None and known.settings != settings:
        raise InputError(
            f"{folder} holds a sweep with other settings: {_differ(known, settings)} "
            "(--fresh starts anew)"
        )
    rows = {row.k: row for row in known.rows} if known else {}
    missing = [k for k in ks if k not in rows]
    folder.mkdir(parents=True, exist_ok=True)

    def result() -> Sweep:
        return Sweep(settings=settings, rows=[rows[k] for k in sorted(rows)])

    with Progress("sweep", total=len(missing)) as progress:

        def report(text: str) -> None:
            progress.update(sum(k in rows for k in missing), text)

        for row in compute(game, missing, settings, report):
            rows[row.k] = row
            write(result(), folder)
            report(f"k={row.k} done")
    return result()


def _differ(known: Sweep, settings: Settings) -> str:
    old, new = msgspec.to_builtins(known.settings), msgspec.to_builtins(settings)
    old |= old.pop("learning")
    new |= new.pop("learning")
    changed = [f"{name} {old[name]}, not {new[name]}" for name in old if old[name] != new[name]]
    return "; ".join(changed)
