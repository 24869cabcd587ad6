# SPDX-License-Identifier: MIT
"""The rights of each role, tried out one by one on the brokers that enforce them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from peers import Peer, check_rights, settle
from wires import NAMES, ROOT, MqttWire, login

from kofn.controller.core.errors import RunError
from kofn.controller.link.address import parse_url
from kofn.controller.link.transport import Outbound, Session


def connect(wire: MqttWire, name: str) -> Peer:
    return Peer(name, parse_url(wire.broker.url), password=login(name)["password"])


@pytest.fixture
def peers(mqtt_wire: MqttWire) -> Iterator[dict[str, Peer]]:
    with ExitStack() as stack:
        made = {}
        for name in NAMES:
            made[name] = connect(mqtt_wire, name)
            stack.callback(made[name].close)
        yield made


def test_each_user_writes_and_reads_what_its_role_may_and_nothing_else(
    peers: dict[str, Peer],
) -> None:
    check_rights(peers)


@pytest.mark.parametrize("wide", ["#", "+/+", "poll/+", "rep/#"])
def test_a_host_learns_nothing_by_a_wider_filter(peers: dict[str, Peer], wide: str) -> None:
    peers["h1"].subscribe(wide)
    for topic in ("poll/h2", "cmd/h2"):
        peers["controller"].publish(topic)
    peers["h2"].publish("rep/h2")
    settle(peers.values())
    assert peers["h1"].got == []


def test_the_last_will_of_a_host_cannot_speak_for_another(mqtt_wire: MqttWire) -> None:
    auditor = connect(mqtt_wire, "auditor")
    auditor.subscribe("conn/h2")
    auditor.got.clear()
    forger = mqtt_wire.transport("h1")
    forged = Outbound(ROOT + "conn/h2", b"forged", 1, False)
    session = Session("h1", [], lambda c: forged, lambda c: ())
    if mqtt_wire.kind == "amqtt":
        with pytest.raises(RunError, match="refused the login"):
            forger.open(session)
    else:
        forger.open(session)
        mqtt_wire.cut(forger)
        time.sleep(0.3)
    assert auditor.got == []
    auditor.close()


def test_a_host_cannot_take_the_client_id_of_the_controller(mqtt_wire: MqttWire) -> None:
    controller, thief = mqtt_wire.transport("controller"), mqtt_wire.transport("h1")
    nothing = Outbound(ROOT + "evt/h1", b"", 0)
    controller.open(
        Session(
            "controller", [(ROOT + "rep/+", 0)], lambda c: Outbound(ROOT + "ctl", b""), lambda c: ()
        )
    )
    session = Session("controller", [], lambda c: nothing, lambda c: ())
    if mqtt_wire.kind == "amqtt":
        with pytest.raises(RunError, match="refused the login"):
            thief.open(session)
    else:
        thief.open(session)  # its client id is replaced by its user name
    time.sleep(0.2)
    assert controller.connected
    assert controller.statistics["connections"] == 1
