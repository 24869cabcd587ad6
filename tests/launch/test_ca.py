# SPDX-License-Identifier: MIT
"""`kofn ca`, and a fleet that meets over TLS with what it made."""

import builtins
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from kofn_process import Kofn, port_is_free, wait_for

from kofn.controller.core.errors import InputError
from kofn.controller.link.allow_list import read_allow_list
from kofn.launch.entry import run
from kofn.launch.parts import read_credentials
from kofn.launch.verbs_ca import app


@pytest.fixture
def ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `kofn ca ..` in an empty folder; return what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        app(args=list(arguments), prog_name="kofn ca", standalone_mode=False)
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return call


Ca = Callable[..., str]
INIT = ("init", "ca", "--fleet", "plant", "--broker-name", "127.0.0.1")


def test_each_command_says_what_it_made_and_where(ca: Ca, tmp_path: Path) -> None:
    made = ca(*INIT)
    assert made.startswith("authority of fleet plant in ca; ca/authority.key must stay there\n")
    assert "cd ca/broker && mosquitto -c mosquitto.conf" in made
    assert "--broker mqtts://127.0.0.1:8883" in made
    enrolled = json.loads(ca("enroll", "h1", "--count", "3", "--json"))
    assert (enrolled["name"], enrolled["what"]) == ("h1", "issued")
    assert Path(enrolled["dir"]) == tmp_path / "ca" / "hosts" / "h1"
    assert ca("enroll", "h2", "--robots", "a,b", "--robots", "c").startswith("h2: issued\n")
    allowed = read_allow_list(tmp_path / "ca" / "controller" / "hosts.toml")
    assert [allowed.owner(r) for r in ("h1.r2", "h1.r3", "a", "c")] == ["h1", None, "h2", "h2"]
    assert ca("enroll", "h2", "--revoke").startswith("h2: revoked\n")
    assert ca("renew", "h1", "localiser").startswith("h1: ")
    listed = {m["name"]: m for m in json.loads(ca("list", "--json"))["members"]}
    assert {name: m["state"] for name, m in listed.items()} == {
        **dict.fromkeys(("broker", "controller", "operator", "observer", "localiser"), "valid"),
        "h1": "valid",
        "h2": "revoked",
    }
    assert (listed["h1"]["robots"], listed["h1"]["certificates"]) == (3, 2)
    assert "h2: revoked\n" in ca("list")


def test_vehicles_on_the_same_broker_have_their_own_topics_only(ca: Ca, tmp_path: Path) -> None:
    ca(*INIT)
    root = "uagv/v2/acme/S1"
    ca("enroll", "edge")
    ca("enroll", "truck", "--vehicle", root)
    ca("enroll", "edge.control", "--controls", f"{root},vda5050/v3/acme/S2")
    rules = (tmp_path / "ca" / "broker" / "acl").read_text().split("user ")
    truck, control = (
        next(rule.splitlines()[1:] for rule in rules if rule.startswith(f"{name}\n"))
        for name in ("truck", "edge.control")
    )
    said = [f"{root}/{kind}" for kind in ("state", "connection", "factsheet", "visualization")]
    told = [f"{root}/{kind}" for kind in ("order", "instantActions")]
    assert truck == [f"topic write {t}" for t in said] + [f"topic read {t}" for t in told]
    assert {f"topic write {t}" for t in told} <= set(control)
    assert not any("kofn1" in line for line in (*truck, *control))
    allowed = read_allow_list(tmp_path / "ca" / "controller" / "hosts.toml")
    assert allowed.objection("truck", ["truck.r0"])  # a vehicle is no host of the fleet
    for arguments, sentence in (
        (("other", "--vehicle", root), f"'{root}' belongs to 'truck'"),
        (("edge", "--vehicle", "uagv/v2/acme/S3"), "'edge' is somebody else's"),
        (("truck",), "'truck' is that of a vehicle"),
        (("t2", "--vehicle", "acme/S1"), "must be uagv/v2/MANUFACTURER/SERIAL"),
        (("t2", "--vehicle", "uagv/v2/a/b", "--count", "2"), "they exclude each other"),
    ):
        with pytest.raises(InputError, match=sentence):
            ca("enroll", *arguments)
    ca("enroll", "truck", "--revoke")
    assert "user truck" not in (tmp_path / "ca" / "broker" / "acl").read_text()


