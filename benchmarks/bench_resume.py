# SPDX-License-Identifier: MIT
"""How long a fleet is without a controller: from `kill -9` to the first new step with --resume.

    python benchmarks/bench_resume.py [--repeats 5] [--json] [--quick]

Real processes on loopback: a broker, a PyBullet host, a controller that is killed in the middle of
its run and started again at once. Most of the time is the start of Python.
"""

import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import parser, report

from kofn.controller.core.policy import Policy
from kofn.controller.core.presets import arena
from kofn.controller.link.broker import Broker, BrokerUser, start_broker
from kofn.controller.record import read_decisions, read_run
from kofn.launch.parts import write_credentials

FLEET, HOST, ROBOTS, K = "resume", "sim", 20, 5
KILLED_AFTER_STEPS, MORE_STEPS = 5, 30
GIVE_UP_S = 60.0


class Wire:
    """Starts processes of ours on a broker, with everything in one folder."""

    def __init__(self, broker: Broker, home: Path) -> None:
        self._broker = broker
        self._home = home

    def start(self, verb: str, user: str, *options: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "kofn.launch", verb, *options),
            *("--broker", self._broker.url, "--mqtt", self._broker.protocol),
            *("--credentials", str(self._home / f"{user}.json")),
        ]
        return subprocess.Popen(command, cwd=self._home, stdout=subprocess.DEVNULL)


def wait_for_steps(folder: Path, steps: int) -> None:
    """Wait until so many steps of a run are decided."""
    deadline = time.monotonic() + GIVE_UP_S
    while not (folder / "run.mcap").exists() or len(read_decisions(folder)) < steps:
        if time.monotonic() > deadline:
            raise SystemExit(f"{folder} made no {steps} steps within {GIVE_UP_S:g} s")
        time.sleep(0.02)


def measure(wire: Wire, home: Path, number: int) -> float:
    """Kill a controller and start the next; return the seconds without one."""
    old, new = home / f"run-{number}", home / f"run-{number}-again"
    old.mkdir()
    new.mkdir()
    settings = (
        *("--fleet", FLEET, "--policy", str(home / "policy.npz"), "--k", str(K)),
        *("--robots", str(ROBOTS), "--steps", str(KILLED_AFTER_STEPS + MORE_STEPS)),
    )
    first = wire.start("controller", "controller", *settings, "--folder", str(old))
    wait_for_steps(old, KILLED_AFTER_STEPS)
    first.kill()
    killed_ns = time.time_ns()
    epochs = ("--epoch-file", str(home / "runs" / ".epochs" / FLEET))
    again = wire.start(
        "controller", "controller", "--resume", str(old), "--folder", str(new), *epochs
    )
    first.wait()
    if again.wait(GIVE_UP_S) != 0:
        raise SystemExit("the second controller failed")
    step_ns = next(entry.time_ns for entry in read_run(new) if entry.kind == "step")
    return (step_ns - killed_ns) / 1e9


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__).parse_args()
    users = [BrokerUser(HOST, secrets.token_urlsafe(18), "host")]
    users.append(BrokerUser("controller", secrets.token_urlsafe(18), "controller"))
    with tempfile.TemporaryDirectory(prefix="kofn-resume-") as name:
        home = Path(name)
        Policy.uniform(arena(), 5).save(home / "policy.npz")
        for user in users:
            write_credentials(home / f"{user.name}.json", user.name, user.password)
        with start_broker("auto", fleet=FLEET, users=users, workdir=home / "broker") as broker:
            wire = Wire(broker, home)
            host = wire.start(
                "swarm", HOST, "--fleet", FLEET, "--host", HOST, "--robots", str(ROBOTS)
            )
            try:
                repeats = 1 if arguments.quick else arguments.repeats
                took = sorted(measure(wire, home, number) for number in range(repeats))
            finally:
                host.terminate()
                host.wait()
            row: dict[str, float | int | str | None] = {
                "broker": broker.kind,
                "robots": ROBOTS,
                "k": K,
                "repeats": repeats,
                "median_s": took[len(took) // 2],
                "largest_s": took[-1],
            }
    report("kill -9 of the controller to the first new step", [row], as_json=arguments.json)


if __name__ == "__main__":
    main()
