# SPDX-License-Identifier: MIT
"""What every transport does, over memory, mosquitto and amqtt alike."""

import pytest
from wires import ROOT, Wire, collect, mute, payloads, presence

from kofn.controller.link.transport import Inbound, Outbound


def live(got: list[Inbound]) -> bool:
    """Whether a message came that was not retained by an earlier test."""
    return any(not message.retained for message in got)


def test_a_message_reaches_who_subscribed_and_nobody_else(wire: Wire) -> None:
    controller, h1, h2 = (wire.transport(name) for name in ("controller", "h1", "h2"))
    controller.open(mute("controller", "rep/+"))
    h1.open(mute("h1", "poll/h1", "step"))
    h2.open(mute("h2", "poll/h2", "step"))
    assert controller.publish(ROOT + "poll/h1", b"one")
    assert controller.publish(ROOT + "step", b"all")
    assert set(payloads(collect(h1, lambda got: len(got) == 2))) == {b"one", b"all"}
    assert payloads(collect(h2, lambda got: len(got) >= 1)) == [b"all"]
    assert h2.receive(0.1) is None


def test_the_wildcard_matches_one_level_and_messages_name_their_topic(wire: Wire) -> None:
    controller, h1, h2 = (wire.transport(name) for name in ("controller", "h1", "h2"))
    controller.open(mute("controller", "rep/+"))
    h1.open(mute("h1"))
    h2.open(mute("h2"))
    h1.publish(ROOT + "rep/h1", b"a")
    h2.publish(ROOT + "rep/h2", b"b")
    got = collect(controller, lambda got: len(got) == 2)
    assert {(m.topic, m.payload, m.retained) for m in got} == {
        (ROOT + "rep/h1", b"a", False),
        (ROOT + "rep/h2", b"b", False),
    }


def test_messages_of_one_topic_keep_their_order(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    h1.open(mute("h1", "poll/h1"))
    controller.open(mute("controller"))
    for i in range(100):
        assert controller.publish(ROOT + "poll/h1", b"%d" % i)
    got = collect(h1, lambda got: len(got) == 100)
    assert payloads(got) == [b"%d" % i for i in range(100)]


def test_a_retained_message_comes_with_its_flag_and_an_empty_one_clears_it(wire: Wire) -> None:
    controller, h1, h2 = (wire.transport(name) for name in ("controller", "h1", "h2"))
    controller.open(mute("controller"))
    h1.open(mute("h1", "ctl"))
    controller.publish(ROOT + "ctl", b"now", qos=1, retain=True)
    assert [(m.payload, m.retained) for m in collect(h1, lambda got: len(got) == 1)] == [
        (b"now", False)
    ]
    h2.open(mute("h2", "ctl"))
    assert [(m.payload, m.retained) for m in collect(h2, lambda got: len(got) == 1)] == [
        (b"now", True)
    ]
    controller.publish(ROOT + "ctl", b"", qos=1, retain=True)
    assert payloads(collect(h1, lambda got: len(got) == 1)) == [b""]
    h1.close()
    h1.open(mute("h1", "ctl"))
    assert h1.receive(0.3) is None


def test_presence_is_announced_and_a_lost_connection_leaves_the_will(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    controller.open(mute("controller", "conn/+"))
    h1.open(presence("h1"))
    first = collect(controller, live)[-1].payload
    number = int(first.removeprefix(b"online "))
    wire.cut(h1)
    got = payloads(collect(controller, lambda got: len(got) == 2))
    assert b"broken %d" % number in got  # a will may overtake a birth, so the order is free
    second = next(payload for payload in got if payload.startswith(b"online"))
    assert int(second.removeprefix(b"online ")) > number


def test_a_cut_transport_subscribes_again_and_works_on(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    controller.open(mute("controller", "rep/+"))
    h1.open(mute("h1", "poll/h1"))
    wire.cut(h1)
    assert h1.connected
    assert h1.statistics["connections"] == 2
    controller.publish(ROOT + "poll/h1", b"again")
    assert payloads(collect(h1, lambda got: len(got) == 1)) == [b"again"]
    assert h1.publish(ROOT + "rep/h1", b"yes")
    assert payloads(collect(controller, lambda got: len(got) == 1)) == [b"yes"]


def test_of_a_newest_only_topic_one_unread_message_is_kept(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    h1.open(presence("h1", "step", "poll/h1", newest_only=frozenset({"step"})))
    controller.open(mute("controller", "rep/+"))
    for i in range(5):
        controller.publish(ROOT + "step", b"%d" % i)
    controller.publish(ROOT + "poll/h1", b"poll")
    controller.receive(0.5)  # time passes, everything arrives
    got = collect(h1, lambda got: len(got) == 2)
    assert payloads(got) == [b"4", b"poll"]
    assert h1.statistics["superseded"] == 4
    assert h1.statistics["dropped"] == 0


def test_a_full_queue_drops_the_oldest_and_counts_it(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    h1.open(presence("h1", "poll/h1", queue=3))
    controller.open(mute("controller", "rep/+"))
    for i in range(10):
        controller.publish(ROOT + "poll/h1", b"%d" % i)
    controller.receive(0.5)
    assert payloads(collect(h1, lambda got: len(got) == 3)) == [b"7", b"8", b"9"]
    assert h1.statistics["dropped"] == 7
    assert h1.statistics["received"] == 10


def test_a_farewell_goes_out_and_no_will_follows(wire: Wire) -> None:
    controller, h1 = wire.transport("controller"), wire.transport("h1")
    controller.open(mute("controller", "conn/+", "rep/+"))
    h1.open(presence("h1"))
    collect(controller, live)
    h1.close([Outbound(ROOT + "conn/h1", b"bye", 1, True), Outbound(ROOT + "rep/h1", b"last")])
    h1.close()
    assert set(payloads(collect(controller, lambda got: len(got) == 2))) == {b"bye", b"last"}
    assert controller.receive(0.3) is None


def test_a_closed_transport_sends_nothing_and_can_be_opened_again(wire: Wire) -> None:
    h1 = wire.transport("h1")
    assert not h1.connected
    assert not h1.publish(ROOT + "rep/h1", b"early", qos=1)
    h1.open(presence("h1"))
    with pytest.raises(RuntimeError, match="open already"):
        h1.open(presence("h1"))
    h1.close()
    assert not h1.connected
    assert not h1.publish(ROOT + "rep/h1", b"late", qos=1)
    assert h1.statistics["unsent"] == 2
    h1.open(presence("h1"))
    assert h1.connected


def test_receive_returns_none_after_its_time(wire: Wire) -> None:
    h1 = wire.transport("h1")
    h1.open(mute("h1", "step"))
    assert h1.receive(0.05) is None
    assert h1.receive(0.0) is None


def test_retained_messages_come_for_own_filters_only(wire: Wire) -> None:
    controller, h1, h2 = (wire.transport(name) for name in ("controller", "h1", "h2"))
    controller.open(mute("controller", "roster/+"))
    h1.open(mute("h1"))
    h1.publish(ROOT + "roster/h1", b"mine", qos=1, retain=True)
    collect(controller, lambda got: len(got) == 1)
    h2.open(mute("h2", "poll/h2"))
    assert h2.receive(0.3) is None
