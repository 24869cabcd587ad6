# SPDX-License-Identifier: MIT
"""How much one host may say: token buckets, and quarantine for whoever goes on regardless.

A login proves who a host is, not that it behaves. Each kind of message has a bucket per host with
`burst` tokens that fills at a rate; a message takes one token, and is refused when there is none.

| kind | rate | burst |
|---|---|---|
| rep, done | `replies_per_step` a step | twice that |
| conn, roster, ack, evt | `messages_per_s` a second | `burst` |

Two things put a host into quarantine, where nothing from it counts: refusals (a bucket of
`overflows`, filled within `window_s`), and `conflicts` different answers to one question. After
`quarantine_s` it starts afresh.

Pure: the clock is injected, nothing is sent or logged here.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kofn.controller.link.clock import Clock

Verdict = Literal["ok", "overflow", "quarantined"]

_PER_STEP = frozenset({"rep", "done"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one host; `hosts` is how many are told apart. Durations in fleet seconds."""

    replies_per_step: int = 4
    messages_per_s: float = 1.0
    burst: int = 10
    overflows: int = 20
    window_s: float = 60.0
    conflicts: int = 3
    quarantine_s: float = 600.0
    hosts: int = 20_000


class TokenBucket:
    """A budget of `burst` that refills at `rate` per unit of whatever axis `at` is on."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, burst: float, rate: float, at: float) -> None:
        self._burst, self._rate = burst, rate
        self._tokens, self._at = burst, at

    def take(self, at: float) -> bool:
        """Take one token at position `at`, which never goes back; False when there is none."""
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, at - self._at))
        self._at = max(self._at, at)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Quarantine(NamedTuple):
    """A host whose messages do not count for a while, and why (the end of a sentence)."""

    host: str
    why: str


@dataclass(slots=True)
class _Account:
    """What is kept of one host."""

    overflows: TokenBucket
    buckets: dict[str, TokenBucket] = field(default_factory=dict)
    conflicts: int = 0
    quarantined_until_s: float | None = None


class HostGate:
    """Admits or refuses messages by host and kind.

    Parameters
    ----------
    clock
        Fleet seconds.
    limits
        Of each host.
    """

    def __init__(self, clock: Clock, limits: Limits | None = None) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._step = 0
        self._accounts: dict[str, _Account] = {}
        self._new: list[Quarantine] = []

    def new_step(self) -> None:
        """Note that a step was published: each host may answer it."""
        self._step += 1

    def admit(self, host: str, kind: str) -> Verdict:
        """Whether a message of topic kind `kind` ("rep", "evt", ..) from `host` counts."""
        now_s = self._clock.now()
        account = self._account(host, now_s)
        if account is None:
            return "overflow"
        if account.quarantined_until_s is not None:
            return "quarantined"
        limits = self._limits
        per_step = kind in _PER_STEP
        at = float(self._step) if per_step else now_s
        bucket = account.buckets.get(kind)
        if bucket is None:
            burst = 2 * limits.replies_per_step if per_step else limits.burst
            rate = limits.replies_per_step if per_step else limits.messages_per_s
            bucket = account.buckets[kind] = TokenBucket(burst, rate, at)
        if bucket.take(at):
            return "ok"
        if not account.overflows.take(now_s):
            self._isolate(host, account, f"it sent too many messages of kind {kind}", now_s)
        return "overflow"

    def conflict(self, host: str) -> None:
        """Count two different answers of a host to one question."""
        now_s = self._clock.now()
        account = self._account(host, now_s)
        if account is None or account.quarantined_until_s is not None:
            return
        account.conflicts += 1
        if account.conflicts >= self._limits.conflicts:
            why = f"it answered {account.conflicts} questions in two different ways"
            self._isolate(host, account, why, now_s)

    def is_quarantined(self, host: str) -> bool:
        """Whether messages from `host` count for nothing now."""
        known = host in self._accounts
        account = self._account(host, self._clock.now()) if known else None
        return account is not None and account.quarantined_until_s is not None

    def release(self, host: str) -> None:
        """Let a host start afresh."""
        self._accounts.pop(host, None)

    def take_quarantined(self) -> list[Quarantine]:
        """Return hosts put into quarantine since the last call."""
        new, self._new = self._new, []
        return new

    def _account(self, host: str, now_s: float) -> _Account | None:
        """The account of a host, made when needed; None when there are too many."""
        account = self._accounts.get(host)
        if account is not None:
            until_s = account.quarantined_until_s
            if until_s is None or now_s < until_s:
                return account
        elif len(self._accounts) >= self._limits.hosts:
            return None
        limits = self._limits
        overflows = TokenBucket(limits.overflows, limits.overflows / limits.window_s, now_s)
        account = self._accounts[host] = _Account(overflows)
        return account

    def _isolate(self, host: str, account: _Account, why: str, now_s: float) -> None:
        account.quarantined_until_s = now_s + self._limits.quarantine_s
        account.buckets.clear()
        self._new.append(Quarantine(host, why))
