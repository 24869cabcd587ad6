# SPDX-License-Identifier: MIT
"""Get a broker: the one at a given URL, else mosquitto from PATH, else the embedded amqtt.

A broker of our own is a child process on 127.0.0.1 with generated configuration, passwords and
rights (see `credentials`), and ends with this process, however that ends. It counts as up when it
has accepted a login, not when its port is open.

    with start_broker("auto", fleet="demo", users=users, workdir=run_folder / "broker") as broker:
        transport = MqttTransport(broker.url, clock, username=.., password=..,
                                  protocol=broker.protocol)
"""

import importlib.util
import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import BrokerAddress, parse_url
from kofn.controller.link.amqtt_process import write_amqtt_file
from kofn.controller.link.children import end_child, spawn_child
from kofn.controller.link.credentials import BrokerUser, check_users, make_password
from kofn.controller.link.mosquitto_config import write_mosquitto_files
from kofn.controller.link.mqtt import Protocol
from kofn.controller.link.probe import Connack, probe
from kofn.controller.link.tls import TlsFiles, check_access, make_context

__all__ = ["Broker", "BrokerUser", "start_broker"]

_log = logging.getLogger(__name__)

Kind = Literal["mosquitto", "amqtt", "url"]

LOG_NAME = "broker.log"
_LOOPBACK = "127.0.0.1"
_ATTEMPTS = 5
_PROBE_NAME = "kofn-probe"
_INSTALL_HINT = (
    "no MQTT broker: install mosquitto (for instance apt-get install mosquitto), or the embedded "
    "one with pip install 'kofn[broker]', or name a running one with mqtt://HOST:PORT"
)


