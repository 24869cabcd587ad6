# SPDX-License-Identifier: MIT
"""Where a run that was cut off can go on: its last decision, found in `run.mcap`.

The new controller takes the next epoch, the same policy, seed and settings, the belief of the last
decision and the step after it; targets and samples of step t are drawn from (seed, t), so they are
the ones that the cut-off run would have drawn. A step that was published without coming to a
decision is played again under the new epoch. Robots have moved in it, so the belief is moved on by
it too. What robots were last seen doing, and the answer rates, start anew: they fill within steps.

The new run has a folder of its own and names the old one; that stays as it was left.
"""

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import msgspec

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError
from kofn.controller.core.policy import Policy
from kofn.controller.link.messages import Step
from kofn.controller.record import RunFolder
from kofn.controller.results import Checkpoint, Decision

_MAGIC_BYTES = 8
_HEAD = struct.Struct("<BQ")  # opcode, length of what follows
_CHANNEL_OP, _MESSAGE_OP = 0x04, 0x05
_MESSAGE_HEAD_BYTES = 22  # channel, sequence, two times


class _Tail(NamedTuple):
    """The last decision or checkpoint of a record, and the steps after it, as JSON."""

    kind: str
    last: bytes
    steps: list[bytes]


def read_settings(folder: Path) -> tuple[ControllerConfig, Policy]:
    """Return the settings and the policy of a run.

    Raises
    ------
    InputError
        `folder` is not a run folder, or was cut off before its settings were complete.
    """
    run = RunFolder(folder)
    table = run.read_config().get("controller")
    if table is None:
        raise InputError(f"{folder} has no settings of a controller in its config.toml")
    try:
        config = msgspec.convert(table, ControllerConfig)
    except msgspec.ValidationError as error:
        raise InputError(f"{folder}/config.toml: {error}") from None
    return config, Policy.load(run.policy)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return from where the run in `folder` can go on.

    Raises
    ------
    InputError
        It is not a run folder, its record is damaged, the run has ended by itself, or it was cut
        off before its first decision.
    """
    run = RunFolder(folder)
    tables = run.read_config()
    summary = run.read_summary()
    if summary is not None and summary.get("completed"):
        raise InputError(f"run {folder} is complete: there is nothing to resume")
    tail = _read_tail(run.record)
    if tail is None:
        raise InputError(f"run {folder} ended before its first decision: start it anew")
    try:
        steps = [msgspec.json.decode(step, type=Step) for step in tail.steps]
        if tail.kind == "decision":
            last = msgspec.json.decode(tail.last, type=Decision)
            base = Checkpoint(
                run=folder.name,
                ep=last.ep,
                t=last.t,
                g=last.g,
                u=last.u,
                belief=last.belief,
                m=last.m,
                frame=last.frame,
                repeats=0,
                seed=tables["controller"]["seed"],
                policy_sha256=tables["run"]["policy_sha256"],
            )
        else:
            base = msgspec.json.decode(tail.last, type=Checkpoint)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{folder} cannot be resumed, its record is damaged: {error}") from error
    again = [step for step in steps if step.t == base.t + 1]
    return msgspec.structs.replace(
        base,
        run=folder.name,
        ep=max([base.ep, *(step.ep for step in steps)]),
        repeats=base.repeats + len(again),
    )


def _read_tail(path: Path) -> _Tail | None:
    """Find the last decision or checkpoint without decoding what comes before it."""
    if not path.is_file():
        raise InputError(f"{path.parent} is not a run folder: it has no run.mcap")
    if path.stat().st_size <= _MAGIC_BYTES:
        return None
    channels: dict[int, str] = {}
    tail: _Tail | None = None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, size = _MAGIC_BYTES, len(data)
        while at + _HEAD.size <= size:
            opcode, length = _HEAD.unpack_from(data, at)
            begin = at + _HEAD.size
            at = begin + length
            if at > size:
                break  # torn: the process was killed while it wrote
            if opcode == _CHANNEL_OP:
                (topic_bytes,) = struct.unpack_from("<I", data, begin + 4)
                topic = data[begin + 8 : begin + 8 + topic_bytes].decode("utf-8", "replace")
                channels[data[begin] + 256 * data[begin + 1]] = topic.removeprefix("/")
            elif opcode == _MESSAGE_OP and length > _MESSAGE_HEAD_BYTES:
                kind = channels.get(data[begin] + 256 * data[begin + 1])
                if kind in {"decision", "checkpoint"}:
                    tail = _Tail(kind, data[begin + _MESSAGE_HEAD_BYTES : at], [])
                elif kind == "step" and tail is not None:
                    tail.steps.append(data[begin + _MESSAGE_HEAD_BYTES : at])
    return tail