def test_the_folder_may_come_from_the_environment(
    ca: Ca, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ca("init", "elsewhere", *INIT[2:])
    monkeypatch.setenv("KOFN_CA", str(tmp_path / "elsewhere"))
    assert "h1: issued" in ca("enroll", "h1")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (INIT, "is not empty; an authority is never overwritten"),
        (("enroll", "h1", "--robots", "a", "--count", "1"), "either --robots or --count"),
        (("enroll", "h1", "--count", "0"), "--count 0 for host 'h1': Expected `int` >= 1"),
        (("enroll", "h1", "--robots", ","), "--robots names no robot"),
        (("enroll", "h1", "--revoke", "--count", "1"), "--revoke takes neither"),
        (("enroll", "h1", "--revoke"), "no host 'h1' is enrolled"),
        (("enroll", "operator"), "host name 'operator' is reserved"),
        (("enroll", "h1", "--dir", "nowhere"), "no authority in .*nowhere: No such file"),
        (("renew", "h7"), "no host 'h7' is enrolled"),
        (("list", "--dir", "nowhere"), "no authority in nowhere; make one: kofn ca init"),
    ],
)
def test_what_cannot_be_is_one_sentence(ca: Ca, arguments: tuple[str, ...], sentence: str) -> None:
    ca(*INIT)
    with pytest.raises(InputError, match=sentence):
        ca(*arguments)


def test_without_the_package_for_certificates_the_sentence_names_the_extra(
    ca: Ca, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def without(
        name: str,
        table: Mapping[str, object] | None = None,
        scope: Mapping[str, object] | None = None,
        members: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError(name)
        return real(name, table, scope, members, level)

    for module in [m for m in sys.modules if m.startswith("kofn.controller.link.")]:
        if module.rpartition(".")[2] in {"authority", "enrolment"}:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"^certificates need .*: pip install 'kofn\[tls\]'$"):
        ca(*INIT)
    assert list(tmp_path.iterdir()) == []


CONTROLLER = ("controller", "--k", "1", "--robots", "2", "--steps", "4", "--period", "0.5")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--broker", "mqtt://192.0.2.1"), "is not on this machine: it needs TLS"),
        (("--broker", "mqtts://192.0.2.1"), "is not on this machine: it needs credentials"),
        (("--broker", "mqtt://127.0.0.1", "--tls-ca", "x"), "certificates need a broker URL"),
        (("--broker", "mqtts://127.0.0.1", "--tls-cert", "x"), "--tls-cert and --tls-key belong"),
        (("--broker", "mqtts://127.0.0.1", "--tls-ca", "x"), "cannot read x"),
    ],
)
def test_a_connection_that_cannot_be_is_refused_before_anything_starts(
    options: tuple[str, ...],
    sentence: str,
    policy_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        (*CONTROLLER, "--policy", str(policy_file)),
        ("robot", "--host", "h1"),
        ("swarm", "--host", "h1", "--robots", "2"),
    ):
        assert run([*command, *options]) == 2
        assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_password_may_come_from_the_environment_as_a_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert read_credentials(None) == (None, None)
    monkeypatch.setenv("KOFN_USERNAME", "h1")
    with pytest.raises(InputError, match="KOFN_USERNAME and KOFN_PASSWORD belong together"):
        read_credentials(None)
    monkeypatch.setenv("KOFN_PASSWORD", "secret")
    assert read_credentials(None) == ("h1", "secret")


@pytest.fixture
def secured(ca: Ca, tmp_path: Path) -> Iterator[str]:
    """A broker with the generated files, two hosts enrolled; its URL."""
    mosquitto = shutil.which("mosquitto")
    if mosquitto is None:
        pytest.skip("mosquitto is not on PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ca(*INIT, "--port", str(port), "--bind", "127.0.0.1")
    for host in ("h1", "h2"):
        ca("enroll", host)
    process = subprocess.Popen(
        [mosquitto, "-c", "mosquitto.conf"], cwd=tmp_path / "ca/broker", stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: not port_is_free(port), "mosquitto", timeout_s=10)
        yield f"mqtts://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.e2e
@pytest.mark.broker
def test_a_fleet_is_steered_over_tls(kofn: Kofn, secured: str, policy_file: Path) -> None:
    def wire(name: str, folder: str) -> list[str]:
        return [
            *("--fleet", "plant", "--broker", secured, "--mqtt", "5"),
            *("--tls-ca", f"{folder}/ca.crt"),
            *("--tls-cert", f"{folder}/{name}.crt", "--tls-key", f"{folder}/{name}.key"),
        ]

    hosts = [
        kofn.start("robot", "--host", h, "--period", "0.5", *wire(h, f"ca/hosts/{h}"), "--json")
        for h in ("h1", "h2")
    ]
    steering = (*CONTROLLER, "--policy", str(policy_file), *wire("controller", "ca/controller"))
    summary = kofn.json(*steering)
    assert summary["completed"]
    assert (summary["steps"], summary["replies_used"]) == (4, 4)
    for host in hosts:
        host.send_signal(signal.SIGTERM)
        host.communicate(timeout=20)
        assert host.returncode == 0
    assert list((kofn.home / "runs").iterdir())


def test_a_certificate_without_its_key_is_refused(kofn: Kofn) -> None:
    done = kofn.run("doctor", "--tls-cert", "x.crt")
    assert (done.returncode, "--tls-cert and --tls-key belong together" in done.stderr) == (2, True)
