# SPDX-License-Identifier: MIT
"""`kofn bench link`: poll rounds and broadcasts of a real controller and real hosts over a broker.

Each case starts a broker and host processes (`link_host`) and runs a control loop in this process,
with its record, limits, estimator and decisions; nothing is left out but the robots' bodies.

- poll: from the first poll message to the close of the round, as in `Decision.latency_ms`;
- broadcast: from the publication of a step until the last host has it (one machine, one clock).

The peers of a case are the same fleet with one poll message per robot (not batched), and with one
connection per robot.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kofn.controller.config import ControllerConfig
from kofn.controller.core.errors import InputError, RunError
from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.link.children import end_child, spawn_child
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.limits import Limits
from kofn.controller.link.messages import Poll, decode, encode
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Inbound, Outbound, Session
from kofn.controller.loop import ControlLoop
from kofn.controller.record import RunFolder
from kofn.controller.results import Decision, Summary
from kofn.launch.link_host import ACTIONS, ZONES, HostReport, HostSpec, RssLog
from kofn.launch.settling import settle

FLEET = "bench"
ROBOT_PROCESSES = 4
"""A fleet with one connection per robot is spread over so many processes."""
HOST_PROCESSES = os.cpu_count() or 1
"""All other hosts are spread over so many: they stand for machines that do not share ours."""
NAN = float("nan")
NO_LIMITS = Limits(replies_per_step=10**6, burst=10**6, overflows=10**6, messages_per_s=1e6)


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet of n robots behind `hosts` connections, of which k are polled in each of `rounds`."""

    n: int
    k: int
    hosts: int
    batched: bool = True
    rounds: int = 300
    period_s: float = 0.1
    warm_up: int = 20
    """Rounds before those that count."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return f"{self.n}/{self.hosts}" + ("" if self.batched else "/per-robot")


CASES = (
    Case(n=30, k=10, hosts=30, rounds=200),
    Case(n=30, k=10, hosts=3, batched=False, rounds=200),
    Case(n=30, k=10, hosts=3, rounds=200),
    Case(n=1000, k=50, hosts=1000, rounds=60, period_s=1.0),
    Case(n=1000, k=50, hosts=4, batched=False),
    Case(n=1000, k=50, hosts=4),
    Case(n=10_000, k=100, hosts=10, batched=False),
    Case(n=10_000, k=100, hosts=10),
)
QUICK = (
    Case(n=30, k=10, hosts=30, rounds=60, period_s=0.05),
    Case(n=30, k=10, hosts=3, batched=False, rounds=60, period_s=0.05),
    Case(n=30, k=10, hosts=3, rounds=60, period_s=0.05),
)


class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one case.

    `poll_ratio` is the poll p50 over that of the batched case of the same fleet in the same run;
    `missing` the share of robots asked that did not answer in time; `cpu_ms` the controller's
    processor time per round, `hosts_cpu_ms` that of all hosts together; `start_s` the time until
    the whole fleet was in the frame. A case that could not be measured has nan (null in JSON) for
    figures, and says why in `failed`.
    """

    broker: str
    n: int
    k: int
    hosts: int
    batched: bool
    rounds: int = 0
    poll_p50_ms: float = NAN
    poll_p99_ms: float = NAN
    broadcast_p50_ms: float = NAN
    broadcast_p99_ms: float = NAN
    cpu_ms: float = NAN
    hosts_cpu_ms: float = NAN
    missing: float = NAN
    skipped_ticks: int = 0
    start_s: float = NAN
    poll_ratio: float | None = None
    failed: str = ""


class TapTransport:
    """The controller's transport, with the times of its steps; may send polls robot by robot."""

    def __init__(self, inner: MqttTransport, steps: int, *, batched: bool) -> None:
        self._inner = inner
        self._batched = batched
        self._steps = 0
        self.sent_s = np.full(steps, 0.0)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send."""
        if topic.endswith("/step"):
            self.sent_s[self._steps] = time.monotonic()
            self._steps += 1
        elif not self._batched and "/poll/" in topic:
            poll = decode(Poll, payload)
            for robot in poll.ids:
                one = encode(msgspec.structs.replace(poll, ids=[robot]))
                self._inner.publish(topic, one, qos=qos, retain=retain)
            return True
        return self._inner.publish(topic, payload, qos=qos, retain=retain)

    def in_one_segment(self) -> AbstractContextManager[None]:
        """Send what is published meanwhile in one piece."""
        return self._inner.in_one_segment() if self._batched else nullcontext()

    def open(self, session: Session, timeout_s: float = 10.0) -> None:
        """Connect."""
        self._inner.open(session, timeout_s)

    def receive(self, timeout_s: float) -> Inbound | None:
        """Return the next message."""
        return self._inner.receive(timeout_s)

    def close(self, farewell: Sequence[Outbound] = ()) -> None:
        """Disconnect."""
        self._inner.close(farewell)

    @property
    def connected(self) -> bool:
        """Whether the session is up."""
        return self._inner.connected

    @property
    def statistics(self) -> dict[str, int]:
        """Counts since open."""
        return self._inner.statistics


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a case left behind."""

    broker: str
    summary: Summary
    latencies_ms: list[float]
    broadcasts_ms: list[float]
    missing: float
    short_rounds: int
    cpu_s: float
    start_s: float
    reports: list[HostReport]
    rss: list[tuple[float, float]]
    taken_by_all: int


