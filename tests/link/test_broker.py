# SPDX-License-Identifier: MIT
"""Starting and ending brokers."""

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

import psutil
import pytest
from wires import FLEET, ROOT, USERS, MqttWire, collect, launch, login, mute, presence, until

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link import broker as broker_module
from kofn.controller.link.address import parse_url
from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.credentials import Role
from kofn.controller.link.probe import Connack, probe


def port_of(url: str) -> int:
    return parse_url(url).port


def bindable(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def fake_mosquitto(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    program = folder / "bin" / "mosquitto"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def test_it_accepts_a_login_and_its_port_is_free_after_close(kind: str, tmp_path: Path) -> None:
    broker = launch(kind, tmp_path)
    address = parse_url(broker.url)
    assert broker.kind == kind
    assert broker.alive()
    assert probe(address, client_id="h1", **login("h1")) is Connack.ACCEPTED
    wrong = login("h1") | {"password": "guess"}
    assert probe(address, client_id="h1", **wrong) is Connack.NOT_AUTHORIZED
    assert probe(address) is not Connack.ACCEPTED
    broker.close()
    broker.close()
    assert not broker.alive()
    assert bindable(address.port)


def test_it_listens_on_loopback_only(kind: str, tmp_path: Path) -> None:
    with launch(kind, tmp_path) as broker:
        assert broker.process is not None
        process = psutil.Process(broker.process.pid)
        listening = [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert listening == [("127.0.0.1", port_of(broker.url))]


def test_its_files_are_private_and_hold_no_plain_password(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "broker"
    with launch(kind, folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert b"secret-" not in path.read_bytes(), path
            if path.name != broker_module.LOG_NAME:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_it_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(
    kind: str, tmp_path: Path
) -> None:
    with launch(kind, tmp_path) as broker:
        assert broker.process is not None
        assert os.getsid(broker.process.pid) == broker.process.pid


def test_it_takes_the_port_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    port = broker_module._free_port()
    with launch(kind, tmp_path, port=port) as broker:
        assert port_of(broker.url) == port
        with pytest.raises(InputError, match=rf"^port {port} on 127\.0\.0\.1 is in use$"):
            launch(kind, tmp_path / "second", port=port)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_out_of_range_is_bad_input(port: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^port {port} is outside 1 to 65535$"):
        launch("amqtt", tmp_path, port=port)


def test_an_automatic_port_that_is_lost_in_a_race_is_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], broker_module._free_port()])
        monkeypatch.setattr(broker_module, "_free_port", lambda: next(ports))
        with launch(kind, tmp_path) as broker:
            assert port_of(broker.url) != taken.getsockname()[1]


def test_a_port_that_is_lost_after_the_check_is_bad_input_still(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "_check_free", lambda port: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port} on 127\.0\.0\.1 is in use$"):
            launch(kind, tmp_path, port=port)


def test_another_broker_on_the_lost_port_is_not_taken_for_ours(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with launch(kind, tmp_path / "other") as other:
        ports = iter([port_of(other.url), broker_module._free_port()])
        monkeypatch.setattr(broker_module, "_free_port", lambda: next(ports))
        with launch(kind, tmp_path / "ours") as broker:
            assert broker.url != other.url
            assert broker.alive()


def test_a_broker_on_the_lost_port_that_accepts_everybody_is_not_taken_for_ours(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def welcome(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"\x20\x02\x00\x00")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=welcome, args=[server])
        thread.start()
        ports = iter([server.getsockname()[1], broker_module._free_port()])
        monkeypatch.setattr(broker_module, "_free_port", lambda: next(ports))
        try:
            with launch(kind, tmp_path) as broker:
                assert port_of(broker.url) != server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_broker_that_never_comes_up_is_one_sentence_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mosquitto(tmp_path, monkeypatch, "echo still thinking; exec sleep 60")
    start_s = time.monotonic()
    with pytest.raises(RunError, match=r"^mosquitto did not come up in time: still thinking$"):
        start_broker("auto", fleet=FLEET, users=USERS, workdir=tmp_path / "w", timeout_s=1.0)
    assert time.monotonic() - start_s < 5.0
    leftovers = [p for p in psutil.Process().children() if "sleep" in p.cmdline()]
    assert leftovers == []


def test_a_broker_that_ends_at_once_is_one_sentence_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mosquitto(tmp_path, monkeypatch, "echo first; echo 'Error: no such option'; exit 3")
    with pytest.raises(RunError, match=r"^mosquitto ended while starting: Error: no such option$"):
        start_broker("mosquitto", fleet=FLEET, users=USERS, workdir=tmp_path / "w")


@pytest.mark.broker
def test_auto_takes_mosquitto_from_the_path_and_else_the_embedded_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("mosquitto"):
        with launch("auto", tmp_path / "with") as broker:
            assert broker.kind == "mosquitto"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="mosquitto is not on PATH"):
        start_broker("mosquitto", fleet=FLEET, users=USERS, workdir=tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with launch("auto", tmp_path / "without") as broker:
        assert broker.kind == "amqtt"


def test_without_any_broker_the_sentence_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"apt-get install mosquitto.*kofn\[broker\]"):
        start_broker("auto", fleet=FLEET, users=USERS, workdir=tmp_path)


def test_a_url_is_used_as_it_is_and_not_ended(kind: str, tmp_path: Path) -> None:
    with launch(kind, tmp_path) as running:
        with start_broker(running.url, fleet=FLEET, users=USERS[:1], workdir=tmp_path) as broker:
            assert (broker.kind, broker.url) == ("url", running.url)
        assert broker.alive()
        assert running.alive()


def test_a_url_where_nobody_answers_is_one_sentence(tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{broker_module._free_port()}"
    with pytest.raises(RunError, match=rf"^no MQTT broker answers at {url}: Connection refused$"):
        start_broker(url, fleet=FLEET, users=USERS, workdir=tmp_path)


def test_a_url_where_something_else_answers_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RunError, match=r"^no MQTT broker answers at .*timed out$"):
            start_broker(url, fleet=FLEET, users=USERS, workdir=tmp_path, timeout_s=0.3)


def test_an_unknown_choice_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'rabbit' is none of auto, mosquitto, amqtt"):
        start_broker("rabbit", fleet=FLEET, users=USERS, workdir=tmp_path)


@pytest.mark.parametrize(
    ("names", "role", "sentence"),
    [
        ([], "host", "at least one user"),
        (["a", "a"], "host", "'a' is listed twice"),
        (["a/b"], "host", "host name 'a/b'"),
        (["a\nuser b"], "operator", "user name"),
        (["controller"], "host", "'controller' is reserved"),
        (["x"], "king", "role 'king'"),
    ],
)
def test_unusable_users_are_bad_input(
    names: list[str], role: Role, sentence: str, tmp_path: Path
) -> None:
    users = [BrokerUser(name, "p", role) for name in names]
    with pytest.raises(InputError, match=sentence):
        start_broker("amqtt", fleet=FLEET, users=users, workdir=tmp_path)


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot use broker folder .*: Not a directory"):
        start_broker("amqtt", fleet=FLEET, users=USERS, workdir=tmp_path / "file" / "broker")


def test_a_folder_without_room_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broker.log").mkdir()  # stands for any file that cannot be opened
    with pytest.raises(RunError, match=r"cannot write to broker folder .*: Is a directory"):
        start_broker("amqtt", fleet=FLEET, users=USERS, workdir=tmp_path)


def test_a_colon_in_a_user_name_works_or_is_refused_in_one_sentence(
    kind: str, tmp_path: Path
) -> None:
    users = [BrokerUser("a:b", "p", "host")]
    if kind == "mosquitto":
        if shutil.which("mosquitto") is None:
            pytest.skip("mosquitto is not on PATH")
        with pytest.raises(InputError, match="mosquitto takes no colon in a user name"):
            start_broker(kind, fleet=FLEET, users=users, workdir=tmp_path)
        return
    with start_broker(kind, fleet=FLEET, users=users, workdir=tmp_path) as broker:
        answer = probe(
            parse_url(broker.url), client_id="a:b", username="a:b", password=users[0].password
        )
    assert answer is Connack.ACCEPTED


_PARENT = """
import sys, time
from pathlib import Path
from kofn.controller.link.broker import BrokerUser, start_broker
users = [BrokerUser("controller", "p", "controller")]
broker = start_broker(sys.argv[1], fleet="f", users=users, workdir=Path(sys.argv[2]))
print(broker.process.pid, broker.url, flush=True)
time.sleep(60)
"""


def test_a_parent_killed_without_warning_leaves_no_broker_and_no_busy_port(
    kind: str, tmp_path: Path
) -> None:
    if kind == "mosquitto" and shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not on PATH")
    command = [sys.executable, "-c", _PARENT, kind, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        parent.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(int(pid)) or _is_zombie(int(pid)), 5.0)
    assert bindable(port_of(url))


def _is_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_a_controller_that_comes_late_hears_of_every_host(tmp_path: Path) -> None:
    """One subscription gets more retained messages than mosquitto keeps by a limit of 100."""
    if shutil.which("mosquitto") is None:
        pytest.skip("mosquitto is not on PATH")
    names = [f"late-{i}" for i in range(150)]
    users = USERS + [BrokerUser(name, f"secret-{name}", "host") for name in names]
    with start_broker("mosquitto", fleet=FLEET, users=users, workdir=tmp_path / "b") as broker:
        wire = MqttWire(broker)
        for name in names:
            host = wire.transport(name)
            host.open(presence(name))
            host.publish(f"{ROOT}roster/{name}", b"{}", qos=1, retain=True)
            host.close()
        controller = wire.transport("controller")
        controller.open(mute("controller", "conn/+", "roster/+"))
        heard = collect(controller, lambda got: len({m.topic for m in got}) == 2 * len(names))
        assert all(message.retained for message in heard)
        wire.close()
