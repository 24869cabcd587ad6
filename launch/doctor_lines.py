# SPDX-License-Identifier: MIT
"""What `kofn hw doctor` says of things beyond the robot's own machine: broker, board, camera."""

import contextlib
import time
from importlib.metadata import version
from pathlib import Path

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.messages import Pose, Roster, decode
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.topics import PROTOCOL_VERSION, Topics
from kofn.hardware.bench_run import Line
from kofn.launch.parts import Connection
from kofn.launch.verbs_doctor import Finding, reach
from kofn.launch.verbs_localise import first_picture, tagged_robots

WAIT_S = 1.0


def as_line(found: Finding) -> Line:
    """A finding of `kofn doctor` as a line of `kofn hw doctor`."""
    warn = found.state == "warn"
    return Line(found.check, found.state != "fail", found.what, found.hint, warn)


def broker_lines(connection: Connection, host: str | None) -> list[Line]:
    """Is the broker there, how quick is it, and what is known there of this host."""
    # Not a role's id: the doctor must not put anybody off the broker.
    name = "doctor"
    if host is None:
        return [as_line(each) for each in reach(connection, name=name)]
    topics = Topics(connection.fleet)
    pose, roster = (topics.of("pose", host), 0), (topics.of("roster", host), 1)

    def listen(transport: MqttTransport) -> list[Finding]:
        return _heard(transport, topics)

    found = reach(connection, name=name, filters=(pose, roster), then=listen)
    if found[0].state == "fail" and "subscribe" in found[0].what:
        # A host's own login may not read rosters: then nothing is said of its software.
        found = reach(connection, name=name, filters=(pose,), then=listen)
    return [as_line(each) for each in found]


def _heard(transport: MqttTransport, topics: Topics) -> list[Finding]:
    """Whether a camera tells this host where its robots are, and what it runs on."""
    ages: dict[str, int] = {}
    roster: Roster | None = None
    end_s = time.monotonic() + WAIT_S
    while time.monotonic() < end_s and not (ages and roster):
        message = transport.receive(0.1)
        address = topics.parse(message.topic) if message is not None else None
        if message is None or address is None or not message.payload:
            continue
        with contextlib.suppress(InputError):
            if address.kind == "pose":
                ages = {row.id: row.age_ms for row in decode(Pose, message.payload).r}
            elif address.kind == "roster":
                roster = decode(Roster, message.payload)
    oldest = f"{len(ages)} robots, the oldest {max(ages.values(), default=0)} ms old"
    none = f"none within {WAIT_S:g} s: no camera, or this login may not read them"
    poses = Finding(check="poses", state="ok", what=oldest if ages else none)
    return [poses, software_finding(roster, version("kofn"))]


def software_finding(roster: Roster | None, ours: str) -> Finding:
    """Whether a host, for instance the firmware of a board, is of this version (`ours`)."""
    if roster is None:
        none = (
            f"no roster within {WAIT_S:g} s: the host is not there, or this login may not read it"
        )
        return Finding(check="host software", state="ok", what=none)
    spoken = ", ".join(map(str, roster.proto))
    what = f"{roster.sw or 'unnamed'}, protocol {spoken}"
    flash = roster.sw.startswith("kofn-firmware")
    remedy = "flash the firmware of this version (docs/build-a-robot.md)" if flash else "upgrade it"
    if PROTOCOL_VERSION not in roster.proto:
        hint = f"this kofn speaks protocol {PROTOCOL_VERSION}: {remedy}"
        return Finding(check="host software", state="fail", what=what, hint=hint)
    if roster.sw.startswith("kofn") and roster.sw.rsplit(" ", 1)[-1] != ours:
        hint = f"this machine has kofn {ours}: {remedy}"
        return Finding(check="host software", state="warn", what=what, hint=hint)
    return Finding(check="host software", state="ok", what=what)


def camera_lines(camera: Path, robots: Path | None, source: str) -> list[Line]:
    """Take one picture: which tags of floor and robots it shows, and how large."""
    try:
        file, frame = first_picture(camera, source, MonotonicClock())
        wearers = [] if robots is None else tagged_robots(robots)
    except (InputError, RunError) as error:
        return [Line("camera", ok=False, seen=str(error), hint="see docs/camera.md")]
    from kofn.hardware.localise.tag_sizes import HINT, seen_tags  # OpenCV is there

    names = {robot.tag: robot.robot for robot in wearers}
    lines = [Line("camera", ok=True, seen=f"{file.width} x {file.height} px")]
    lines += [
        Line(f"tag {one.tag}", one.ok, f"{one.wearer}: {one.words}", HINT)
        for one in seen_tags(frame.picture, file, names)
    ]
    return lines
