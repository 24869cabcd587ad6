# SPDX-License-Identifier: MIT
"""How long a fleet is not steered after `kill -9` of its broker, which is started again at once.

    python benchmarks/bench_broker_loss.py [--repeats 5] [--json] [--quick]

Real processes on loopback: mosquitto, a host of 20 robots in a finite world, a controller in real
time (a step each 0.3 s). Measured from the kill to the first decision after it with all k fresh
answers. Most of it is the wait before clients connect again: 1 s, twice as long after each failed
try, and jitter, so that a large fleet does not come back all at once.
"""

import secrets
import tempfile
import time
from pathlib import Path

from bench_resume import FLEET, HOST, Wire, wait_for_steps
from measuring import parser, report

from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.record import read_run
from kofn.controller.results import Decision
from kofn.launch.parts import write_credentials

ROBOTS, K, PERIOD_S = 20, 5, 0.3
STEPS_BETWEEN = 5
GIVE_UP_S = 120.0


def whole_after(folder: Path, since_ns: int) -> list[int]:
    """When decisions after `since_ns` with k fresh answers were recorded, wall ns."""
    return [
        entry.time_ns
        for entry in read_run(folder)
        if isinstance(entry.message, Decision)
        and entry.time_ns > since_ns
        and entry.message.m[0] == K
    ]


def kill(broker: Broker) -> int:
    """`kill -9`; return when, wall ns."""
    if broker.process is None:
        raise SystemExit("this measures a broker of our own")
    broker.process.kill()
    killed_ns = time.time_ns()
    broker.process.wait()
    return killed_ns


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__).parse_args()
    users = [BrokerUser(HOST, secrets.token_urlsafe(18), "host")]
    users.append(BrokerUser("controller", secrets.token_urlsafe(18), "controller"))
    with tempfile.TemporaryDirectory(prefix="kofn-broker-") as name:
        home = Path(name)
        run = home / "run"
        run.mkdir()
        Policy.uniform(arena(), 5).save(home / "policy.npz")
        for user in users:
            write_credentials(home / f"{user.name}.json", user.name, user.password)

        def start(port: int | None = None) -> Broker:
            return start_broker(
                "mosquitto", fleet=FLEET, users=users, workdir=home / "broker", port=port
            )

        broker = start()
        port = int(broker.url.rpartition(":")[2])
        wire = Wire(broker, home)
        time_options = ("--fleet", FLEET, "--period", repr(PERIOD_S))
        processes = [
            wire.start(
                *("swarm", HOST, *time_options, "--host", HOST, "--robots", str(ROBOTS)),
                *("--world", "finite", "--pace", "realtime"),
            ),
            wire.start(
                *("controller", "controller", *time_options, "--folder", str(run)),
                *("--policy", str(home / "policy.npz"), "--k", str(K), "--robots", str(ROBOTS)),
                *("--steps", "1000000", "--wait", "600"),
            ),
        ]
        took, up = [], []
        try:
            wait_for_steps(run, STEPS_BETWEEN)
            for _ in range(1 if arguments.quick else arguments.repeats):
                killed_ns = kill(broker)
                broker = start(port)
                up.append((time.time_ns() - killed_ns) / 1e9)
                deadline = time.monotonic() + GIVE_UP_S
                while len(found := whole_after(run, killed_ns)) < STEPS_BETWEEN:
                    if time.monotonic() > deadline:
                        raise SystemExit(f"the fleet was not steered within {GIVE_UP_S:g} s")
                    time.sleep(0.05)
                took.append((found[0] - killed_ns) / 1e9)
        finally:
            for process in processes:
                process.terminate()
                process.wait()
            broker.close()
    took.sort()
    row: dict[str, float | int | str | None] = {
        "broker": broker.kind,
        "robots": ROBOTS,
        "k": K,
        "repeats": len(took),
        "broker_up_s": sorted(up)[len(up) // 2],
        "median_s": took[len(took) // 2],
        "largest_s": took[-1],
    }
    report("kill -9 of the broker to the first step with k answers", [row], as_json=arguments.json)


if __name__ == "__main__":
    main()
