# SPDX-License-Identifier: MIT
"""The echo self-test, which finds brokers that hold back small packets.

A sender with Nagle's algorithm sends the first of several small packets at once, and the others
when that is acknowledged, which the receiver's operating system delays by 40 ms. Two things hide
it now and then: the first packets of a connection are acknowledged at once, and so is a packet that
meets one on its way back. Hence several messages in a round, sent in one piece where the transport
can, and rounds until it is clear.

Pure: the rounds are made elsewhere.
"""

import statistics

MESSAGES = 5
"""Messages in one round."""

NAGLE_MS = (35.0, 60.0)
ENOUGH = 6
"""So many rounds between these are no accident where they are a tenth of all."""
LEAST, MOST = 24, 60
"""Rounds in which none, or hardly one, was like that; and rounds at most."""


class Echo:
    """Round trips so far."""

    def __init__(self) -> None:
        self._took_ms: list[float] = []

    def add(self, took_ms: float) -> None:
        """Add one round."""
        self._took_ms.append(took_ms)

    @property
    def _delayed(self) -> list[float]:
        least, most = NAGLE_MS
        return [took_ms for took_ms in self._took_ms if least <= took_ms <= most]

    @property
    def decided(self) -> bool:
        """Whether more rounds would tell nothing new."""
        rounds, delayed = len(self._took_ms), len(self._delayed)
        return delayed >= ENOUGH or rounds >= MOST or (rounds >= LEAST and delayed <= 1)

    @property
    def nagle(self) -> bool:
        """Whether packets are held back."""
        return len(self._delayed) >= max(ENOUGH, len(self._took_ms) // 10)

    @property
    def ms(self) -> float:
        """The usual round trip, or that of the delayed ones where packets are held back."""
        return statistics.median(self._delayed if self.nagle else self._took_ms)

    def __str__(self) -> str:
        said = f"echo_ms={self.ms:.2f}"
        if self.nagle:
            said += (
                ": the broker holds back small packets (Nagle's algorithm), which costs every poll "
                "round 40 ms; mosquitto: set_tcp_nodelay true"
            )
        return said
