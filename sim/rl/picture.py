# SPDX-License-Identifier: MIT
"""The picture of an environment: the arena from above, as in our films, or bars per state.

A world with poses whose targets are zones is drawn by `kofn.sim.draw`; anything else as the share
of agents in each local state, the target's in colour where targets are states.
"""

import numpy as np
import numpy.typing as npt

from kofn.controller.core.errors import RunError
from kofn.hardware.arena import layout_of_header
from kofn.sim.rl.fleets import CountedFleet, WorldFleet
from kofn.sim.world import IntArray

WIDTH, HEIGHT = 640, 360
_MARGIN = 40
_INK, _PAPER, _BAR, _TARGET = "#1a1a1a", "#ffffff", "#9aa0a6", "#00845c"

Picture = npt.NDArray[np.uint8]


class Painter:
    """Draws an episode; `targets_are_states` says whether s_g names a local state."""

    def __init__(self, targets_are_states: bool) -> None:
        self._marks = targets_are_states
        self._history: list[tuple[float, int]] = []

    def begin(self) -> None:
        """Forget the last episode."""
        self._history = []

    def note(self, counts: IntArray, s_g: int) -> None:
        """Remember the share in the target, for the curve under the arena."""
        inside = int(counts[s_g]) if self._marks else 0
        self._history.append((inside / max(int(counts.sum()), 1), s_g))

    def draw(self, fleet: CountedFleet | WorldFleet, step: int, s_g: int, horizon: int) -> Picture:
        """Return the picture of this instant, shape (height, width, 3).

        Raises
        ------
        RunError
            Pillow is missing.
        """
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise RunError("a picture needs Pillow: pip install 'kofn[rl]'") from error
        if isinstance(fleet, WorldFleet) and self._marks:
            seen = self._seen_from_above(fleet, step, s_g, horizon)
            if seen is not None:
                return seen
        return _bars(fleet.counts, step, s_g if self._marks else -1)

    def _seen_from_above(
        self, fleet: WorldFleet, step: int, s_g: int, horizon: int
    ) -> Picture | None:
        from kofn.sim.draw import draw_frame
        from kofn.sim.film import ArenaView, Moment, Scene

        spec, now = fleet.world.spec, fleet.snapshot
        layout = layout_of_header(spec.arena)
        if now.poses is None or layout is None:
            return None
        view = ArenaView(spec.backend, layout, now.poses, fleet.actions, now.up, fleet.polled)
        curve = [(i * spec.period_s, share) for i, (share, _) in enumerate(self._history)]
        changes = [
            (i * spec.period_s, target)
            for i, (_, target) in enumerate(self._history)
            if i == 0 or target != self._history[i - 1][1]
        ]
        title = f"{spec.n} robots, step {step} of {horizon}"
        scene = Scene(title, horizon * spec.period_s, curve, changes)
        frame = draw_frame(scene, Moment(step * spec.period_s, step, s_g, (view,)))
        return np.asarray(frame, dtype=np.uint8)


def _bars(counts: IntArray, step: int, target: int) -> Picture:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    pen = ImageDraw.Draw(image)
    total = max(int(counts.sum()), 1)
    pen.text((_MARGIN, 12), f"step {step}: {total} agents, share in each state", _INK)
    across, floor = (WIDTH - 2 * _MARGIN) / counts.size, HEIGHT - _MARGIN
    for j, count in enumerate(counts.tolist()):
        share = count / total
        left = _MARGIN + (j + 0.1) * across
        right = max(left, left + 0.8 * across)
        top = floor - share * (floor - _MARGIN)
        pen.rectangle([left, top, right, floor], fill=_TARGET if j == target else _BAR)
        pen.text((left, top - 14), f"{100 * share:.0f} %", _INK)
        pen.text((left, floor + 6), str(j), _INK)
    pen.line([_MARGIN, floor, WIDTH - _MARGIN, floor], fill=_INK)
    return np.asarray(image, dtype=np.uint8)
