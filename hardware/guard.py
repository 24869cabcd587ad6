# SPDX-License-Identifier: MIT
"""`HostGuard`: what a host agent tells the safety of its robots, and asks it at the start."""

from typing import Protocol


class HostGuard(Protocol):
    """Hears of epochs, halts and the link; `safety_task.Safety` is one."""

    @property
    def link_s(self) -> float:
        """Longest silence of the broker in which robots may move, seconds."""
        ...

    def floor(self) -> tuple[int, int]:
        """Highest epoch and highest halted epoch that are remembered; -1 for none."""
        ...

    def see_epoch(self, epoch: int) -> None:
        """Take the epoch of a live step or of the controller's presence."""
        ...

    def see_halt(self, epoch: int, by: str, why: str, *, live: bool) -> bool:
        """Obey a halt; return whether robots stopped for it."""
        ...

    def see_link(self, silence_s: float) -> None:
        """Take note of how long the broker was silent, seconds."""
        ...

    def take_troubles(self) -> list[str]:
        """Return faults and emergency stops since the last call, one sentence each."""
        ...
