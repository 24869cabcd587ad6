# SPDX-License-Identifier: MIT
"""`kofn doctor` on a machine that is well, and on some that are not."""

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kofn_process import Kofn
from plain_broker import plain_broker

from kofn.controller.link.broker import BrokerUser, start_broker
from kofn.controller.link.enrolment import create
from kofn.launch.parts import Connection, write_credentials
from kofn.launch.verbs_doctor import certificate, clock, reach

NOW = datetime.now(UTC)


@pytest.mark.broker
def test_a_broker_that_is_well_and_one_that_is_not_there(kofn: Kofn, tmp_path: Path) -> None:
    users = [BrokerUser("observer", "secret", "observer")]
    file = write_credentials(tmp_path / "o.json", "observer", "secret")
    with start_broker("auto", fleet="f", users=users, workdir=tmp_path / "broker") as broker:
        options = ("--broker", broker.url, "--mqtt", broker.protocol, "--credentials", str(file))
        found = kofn.json("doctor", *options)
    assert found["ok"]
    states = {finding["check"]: finding["state"] for finding in found["findings"]}
    assert states["broker"] == "ok"
    assert {"echo", "versions", "clock", "own broker", "file descriptors"} <= states.keys()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = kofn.run("doctor", "--broker", f"mqtt://127.0.0.1:{port}", "--mqtt", "5", "--json")
    assert done.returncode == 1
    (failed,) = [f for f in json.loads(done.stdout)["findings"] if f["state"] == "fail"]
    assert failed["check"] == "broker"
    assert failed["hint"]
    assert kofn.run("doctor", "--broker", "http://x").returncode == 2


def test_certificates_and_a_clock_of_the_past(tmp_path: Path) -> None:
    create(tmp_path / "ca", fleet="f", broker_names=["127.0.0.1"], now=NOW, days=100)
    path = tmp_path / "ca" / "controller" / "controller.crt"
    states = [certificate(path, NOW + timedelta(days=d)).state for d in (0, 80, 101, -1)]
    assert states == ["ok", "warn", "fail", "fail"]
    assert certificate(tmp_path / "none.crt", NOW).state == "fail"
    assert clock(NOW).state == "ok"
    assert clock(datetime(1970, 1, 2, tzinfo=UTC)).state == "fail"


@pytest.mark.broker
@pytest.mark.parametrize(("nodelay", "state"), [(False, "warn"), (True, "ok")])
def test_a_broker_that_holds_back_small_packets_is_named(
    tmp_path: Path, nodelay: bool, state: str
) -> None:
    with plain_broker(tmp_path, nodelay=nodelay) as broker:
        connection = Connection(fleet="f", url=broker.url, protocol="5")
        found = {finding.check: finding for finding in reach(connection)}
    assert found["broker"].state == "ok"
    assert found["echo"].state == state
    assert ("set_tcp_nodelay true" in found["echo"].hint) == (state == "warn")
