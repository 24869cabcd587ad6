# SPDX-License-Identifier: MIT
"""A running fleet by its run folder, and what a roll-out leaves there.

<run>/policy-<sha256, 12 digits>.npz    the policy that was in force before
<run>/rollouts.jsonl                    one line a roll-out: its stages, how it ended, and why
"""

import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.order_box import Op, Order, send_order
from kofn.controller.record import Entry, RunFolder, RunReader
from kofn.hardware.limits_file import RobotLimits, read_limits
from kofn.hardware.ring import RingLayout
from kofn.launch.preflight import preflight

NOTES = "rollouts.jsonl"


class RunningFleet:
    """A run by its folder.

    Parameters
    ----------
    run
        Run folder of a controller on this machine.
    wait_s
        How long to wait for the answer to an order, wall seconds.
    """

    def __init__(self, run: Path, wait_s: float) -> None:
        self._folder, self._reader, self._wait_s = RunFolder(run), RunReader(run), wait_s

    def order(self, op: Op, hosts: Sequence[str] = (), *, file: str = "", why: str = "") -> None:
        """Give an order through the run folder."""
        order = Order(op=op, hosts=list(hosts), file=file, why=why[:200])
        answer = send_order(self._folder.path, order, timeout_s=self._wait_s)
        if not answer.ok:
            failed = "; ".join(f"{host}: {reason}" for host, reason in answer.hosts.items())
            raise RunError(f"{op}: {failed or answer.text}")

    def entries(self) -> Iterable[Entry]:
        """Read on in the record."""
        return self._reader.entries()

    def policy_sha256(self) -> str:
        """Look into the effective configuration."""
        return str(self._folder.read_config().get("run", {}).get("policy_sha256", ""))

    def over(self) -> bool:
        """Look for the summary."""
        return self._folder.read_summary() is not None


def keep_old(run: Path, policy: Policy) -> Path:
    """Copy the policy in force aside, for the run folder will hold the new one; return where."""
    path = run / f"policy-{policy.sha256[:12]}.npz"
    try:
        shutil.copyfile(run / "policy.npz", path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def check_policy(
    run: Path,
    new: Policy,
    old: Policy,
    simulated: Path | None,
    arena: str,
    limits: Path | None,
    *,
    force: bool,
) -> None:
    """Refuse a policy that must not be let loose, before any robot is told anything.

    Raises
    ------
    InputError
        It is for another game, or no simulated run of it was named.
    RunError
        The preflight against that run failed: the lines in words.
    """
    if new.pi_l.shape != old.pi_l.shape:
        raise InputError(f"the policy has pi_l of shape {new.pi_l.shape}, the run {old.pi_l.shape}")
    if force:
        return
    if simulated is None:
        raise InputError("name a simulated run of this policy (--simulated RUN), or --force")
    try:
        layout = msgspec.json.decode(arena.encode(), type=RingLayout)
    except msgspec.MsgspecError as error:
        raise InputError(f"--arena: {error}") from error
    steering = RunFolder(run).read_config().get("controller", {})
    own = RobotLimits() if limits is None else read_limits(limits)
    k, n = int(steering.get("k", 1)), int(steering.get("robots", 1))
    lines = preflight(simulated, new, layout, n=n, k=k, limits=own)
    failed = [f"{line.name}: {line.seen} ({line.hint})" for line in lines if not line.ok]
    if failed:
        raise RunError(f"preflight failed: {'; '.join(failed)}")


def note(run: Path, result: dict[str, Any]) -> None:
    """Append what became of a roll-out; a full disk does not undo it."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        with (run / NOTES).open("ab") as file:
            file.write(msgspec.json.encode({"utc": stamp, **result}) + b"\n")
    except OSError as error:
        raise RunError(f"cannot write {run / NOTES}: {error.strerror}") from error