def play(
    case: Case,
    *,
    broker: str = "auto",
    settings: dict[str, Any] | None = None,
    progress: Callable[[Decision], None] = lambda _: None,
) -> Outcome:
    """Run one case; `settings` replace those of the `ControllerConfig`."""
    names = [f"h{i}" for i in range(case.hosts)]
    sizes = [case.n // case.hosts + (i < case.n % case.hosts) for i in range(case.hosts)]
    users = [BrokerUser(name, f"secret-{name}", "host") for name in names]
    controller = BrokerUser("controller", "secret", "controller")
    chosen: dict[str, Any] = {
        "fleet": FLEET,
        "k": case.k,
        "steps": case.rounds + case.warm_up,
        "robots": case.n,
        "period_s": case.period_s,
        "poll_ttl_s": 0.9 * case.period_s,
        "waves": 1,
        "wait_s": 120.0,
    } | (settings or {})
    with ExitStack() as stack:
        workdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kofn-link-")))
        started = stack.enter_context(
            start_broker(broker, fleet=FLEET, users=[controller, *users], workdir=workdir / "b")
        )
        fleet = list(zip(names, sizes, (user.password for user in users), strict=True))
        processes = stack.enter_context(_hosts(case, started, fleet, workdir))
        steps = case.rounds + case.warm_up
        # Latency (ms), missing, asked. As large from the start as at the end: `link_soak` watches
        # the memory of this process.
        decisions = np.full((steps, 3), 0.0)
        complete_s: list[float] = []
        rss = RssLog()

        def note(decision: Decision) -> None:
            decisions[decision.t] = decision.latency_ms, decision.missing, len(decision.asked)
            rss.look()
            progress(decision)

        def at_start() -> None:
            complete_s.append(time.monotonic())
            settle()

        clock = MonotonicClock()
        began_s = time.monotonic()
        transport = TapTransport(
            MqttTransport(
                started.url, clock, username="controller", password=controller.password,
                protocol=started.protocol,
            ),
            steps,
            batched=case.batched,
        )  # fmt: skip
        loop = ControlLoop(
            ControllerConfig(**chosen),
            _policy(),
            transport,
            clock,
            RunFolder.create(workdir, "run"),
            1,
            progress=note,
            limits=None if case.batched else NO_LIMITS,
            at_start=at_start,
        )
        cpu_s = time.process_time()
        summary = loop.run()
        cpu_s = time.process_time() - cpu_s
        reports = [_report(process) for process in processes]
    arrived: dict[int, list[float]] = {}
    for report in reports:
        for t, at_s in report.steps:
            arrived.setdefault(t, []).append(at_s)
    complete = {t: max(at) for t, at in arrived.items() if len(at) == len(reports)}
    kept = decisions[case.warm_up :]
    return Outcome(
        broker=started.kind,
        summary=summary,
        latencies_ms=kept[:, 0].tolist(),
        broadcasts_ms=[
            1000 * (at_s - float(transport.sent_s[t]))
            for t, at_s in complete.items()
            if t >= case.warm_up
        ],
        missing=float(kept[:, 1].sum() / max(1.0, kept[:, 2].sum())),
        short_rounds=int((kept[:, 1] > 0).sum()),
        cpu_s=cpu_s,
        start_s=complete_s[0] - began_s,
        reports=reports,
        rss=rss.rows,
        taken_by_all=len(complete),
    )


def measure(
    cases: Sequence[Case], *, broker: str = "auto", progress: Callable[[int, str], None]
) -> list[LinkRow]:
    """Run cases one after the other; rows in the same order, with ratios where a peer is there.

    A case that fails is a row that says why; the others are measured all the same.
    """
    rows: list[LinkRow] = []
    for case in cases:
        try:
            row = _row(case, play(case, broker=broker))
        except (RunError, OSError) as error:
            row = LinkRow(
                broker=broker,
                n=case.n,
                k=case.k,
                hosts=case.hosts,
                batched=case.batched,
                failed=str(error),
            )
        rows.append(row)
        progress(len(rows), case.name)
    base = {
        row.n: row.poll_p50_ms
        for row in rows
        if row.batched and row.hosts < row.n and not row.failed
    }
    return [
        msgspec.structs.replace(row, poll_ratio=round(row.poll_p50_ms / base[row.n], 2))
        if row.n in base and not row.failed
        else row
        for row in rows
    ]


def _row(case: Case, outcome: Outcome) -> LinkRow:
    return LinkRow(
        broker=outcome.broker,
        n=case.n,
        k=case.k,
        hosts=case.hosts,
        batched=case.batched,
        rounds=len(outcome.latencies_ms),
        poll_p50_ms=percentile(outcome.latencies_ms, 50),
        poll_p99_ms=percentile(outcome.latencies_ms, 99),
        broadcast_p50_ms=percentile(outcome.broadcasts_ms, 50),
        broadcast_p99_ms=percentile(outcome.broadcasts_ms, 99),
        cpu_ms=round(1000 * outcome.cpu_s / max(1, outcome.summary.steps), 3),
        hosts_cpu_ms=round(
            1000 * sum(host.cpu_s for host in outcome.reports) / max(1, outcome.summary.steps), 3
        ),
        missing=round(outcome.missing, 5),
        skipped_ticks=outcome.summary.skipped_ticks,
        start_s=round(outcome.start_s, 2),
    )


def select(names: Sequence[str], *, quick: bool) -> tuple[Case, ...]:
    """Return the cases called `names`, all of them when there are none.

    Raises
    ------
    InputError
        There is no case of that name.
    """
    cases = QUICK if quick else CASES
    known = [case.name for case in cases]
    for name in names:
        if name not in known:
            raise InputError(f"no case {name!r}; known are {', '.join(known)}")
    return tuple(case for case in cases if not names or case.name in names)


def table(rows: Sequence[LinkRow]) -> list[str]:
    """Return lines for people."""
    lines = [
        "     n    k  hosts  polls        poll p50 / p99 ms   ratio  broadcast p50 / p99 ms  "
        "controller / hosts ms a round"
    ]
    for row in rows:
        polls = "per host" if row.batched else "per robot"
        if row.failed:
            lines.append(f"{row.n:6d} {row.k:4d} {row.hosts:6d}  {polls:9s} failed: {row.failed}")
            continue
        ratio = "-" if row.poll_ratio is None else f"{row.poll_ratio:.2f}"
        lines.append(
            f"{row.n:6d} {row.k:4d} {row.hosts:6d}  {polls:9s} {row.poll_p50_ms:10.2f} / "
            f"{row.poll_p99_ms:6.2f} {ratio:>7s} {row.broadcast_p50_ms:11.2f} / "
            f"{row.broadcast_p99_ms:7.2f} {row.cpu_ms:12.2f} / {row.hosts_cpu_ms:.2f}"
        )
    return lines


def _policy() -> Policy:
    """A policy that holds its target; what it decides is not measured here."""
    table = np.zeros((ZONES, 126), dtype=np.int64)  # C(5 + 4, 4) cells on grid 5
    return Policy(arena(), 5, table, np.full((ZONES, ZONES, ACTIONS), 1 / ACTIONS))


@contextmanager
def _hosts(
    case: Case, broker: Broker, fleet: list[tuple[str, int, str]], workdir: Path
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start the host processes; they end with this block."""
    per_robot = case.hosts == case.n
    processes_wanted = min(case.hosts, ROBOT_PROCESSES if per_robot else HOST_PROCESSES)
    groups = [fleet[i::processes_wanted] for i in range(processes_wanted)]
    processes: list[subprocess.Popen[bytes]] = []
    log = (workdir / "hosts.log").open("wb")
    try:
        for group in groups:
            process = spawn_child(
                [sys.executable, "-m", "kofn.launch.link_host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            processes.append(process)
            spec = HostSpec(
                url=broker.url,
                protocol=broker.protocol,
                fleet=FLEET,
                hosts=group,
                period_s=case.period_s,
                steps=case.rounds + case.warm_up,
                one_thread=per_robot,
            )
            assert process.stdin is not None  # noqa: S101
            process.stdin.write(msgspec.json.encode(spec) + b"\n")
            process.stdin.flush()
        yield processes
    finally:
        log.close()
        for process in processes:
            end_child(process)


def _report(process: "subprocess.Popen[bytes]") -> HostReport:
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=60)
        return msgspec.json.decode(output, type=HostReport)
    except (subprocess.TimeoutExpired, msgspec.MsgspecError) as error:
        raise RunError(f"a host of the benchmark did not report: {error}") from error


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile to the microsecond, for milliseconds; nan of nothing."""
    return round(float(np.percentile(values, percent)), 3) if values else float("nan")
