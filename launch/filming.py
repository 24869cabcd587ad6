# SPDX-License-Identifier: MIT
"""The film of a run folder: poses from the hosts' logs, polled robots from the record."""

from collections.abc import Sequence
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.record import RunFolder, read_decisions
from kofn.launch.output import note
from kofn.launch.truth import read_truth


def film(folder: Path) -> Path | None:
    """Draw `video.mp4` of a run; None when no host logged poses or nothing can draw."""
    try:
        from kofn.sim.video import write_video
    except ImportError:  # Pillow comes with the extra `sim`
        return None
    try:
        read_truth(folder)
    except InputError as reason:  # no host logs, or damaged ones
        note(f"no film: {reason}")
        return None
    decisions = read_decisions(folder)
    polled = {decision.t: set(decision.asked) for decision in decisions}
    if not decisions:
        return None
    title = f"kofn: {len(decisions[0].asked)} of {decisions[0].frame} robots are polled per step"
    try:
        return write_video(folder, polled=polled, title=title)
    except OSError as error:
        raise RunError(f"cannot write the film in {folder}: {error.strerror}") from error


def compare(folders: Sequence[Path], path: Path) -> Path:
    """Draw several runs side by side into one film.

    Raises
    ------
    InputError
        A folder is no run, or has no poses.
    RunError
        The film could not be written, or nothing can draw.
    """
    try:
        import imageio.v2  # noqa: F401

        from kofn.sim.side_by_side import Panel, write_comparison
    except ImportError as error:
        raise RunError(f"a film needs kofn[sim]: {error}") from error
    panels = []
    for folder in folders:
        decisions = read_decisions(folder)
        polled = {decision.t: set(decision.asked) for decision in decisions}
        panels.append(Panel(folder, _title(folder), polled))
    written = write_comparison(panels, path)
    if written is None:
        raise RunError(f"the film {path} could not be written")
    return written


def _title(folder: Path) -> str:
    """Name of a run and who chose its targets."""
    summary = RunFolder(folder).read_summary() or {}
    name = folder.resolve().parent.name if folder.name == "control" else folder.resolve().name
    random = summary.get("dispatcher") == "random"
    how = "uniformly random" if random else f"k = {summary.get('k', '?')} polled"
    return f"{name}: {how}"
