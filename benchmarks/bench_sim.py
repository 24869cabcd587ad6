# SPDX-License-Identifier: MIT
"""Speed of the worlds: simulated seconds per CPU second (RTF), beside stepping in Python.

    python benchmarks/bench_sim.py [--repeats 5] [--quick] [--json]

The peer is a fleet of Python objects on PyBullet, one a robot, each of which reads and sets its own
pose every 0.05 s, as kinematic fleets on PyBullet do; `of_peer` is how many times faster a world of
bodies is than the peer at the same number of robots. Finite worlds are given in option steps per
second. `of_limit` is the measured figure over what it has to reach. Another engine for wheeled
robots (MuJoCo) is not measured.
"""

from __future__ import annotations

from measuring import Row, parser, report

from kofn.sim.speed import Speed, measurements

PEER = "peer"


def main() -> None:
    """Run all measurements and print them."""
    chosen = parser(__doc__).parse_args()
    repeats = 1 if chosen.quick else chosen.repeats
    speeds = [measure() for measure in measurements(quick=chosen.quick, repeats=repeats)]
    peers = {speed.robots: speed.rtf for speed in speeds if speed.name.startswith(PEER)}
    title = "worlds: simulated seconds per CPU second (rtf), or option steps per CPU second"
    report(title, [_row(speed, peers) for speed in speeds], as_json=chosen.json)


def _row(speed: Speed, peers: dict[int, float]) -> Row:
    peer = peers.get(speed.robots) if speed.unit == "rtf" else None
    return {
        "world": speed.name,
        "robots": speed.robots,
        "measured": speed.rtf,
        "unit": speed.unit,
        "limit": speed.limit,
        "of_limit": speed.rtf / speed.limit if speed.limit else None,
        "of_peer": speed.rtf / peer if peer and not speed.name.startswith(PEER) else None,
    }


if __name__ == "__main__":
    main()
