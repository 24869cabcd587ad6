# SPDX-License-Identifier: MIT
"""`kofn replay --verify`: build each host's world again, give it the same commands, compare.

A host's log holds what its world was built from, and every command with the world time at which it
was given. The commands are applied to a new world; then, row by row, these must be the same:

- the digest of the exact state (zones, availability, poses to the last bit) at each step;
- the logged poses;
- every incident: faults that began or ended, steps that robots did not hear, lost answers.

Worlds share nothing, so the number of processes they are rebuilt in changes nothing. Equality to
the last bit holds on one machine with the same versions; across kinds of processors it is not
promised.
"""

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import numpy as np

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.hostlog import Header, HostLogRow, Incident, Poses, StepTaken
from kofn.launch.parts import robot_names
from kofn.launch.seeds import named_seed
from kofn.launch.swarm_host import SwarmConfig, make_injector, make_swarm
from kofn.launch.truth import read_rows
from kofn.sim.bank import WorldBank
from kofn.sim.injector import Injector
from kofn.sim.quiet import quiet_stdout

KERNEL = "motion.npz"
"""The motion of finite worlds that have no kernel of their own, in the run folder."""


class HostCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one host: steps and rows compared, and the first difference, if any.

    `skipped` says why a host could not be replayed; it is then neither the same nor different.
    """

    host: str
    steps: int = 0
    rows: int = 0
    difference: str = ""
    skipped: str = ""


class _Rows:
    """Stands for a host log: keeps what a bank writes."""

    def __init__(self) -> None:
        self.rows: list[HostLogRow] = []

    def write(self, row: HostLogRow) -> None:
        """Keep one row."""
        self.rows.append(row)

    def close(self) -> None:
        """Do nothing: nothing is open."""


def verify(folder: Path, *, workers: int = 1) -> list[HostCheck]:
    """Replay every simulated host of a run, and of its control; return what came of each.

    Parameters
    ----------
    folder
        A run folder.
    workers
        Processes to replay in.

    Raises
    ------
    InputError
        There are no host logs, or one of them is damaged.
    """
    if workers < 1:
        raise InputError(f"{workers} workers, at least 1 is needed")
    logs = sorted(folder.glob("hosts/*.jsonl")) + sorted(folder.glob("control/hosts/*.jsonl"))
    if not logs:
        raise InputError(f"{folder} has no host logs to replay")
    if workers == 1 or len(logs) == 1:
        return [verify_host(path) for path in logs]
    with ProcessPoolExecutor(min(workers, len(logs)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(verify_host, logs))


def verify_host(path: Path) -> HostCheck:
    """Replay one host from its log."""
    rows = list(read_rows(path))
    header = rows[0] if rows else None
    if not isinstance(header, Header):
        raise InputError(f"{path} is not a host log: its first line is no header")
    if not header.config:
        return HostCheck(host=header.host, skipped=f"backend {header.backend} is no simulation")
    if any(row.w for row in rows if isinstance(row, StepTaken)):
        return HostCheck(host=header.host, skipped="its log holds counts, not robots")
    try:
        config = msgspec.convert(header.config, SwarmConfig)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{path}: cannot build its world: {error}") from error
    if config.world == "finite" and not Path(config.kernel).exists():  # the folder was moved
        beside = path.parent.parent / KERNEL
        config = msgspec.structs.replace(config, kernel=str(beside))
    with quiet_stdout():
        return _compare(header, config, rows[1:])


def _compare(header: Header, config: SwarmConfig, rows: list[HostLogRow]) -> HostCheck:
    kept, injector = _Rows(), make_injector(config)
    bank = WorldBank(
        make_swarm(msgspec.structs.replace(config, gui=False)),
        robot_names(config.host, config.robots),
        seed=named_seed(config.seed, "world", config.host),
        pace="lockstep",
        clock=FakeClock(),
        log=kept,
        host=config.host,
        injector=injector,
    )
    recorded = [row for row in rows if _is_compared(row)]
    steps = [row for row in rows if isinstance(row, StepTaken)]
    bank.open()
    try:
        done, difference = _replay(bank, injector, rows)
        if not difference:
            while len(_compared(kept.rows)) < len(recorded) and bank.advance():
                pass
            bank.read()  # notes robots that went out of play in the last option
            difference = _first_difference(recorded, _compared(kept.rows))
    finally:
        bank.close()
    if difference and header.versions != bank.versions:
        difference += f"; recorded with {header.versions}, replayed with {bank.versions}"
    return HostCheck(
        host=header.host,
        steps=min(done, len(steps)),
        rows=len(recorded),
        difference=difference,
    )


def _replay(bank: WorldBank, injector: Injector | None, rows: list[HostLogRow]) -> tuple[int, str]:
    """Give the commands of a log to a bank; return the steps done and the first difference."""
    lost: dict[int, list[int]] = {}
    for row in rows:
        if isinstance(row, Incident) and row.kind == "answer_lost":
            lost.setdefault(row.t, []).append(row.i)
    done = 0
    now_s = 0.0
    for row in rows:
        if not isinstance(row, StepTaken):
            continue
        while now_s < row.time_s - 1e-6:
            bank.advance()
            before_s, now_s = now_s, bank.time_s
            if now_s <= before_s:
                return done, f"step {row.t} came at {row.time_s:g} s, after the option's end"
        bank.see_step(row.t, row.g)
        if row.x and bank.read().digest != row.x:
            where = f"step {row.t} (world time {row.time_s:g} s)"
            return done, f"at {where} the exact state is another one"
        bank.apply(np.array(row.a, dtype=np.int64))
        if injector is not None and not all(injector.silent()[i] for i in lost.get(row.t, [])):
            return done, f"an answer of step {row.t} that was lost is not lost again"
        done += 1
    return done, ""


def _is_compared(row: HostLogRow) -> bool:
    # What the wire did to answers is compared step by step, for it depends on who was polled.
    return isinstance(row, Poses) or (
        isinstance(row, Incident) and row.kind not in {"answer_lost", "cut_off"}
    )


def _compared(rows: Iterable[HostLogRow]) -> list[HostLogRow]:
    return [row for row in rows if _is_compared(row)]


def _first_difference(recorded: list[HostLogRow], replayed: list[HostLogRow]) -> str:
    for old, new in zip(recorded, replayed, strict=False):
        if old != new and isinstance(old, Poses | Incident):
            kind = "poses" if isinstance(old, Poses) else f"incident {old.kind!r} ({old.text})"
            return f"the {kind} at world time {old.time_s:g} s are not repeated"
    if len(replayed) < len(recorded):
        return f"{len(recorded) - len(replayed)} rows at the end are not repeated"
    return ""


def check(results: list[HostCheck]) -> None:
    """Raise `RunError` when a host differs."""
    for result in results:
        if result.difference:
            raise RunError(f"host {result.host} does not replay: {result.difference}")