class Broker:
    """A broker that can be used: its `kind`, its `url`, and the MQTT version to speak with it."""

    def __init__(
        self,
        kind: Kind,
        url: str,
        protocol: Protocol,
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self.kind: Kind = kind
        self.url = url
        self.protocol: Protocol = protocol
        self.process = process

    def alive(self) -> bool:
        """Whether our child runs; a broker that is not ours counts as alive."""
        return self.process is None or self.process.poll() is None

    def close(self) -> None:
        """End the broker if it is ours; afterwards its port is free. Idempotent."""
        if self.process is not None:
            end_child(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Recipe(NamedTuple):
    """How to start a kind of broker: `prepare(port)` writes its files and returns its argv."""

    kind: Kind
    protocol: Protocol
    prepare: Callable[[int], list[str]]


class _PortLostError(Exception):
    """Somebody else took the port between choosing and binding it."""


def start_broker(
    choice: str = "auto",
    *,
    fleet: str,
    users: Sequence[BrokerUser],
    workdir: Path,
    port: int | None = None,
    timeout_s: float = 15.0,
    tls: TlsFiles | None = None,
    insecure_lab: bool = False,
) -> Broker:
    """Return a broker that accepts logins.

    Parameters
    ----------
    choice
        "auto" (mosquitto when on PATH, else amqtt), "mosquitto", "amqtt", or the URL of a broker,
        `mqtt://host:port` or `mqtts://host:port`.
    fleet
        Name of the fleet; the rights of the users concern its topics only.
    users
        Logins of a broker of our own. At a URL the first one is tried, and any MQTT answer counts.
    workdir
        Folder for configuration, hashed passwords and log; created with mode 0700.
    port
        TCP port; None takes a free one.
    timeout_s
        Wall seconds until the broker must have accepted a login.
    tls, insecure_lab
        For a URL: certificates, and whether plain text may leave this machine (see `tls`).

    Raises
    ------
    InputError
        Unknown choice, unusable user, a port out of range or in use, a folder that cannot be
        written, a URL that needs TLS.
    RunError
        No broker to start, nothing answers at the URL, or the broker does not come up; the
        sentence ends with the last line of its log.
    """
    check_users(users)
    if choice not in ("auto", "mosquitto", "amqtt"):
        if "://" not in choice:
            raise InputError(
                f"broker {choice!r} is none of auto, mosquitto, amqtt, mqtt://HOST:PORT, "
                "mqtts://HOST:PORT"
            )
        address = parse_url(choice)
        warning = check_access(address, tls, username=None, insecure_lab=insecure_lab)
        if warning:
            _log.warning(warning)
        return _find(address, users[0], tls or TlsFiles(), timeout_s)
    if port is not None:
        _check_free(port)
    workdir = workdir.resolve()
    try:
        workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
        workdir.chmod(0o700)
    except OSError as error:
        raise InputError(f"cannot use broker folder {workdir}: {error.strerror}") from error
    # A login of this start only: whoever accepts it, and refuses another password, is our child.
    probe_user = BrokerUser(_PROBE_NAME, make_password(), "probe")
    recipe = _choose(choice, fleet, [*users, probe_user], workdir)
    deadline_s = time.monotonic() + timeout_s
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _launch(recipe, port or _free_port(), probe_user, workdir, deadline_s)
        except _PortLostError:
            if port is not None:
                raise InputError(f"port {port} on {_LOOPBACK} is in use") from None
            if attempt == _ATTEMPTS:
                raise RunError(f"{_ATTEMPTS} free ports in a row were taken by others") from None
    raise AssertionError  # unreachable


def _find(address: BrokerAddress, user: BrokerUser, tls: TlsFiles, timeout_s: float) -> Broker:
    context = make_context(tls) if address.tls else None
    try:
        probe(
            address,
            client_id=user.name,
            username=user.name,
            password=user.password,
            timeout_s=min(timeout_s, 5.0),
            tls=context,
        )
    except OSError as error:
        why = (context.failure if context else "") or error.strerror or str(error)
        raise RunError(f"no MQTT broker answers at {address.url}: {why}") from error
    return Broker("url", address.url, "auto")


def _choose(choice: str, fleet: str, users: Sequence[BrokerUser], workdir: Path) -> _Recipe:
    mosquitto = shutil.which("mosquitto")
    if choice == "mosquitto" or (choice == "auto" and mosquitto):
        if mosquitto is None:
            raise RunError("mosquitto is not on PATH; install it or choose the broker amqtt")

        def prepare_mosquitto(port: int) -> list[str]:
            config = write_mosquitto_files(workdir, fleet=fleet, users=users, port=port)
            return [mosquitto, "-c", config.name]

        return _Recipe("mosquitto", "5", prepare_mosquitto)
    if importlib.util.find_spec("amqtt") is None:
        raise RunError(_INSTALL_HINT)

    def prepare_amqtt(port: int) -> list[str]:
        config = write_amqtt_file(workdir, fleet=fleet, users=users, port=port)
        return [sys.executable, "-m", "kofn.controller.link.amqtt_process", config.name]

    return _Recipe("amqtt", "3.1.1", prepare_amqtt)  # it leaves an MQTT 5 CONNECT unanswered


def _launch(
    recipe: _Recipe, port: int, user: BrokerUser, workdir: Path, deadline_s: float
) -> Broker:
    log = workdir / LOG_NAME
    try:
        argv = recipe.prepare(port)
        output = log.open("wb")
    except OSError as error:  # a full disk, most likely
        raise RunError(f"cannot write to broker folder {workdir}: {error.strerror}") from error
    with output:
        process = spawn_child(
            argv, cwd=workdir, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    broker = Broker(recipe.kind, f"mqtt://{_LOOPBACK}:{port}", recipe.protocol, process)
    try:
        _wait_until_up(broker, BrokerAddress(_LOOPBACK, port), user, log, deadline_s)
    except BaseException:
        broker.close()
        raise
    return broker


def _wait_until_up(
    broker: Broker, address: BrokerAddress, user: BrokerUser, log: Path, deadline_s: float
) -> None:
    while True:
        ours = _accepts(address, user, deadline_s) and not _accepts(
            address, user._replace(password=make_password()), deadline_s
        )
        if not broker.alive():
            text = log.read_text(errors="replace").lower()
            if "address already in use" in text or "address in use" in text:
                raise _PortLostError
            raise RunError(f"{broker.kind} ended while starting: {_last_line(log)}")
        if ours:
            return
        if time.monotonic() >= deadline_s:
            raise RunError(f"{broker.kind} did not come up in time: {_last_line(log)}")
        time.sleep(0.02)


def _accepts(address: BrokerAddress, user: BrokerUser, deadline_s: float) -> bool:
    try:
        answer = probe(
            address,
            client_id=user.name,
            username=user.name,
            password=user.password,
            timeout_s=min(1.0, max(0.05, deadline_s - time.monotonic())),
        )
    except OSError:
        return False
    return answer is Connack.ACCEPTED


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    return lines[-1] if lines else "its log is empty"


def _check_free(port: int) -> None:
    if not 1 <= port <= 65535:
        raise InputError(f"port {port} is outside 1 to 65535")
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((_LOOPBACK, port))
        except PermissionError as error:
            raise InputError(f"port {port} may not be used by this user") from error
        except OSError as error:
            raise InputError(f"port {port} on {_LOOPBACK} is in use") from error


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind((_LOOPBACK, 0))
        return int(probe_socket.getsockname()[1])
