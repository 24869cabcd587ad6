# SPDX-License-Identifier: MIT
"""The film of a run folder: poses from the hosts' logs, polled robots from the record."""

from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.record import read_decisions
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
