# SPDX-License-Identifier: MIT
"""`kofn doctor`: what on this machine, and on the way to its broker, would spoil a run."""

import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kofn.controller.core.errors import RunError
from kofn.controller.echo import MESSAGES, Echo
from kofn.controller.link.clock import MonotonicClock
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Session
from kofn.launch import options
from kofn.launch.access_options import ANONYMOUS, Access, with_access
from kofn.launch.output import emit
from kofn.launch.parts import Connection

DESCRIPTORS = 4096
"""Enough for a broker of our own with some thousand connections."""
ECHO_WAIT_S = 2.0
WARN_DAYS = 30
BUILT_YEAR = 2026


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line: `state` is ok, warn or fail; `hint` says what to do where it is not ok."""

    check: str
    state: str
    what: str
    hint: str = ""


@with_access
def doctor(
    broker: Annotated[
        str | None, typer.Option("--broker", help="Also try this broker, mqtt://host:port.")
    ] = None,
    access: Access = ANONYMOUS,
    json: options.Json = False,
) -> None:
    """Check this machine and the way to its broker. Use no login that is connected elsewhere."""
    findings = [versions(), mosquitto(), descriptors(), clock(datetime.now(UTC))]
    shown = [path for path in (access.tls_ca, access.tls_cert) if path]
    findings += [certificate(path, datetime.now(UTC)) for path in shown]
    if broker is not None:
        connection = access.connect("doctor", broker)
        findings += reach(connection, name=connection.username or "kofn-doctor")
    lines = [f"{f.state:4s}  {f.check:16s}  {f.what}" for f in findings]
    lines += [f"{f.check}: {f.hint}" for f in findings if f.hint]
    failed = [f.check for f in findings if f.state == "fail"]
    emit({"ok": not failed, "findings": msgspec.to_builtins(findings)}, lines, as_json=json)
    if failed:
        raise RunError(f"doctor: {', '.join(failed)} failed")


def versions() -> Finding:
    """Versions of what a report of a fault should name."""
    found = [f"Python {platform.python_version()}"]
    for package in ("kofn", "paho-mqtt", "amqtt", "pybullet"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return Finding(check="versions", state="ok", what=", ".join(found))


def mosquitto() -> Finding:
    """Whether a broker of our own can be started, and which."""
    path = shutil.which("mosquitto")
    if path is not None:
        return Finding(check="own broker", state="ok", what=f"mosquitto at {path}")
    hint = "install mosquitto (for instance apt-get install mosquitto)"
    if find_spec("amqtt") is not None:
        what = "no mosquitto; the embedded amqtt serves simulations on this machine"
        return Finding(check="own broker", state="warn", what=what, hint=hint)
    what = "neither mosquitto on PATH nor amqtt"
    return Finding(check="own broker", state="fail", what=what, hint=hint)


def descriptors() -> Finding:
    """How many connections a process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"{soft} open files a process (hard limit {hard})"
    if soft >= DESCRIPTORS or soft == resource.RLIM_INFINITY:
        return Finding(check="file descriptors", state="ok", what=what)
    hint = f"a fleet of one connection per robot needs more: ulimit -n {DESCRIPTORS}"
    return Finding(check="file descriptors", state="warn", what=what, hint=hint)


def clock(now: datetime) -> Finding:
    """Whether certificates can be valid at this wall clock; durations never use it."""
    what = f"{now.isoformat(timespec='seconds')}, steps of the monotonic clock "
    what += f"{time.get_clock_info('monotonic').resolution:g} s"
    if now.year >= BUILT_YEAR:
        return Finding(check="clock", state="ok", what=what)
    hint = "the clock is in the past: certificates are not valid yet; set it, or start NTP"
    return Finding(check="clock", state="fail", what=what, hint=hint)


def certificate(path: Path, now: datetime) -> Finding:
    """Whether a certificate is valid, and how long."""
    name = f"{path.name}"
    try:
        from cryptography import x509
    except ImportError:
        hint = "pip install 'kofn[tls]'"
        return Finding(check=name, state="warn", what="cannot be looked into here", hint=hint)
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        hint = "name a PEM certificate, as kofn ca makes it"
        return Finding(check=name, state="fail", what=f"cannot be read: {error}", hint=hint)
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    what = f"valid until {ends.date()}, {(ends - now).days} days"
    if not begins <= now < ends:
        return Finding(check=name, state="fail", what=what, hint="kofn ca renew, or set the clock")
    if (ends - now).days < WARN_DAYS:
        return Finding(check=name, state="warn", what=what, hint="kofn ca renew NAME")
    return Finding(check=name, state="ok", what=what)


def reach(
    connection: Connection,
    *,
    name: str = "kofn-doctor",
    filters: Sequence[tuple[str, int]] = (),
    then: Callable[[MqttTransport], list[Finding]] | None = None,
) -> list[Finding]:
    """Log in, and time signs of life of the broker; then look at what was subscribed to.

    Parameters
    ----------
    connection
        How and as whom.
    name
        Client id.
    filters, then
        Topics with their QoS, and what makes findings of them.
    """
    transport = connection.transport(MonotonicClock())
    session = Session(
        name, filters, will=lambda _: None, birth=lambda _: (), fleet=connection.fleet
    )
    try:
        transport.open(session)
    except RunError as error:
        hint = "start the broker, or look at its log; check address, port, login and firewall"
        return [Finding(check="broker", state="fail", what=str(error), hint=hint)]
    try:
        what = f"{connection.url} accepts {connection.username or name!r}"
        found = [Finding(check="broker", state="ok", what=what), _echo(transport)]
        return found if then is None else [*found, *then(transport)]
    finally:
        transport.close()


def _echo(transport: MqttTransport) -> Finding:
    echo, took_ms = Echo(), []
    while not echo.decided:
        one_ms = transport.echo(MESSAGES, ECHO_WAIT_S)
        if one_ms is None:
            what = f"no answer within {ECHO_WAIT_S:g} s"
            return Finding(check="echo", state="fail", what=what, hint="a bad network")
        echo.add(one_ms)
        took_ms.append(one_ms)
    middle, slow = statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]
    what = (
        f"{MESSAGES} messages there and back: p50 {middle:.2f} ms, p99 {slow:.2f} ms of "
        f"{len(took_ms)}"
    )
    if echo.nagle:
        hint = "Nagle's algorithm on the broker: set_tcp_nodelay true (docs/brokers.md)"
        return Finding(check="echo", state="warn", what=what, hint=hint)
    return Finding(check="echo", state="ok", what=what)
