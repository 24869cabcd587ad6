# SPDX-License-Identifier: MIT
"""The result of the newest preflight: kept beside the robot's state, asked for by `arm`."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from kofn.hardware.kept_result import keep, kept
from kofn.hardware.limits_file import RobotLimits
from kofn.hardware.local_policy import PREFIX

FILE = "preflight.json"


class PreflightResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked when.

    Attributes
    ----------
    policy, local
        sha256 of the policy file, and of the local policy in it as robots hold it.
    limits
        What robots were compared with (`words`).
    utc
        ISO 8601.
    failed
        Lines in words.
    """

    ok: bool
    policy: str
    run: str
    utc: str
    local: str = ""
    limits: str = ""
    failed: list[str] = msgspec.field(default_factory=list)


def words(limits: RobotLimits) -> str:
    """Say the limits that a preflight compares poses with; equal words are equal limits."""
    fence = "none" if limits.geofence is None else [list(map(float, at)) for at in limits.geofence]
    out = [[list(map(float, at)) for at in polygon] for polygon in limits.keep_out]
    return f"v {limits.v:g} m/s, geofence {fence}, keep-outs {out}"


def write_preflight(folder: Path, result: PreflightResult) -> None:
    """Keep a result; raises `RunError` when the folder cannot be written."""
    keep(folder / FILE, result)


def preflight_objection(
    folder: Path, limits: RobotLimits | None = None, policies: Sequence[str] = ()
) -> str | None:
    """Say why no policy is known to be fit for this robot; None when one passed.

    Parameters
    ----------
    folder
        State folder.
    limits
        Those that the robot obeys now; None: not compared.
    policies
        Local policies that it may act by now; empty: none is known yet.
    """
    result = kept(folder / FILE, PreflightResult)
    if result is None:
        return "no policy has passed its preflight here: run kofn hw preflight RUN .. --host HOST"
    if not result.ok:
        return f"the preflight of {result.utc} failed: {'; '.join(result.failed)}"
    if limits is not None and words(limits) != result.limits:
        return (
            f"the limits are not those of the preflight of {result.utc}: "
            f"{words(limits)}, then {result.limits or 'unknown'}"
        )
    held = [policy.removeprefix(PREFIX) for policy in policies]
    if held and result.local not in held:
        return (
            f"the local policy in force, {held[0][:12]}, is not that of the preflight of "
            f"{result.utc}, {result.local[:12] or 'unknown'}"
        )
    return None
