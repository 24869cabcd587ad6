# SPDX-License-Identifier: MIT
"""Who took part in a run, by the kind of host: steps, answers, motion, incidents.

| figure | of a kind's hosts |
|---|---|
| hosts, robots | how many |
| steps_taken | share of the run's steps that a host took |
| available | share of (robot, step) in which the robot could take part |
| changed_zone | robots that were in more than one zone |
| asked, answered | polls of its robots; those with an answer to the same step that names a zone |
| events | diagnostics that its hosts sent, by code |
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from kofn.controller.link.messages import Event, Reply
from kofn.controller.record import read_run
from kofn.controller.results import Decision
from kofn.launch.scenario import Scenario
from kofn.launch.truth import read_steps


def by_kind(folder: Path, scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Return the figures of the module's table, for each kind of host of a run."""
    kind_of = {host.name: host.kind for host in scenario.hosts}
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    events: dict[str, Counter[str]] = defaultdict(Counter)
    replies: dict[int, set[str]] = defaultdict(set)
    steps = 0
    for entry in read_run(folder):
        message = entry.message
        if isinstance(message, Reply):
            replies[message.t] |= {row.id for row in message.r if row.z is not None}
        elif isinstance(message, Event):
            events[kind_of.get(entry.host, entry.host)][message.code] += message.n
        elif isinstance(message, Decision):
            steps += 1
            for robot in (*message.asked, *message.asked_instead):
                kind = kind_of.get(robot.rsplit(".", 1)[0], "")
                asked[kind] += 1
                answered[kind] += robot in replies[message.t]
            replies = defaultdict(set, {t: ids for t, ids in replies.items() if t > message.t})
    found: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(kind_of.values()):
        hosts = [host for host in scenario.hosts if host.kind == kind]
        taken = available = changed = 0
        robots = sum(host.robots for host in hosts)
        for host in hosts:
            log = read_steps(folder / "hosts" / f"{host.name}.jsonl")
            if log is None:
                continue
            taken += len({step.t for step in log.steps})
            if log.header.robots:  # else its steps are counts
                zones = [set(z) - {-1} for z in zip(*(step.z for step in log.steps), strict=True)]
                available += sum(z >= 0 for step in log.steps for z in step.z)
                changed += sum(len(seen) > 1 for seen in zones)
        found[kind] = {
            "hosts": len(hosts),
            "robots": robots,
            "steps_taken": round(taken / max(1, steps * len(hosts)), 4),
            "available": round(available / max(1, steps * robots), 4),
            "changed_zone": changed,
            "asked": asked[kind],
            "answered": answered[kind],
            "events": dict(events[kind]),
        }
    return found
