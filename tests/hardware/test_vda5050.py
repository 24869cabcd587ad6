# SPDX-License-Identifier: MIT
"""VDA 5050 in both dialects: each trap of the standard, an independent vehicle, and safety."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_broker import plain_broker

from kofn.controller.core.errors import InputError
from kofn.controller.link.clock import FakeClock, MonotonicClock
from kofn.controller.link.memory import MemoryBus
from kofn.controller.link.mqtt import MqttTransport
from kofn.controller.link.transport import Session, Transport
from kofn.hardware.drivers.vda5050 import CLEAR_AT, Vehicle
from kofn.hardware.drivers.vda5050_messages import Dialect, Node
from kofn.hardware.fakes.vehicle import FakeVehicle
from kofn.hardware.safety_states import Mode
from kofn.hardware.safety_task import Safety
from kofn.hardware.vda_bank import VdaBank, read_settings, robot_names

NODES = [Node(id=f"z{i}", x=float(np.cos(i)), y=float(np.sin(i))) for i in range(5)]
DIALECTS: list[Dialect] = [2, 3]


class Pair:
    """A vehicle and our side of it, joined by function calls on a fake clock."""

    def __init__(self, dialect: Dialect) -> None:
        self.fake, self.now_s = FakeVehicle(dialect), 0.0
        self.ours = Vehicle(dialect, "acme", "S1", NODES)
        self.ours.take("connection", self.fake.connection("ONLINE"), 0.0)
        self.tell()

    def send(self, messages: list[Any], *, lost: bool = False) -> list[dict[str, Any]]:
        sent = []
        for message in messages:
            kind = message.topic.rsplit("/", 1)[1]
            sent.append(json.loads(message.payload))
            if not lost:
                self.fake.take(kind, message.payload)
        return sent

    def tell(self) -> None:
        self.ours.take("state", self.fake.state(), self.now_s)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_zone_becomes_an_order_of_one_released_node_ahead(dialect: Dialect) -> None:
    pair = Pair(dialect)
    (order,) = pair.send(pair.ours.go(1, 0.0))
    assert [(node["nodeId"], node["released"]) for node in order["nodes"]] == [
        ("z0", True),
        ("z1", True),
    ]
    assert [part["sequenceId"] for part in (*order["nodes"], *order["edges"])] == [0, 2, 1]
    assert pair.fake.driving
    pair.fake.arrive()
    pair.tell()
    assert (pair.ours.zone(), pair.ours.confirmed) == (1, True)


def test_trap_a_finished_instant_actions_are_cleared_before_the_state_grows() -> None:
    pair = Pair(3)
    for _ in range(60):
        pair.now_s += 1.5
        pair.send(pair.ours.request_state(pair.now_s))
        pair.tell()
        pair.now_s += 1.5
        pair.send(pair.ours.due(pair.now_s))
        pair.tell()
    assert len(pair.fake.actions) <= CLEAR_AT + 2


@pytest.mark.parametrize("dialect", DIALECTS)
def test_trap_b_every_action_has_an_id_of_its_own(dialect: Dialect) -> None:
    pair, seen = Pair(dialect), []
    for i in range(50):
        out = [*pair.ours.request_state(10.0 * i), *pair.ours.stop(10.0 * i)]
        for message in pair.send(out):
            seen += [action["actionId"] for action in message["actions"]]
        pair.ours.go(1, 10.0 * i)
    other = Vehicle(dialect, "acme", "S1", NODES)  # after a restart of ours
    seen += [a["actionId"] for a in json.loads(other.stop(0.0)[0].payload)["actions"]]
    assert len(set(seen)) == len(seen) > 100


def test_trap_c_a_state_is_not_asked_for_sooner_than_the_vehicle_answers() -> None:
    pair = Pair(2)
    sheet = {"protocolLimits": {"timing": {"minimumStateInterval": 2.0}}}
    pair.ours.take("factsheet", json.dumps(sheet).encode(), 0.0)
    asked = [t / 10 for t in range(100) if pair.ours.request_state(t / 10)]
    assert asked == [2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_trap_d_the_same_order_sent_again_is_taken_once(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.send(pair.ours.go(1, 0.0))
    for t in (1.5, 3.0, 4.5):  # its state never comes
        pair.send(pair.ours.due(t))
    assert pair.fake.orders_taken == 1


@pytest.mark.parametrize(("dialect", "word"), [(2, "CONNECTIONBROKEN"), (3, "CONNECTION_BROKEN")])
def test_trap_e_a_will_counts_although_its_header_is_old(dialect: Dialect, word: str) -> None:
    pair = Pair(dialect)
    assert pair.ours.unavailable(0.0, 35.0) == ""
    pair.ours.take("connection", pair.fake.connection(word, "1991-03-11T11:40:03.123Z"), 1.0)
    assert pair.ours.unavailable(1.0, 35.0) == "not online"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_trap_f_a_lost_order_is_sent_again_until_the_state_shows_it(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.send(pair.ours.go(1, 0.0), lost=True)
    pair.tell()
    assert not pair.ours.due(0.5)
    pair.send(pair.ours.due(1.0))
    pair.tell()
    assert pair.ours.confirmed
    assert not pair.ours.due(5.0)
    assert pair.fake.orders_taken == 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_stop_pauses_then_cancels_and_is_repeated_while_it_drives(
    dialect: Dialect,
) -> None:
    pair = Pair(dialect)
    pair.send(pair.ours.go(1, 0.0))
    (message,) = pair.send(pair.ours.stop(1.0), lost=True)
    assert [action["actionType"] for action in message["actions"]] == ["startPause", "cancelOrder"]
    pair.now_s = 1.5
    pair.tell()
    pair.send(pair.ours.due(2.1))
    assert not pair.fake.driving
    assert pair.ours.stop(9.0) == []  # it stands: nothing to repeat
    pair.now_s = 3.0
    pair.tell()
    pair.send(pair.ours.go(2, 4.0))  # the pause is lifted by the next order only
    assert pair.fake.driving


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mode": "MANUAL"}, "operating mode MANUAL"),
        ({"stop": "MANUAL"}, "emergency stop MANUAL"),
        ({"field": True}, "protective field violated"),
        ({"errors": [{"errorType": "motor", "errorLevel": "FATAL"}]}, "FATAL motor"),
        ({"node": "elsewhere"}, "position unknown"),
    ],
)
def test_what_a_vehicle_says_of_itself_makes_it_unavailable(
    dialect: Dialect, change: dict[str, Any], why: str
) -> None:
    pair = Pair(dialect)
    for name, value in change.items():
        setattr(pair.fake, name, value)
    pair.tell()
    assert pair.ours.unavailable(0.0, 35.0) == why


def test_a_state_that_cannot_be_read_is_refused_and_changes_nothing() -> None:
    pair = Pair(2)
    before = pair.ours.state
    for junk in (b"", b"{}", b"[1]", b"\xff\xfe", pair.fake.state()[:-20]):
        with pytest.raises(InputError, match="not a VDA 5050 state"):
            pair.ours.take("state", junk, 1.0)
    assert pair.ours.state is before


def test_official_schemas_accept_what_we_send_in_2_1() -> None:
    schemas = pytest.importorskip("vda5050.validation", reason="needs the extra dev")
    pair = Pair(2)
    validator = schemas.default_validator()
    for message in pair.ours.go(1, 0.0):
        validator.validate("order", json.loads(message.payload))
    for message in (*pair.ours.stop(0.0), *pair.ours.request_state(5.0)):
        validator.validate("instantActions", json.loads(message.payload))


def test_required_fields_of_3_0_are_there() -> None:
    """Required fields by the 3.0.0 schemas of order and instantActions."""
    header = {"headerId", "timestamp", "version", "manufacturer", "serialNumber"}
    pair = Pair(3)
    order = json.loads(pair.ours.go(1, 0.0)[0].payload)
    assert header | {"orderId", "orderUpdateId", "nodes", "edges"} == set(order)
    for node in order["nodes"]:
        assert {"nodeId", "sequenceId", "released", "actions"} <= set(node)
        assert {"x", "y", "mapId"} == set(node["nodePosition"])
    assert {"edgeId", "sequenceId", "released", "actions"} == set(order["edges"][0])
    stop = json.loads(pair.ours.stop(0.0)[0].payload)
    assert header | {"actions"} == set(stop)
    for action in stop["actions"]:
        assert {"actionType", "actionId", "blockingType"} <= set(action)


def settings_for(url: str, dialects: list[Dialect]) -> dict[str, Any]:
    return {
        "url": url,
        "vehicles": [
            {"manufacturer": "acme", "serial": f"S{i}", "dialect": dialect}
            for i, dialect in enumerate(dialects)
        ],
        "nodes": [{"id": node.id, "x": node.x, "y": node.y, "map": "M1"} for node in NODES],
        "request_after_s": 0.5,
    }


class Yard:
    """A bank of fake vehicles on a memory bus with a fake clock."""

    def __init__(self, dialects: list[Dialect], **changes: Any) -> None:
        self.clock = FakeClock()
        self.mute = False
        bus = MemoryBus(self.clock)
        settings = read_settings({**settings_for("mqtt://127.0.0.1", dialects), **changes})
        self.safety = Safety(robot_names(settings), self.clock)
        self.bank = VdaBank(
            settings,
            clock=self.clock,
            safety=self.safety,
            transport=bus.transport(),
            option_s=30.0,
        )
        self.fakes = [FakeVehicle(dialect, f"S{i}") for i, dialect in enumerate(dialects)]
        self.far: Transport = bus.transport()
        topics = [
            (fake.topic(kind), 0) for fake in self.fakes for kind in ("order", "instantActions")
        ]
        self.far.open(Session("vehicles", topics, lambda _: None, lambda _: ()))
        self.bank.open()
        self.round()
        for i in range(len(dialects)):
            assert self.safety.arm(i) == []

    def round(self, duration_s: float = 0.1, *, only_news: bool = False) -> None:
        """Let vehicles hear and answer, `only_news` as the standard asks; the bank reads it."""
        self.clock.advance_to(self.clock.now() + duration_s)
        while (message := self.far.receive(0.0)) is not None:
            for fake in self.fakes:
                for kind in ("order", "instantActions"):
                    if message.topic == fake.topic(kind):
                        fake.take(kind, message.payload)
        for fake in self.fakes:
            if self.mute or (only_news and not fake.news):
                continue
            self.far.publish(fake.topic("connection"), fake.connection("ONLINE"))
            self.far.publish(fake.topic("state"), fake.state())
        self.bank.read()

    def close(self) -> None:
        self.bank.close()


@contextmanager
def yard(dialects: list[Dialect], **changes: Any) -> Iterator[Yard]:
    made = Yard(dialects, **changes)
    try:
        yield made
    finally:
        made.close()


def test_a_bank_of_both_dialects_acts_on_a_step() -> None:
    with yard([2, 3]) as made:
        assert made.bank.read().zones.tolist() == [0, 0]
        assert made.bank.read().up.tolist() == [True, True]
        made.bank.apply(np.array([1, 2]))
        made.round()
        assert [fake.driving for fake in made.fakes] == [True, True]
        for fake in made.fakes:
            fake.arrive()
        made.round()
        assert made.bank.read().zones.tolist() == [1, 4]


def test_a_vehicle_that_speaks_only_when_asked_drives_on_until_it_stops_answering() -> None:
    with yard([2], request_after_s=2.0) as made:
        made.bank.apply(np.array([1]))
        fake = made.fakes[0]
        for _ in range(100):  # 10 s: most of them without a state
            made.bank.advance()
            made.round(only_news=True)
            made.safety.check()
        assert fake.driving
        assert made.safety.mode() is Mode.ARMED
        made.mute = True
        for _ in range(50):  # two answers and pose_max_age_s: 4 + 1 s
            made.bank.advance()
            made.round()
            made.safety.check()
        assert not fake.driving


def late(made: Yard, duration_s: float) -> None:
    made.clock.advance_to(made.clock.now() + duration_s)


@pytest.mark.parametrize(
    "cause",
    ["hold", "halt", "local estop", "dead-man", "link", "disarm", "fault", "close"],
)
def test_vehicles_stop_for_every_cause_and_stay_stopped(cause: str) -> None:
    causes: dict[str, Callable[[Yard], Any]] = {
        "hold": lambda y: y.bank.hold(),
        "halt": lambda y: y.safety.see_halt(3, "operator", "", live=True),
        "local estop": lambda y: y.safety.estop(),
        "dead-man": lambda y: late(y, 0.6),
        "link": lambda y: y.safety.see_link(2.1),
        "disarm": lambda y: y.safety.disarm(0),
        "fault": lambda y: setattr(
            y.fakes[0], "errors", [{"errorType": "motor", "errorLevel": "FATAL"}]
        ),
        "close": lambda y: y.bank.close(),
    }
    with yard([2]) as made:
        made.bank.apply(np.array([1]))
        made.round()
        fake = made.fakes[0]
        assert fake.driving
        causes[cause](made)
        made.safety.check()
        for _ in range(3):
            made.round()
        assert fake.paused
        taken = fake.orders_taken
        if cause != "close":
            made.bank.advance()  # what was ordered before is not sent again
            made.round(2.0)
        assert fake.orders_taken == taken
        assert (fake.paused, fake.targets) == (True, [])


def test_a_vehicle_that_seldom_reports_drives_on_until_it_does_not_answer() -> None:
    with yard([2]) as made:
        made.bank.apply(np.array([1]))
        made.round()
        for wait_s, moves in ((2.0, True), (0.4, True), (2.0, False)):  # asked after 0.5 s
            for _ in range(round(wait_s / 0.1)):  # its agent beats, it says nothing
                late(made, 0.1)
                made.bank.advance()
                made.safety.check()
            assert made.safety.permits(0) is moves
        assert made.safety.why(0) == "pose_stale"


def test_an_idle_edge_hears_its_vehicles_and_can_be_armed_without_a_controller() -> None:
    with yard([3]) as made:
        made.safety.disarm(0)
        late(made, 5.0)
        assert made.safety.objections(0) == ["no pose younger than 1 s"]
        made.bank.idle()  # asks
        made.far.publish(made.fakes[0].topic("state"), made.fakes[0].state())
        made.bank.idle()
        assert made.safety.arm(0) == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fake_vehicle_drives_to_its_node_and_its_zone_and_place_follow(dialect: Dialect) -> None:
    pair = Pair(dialect)
    pair.fake.place = NODES[0].x, NODES[0].y
    pair.send(pair.ours.go(1, 0.0))
    seen = []
    for _ in range(60):
        pair.fake.roll(0.05)
        pair.tell()
        assert pair.ours.state is not None
        assert pair.ours.state.position is not None
        seen.append((pair.ours.zone(), pair.ours.state.position))
    way_m = np.hypot(*np.diff([place for _, place in seen], axis=0).T)
    assert way_m.max() == pytest.approx(0.4 * 0.05)
    assert [seen[0][0], seen[-1][0]] == [0, 1]
    assert seen[-1][1] == pytest.approx((NODES[1].x, NODES[1].y))
    assert not pair.fake.driving


def test_disarmed_vehicles_get_no_order_and_an_emergency_stop_needs_its_release() -> None:
    with yard([3]) as made:
        made.safety.see_epoch(1)
        made.safety.see_halt(1, "operator", "", live=True)
        made.round()
        made.bank.apply(np.array([1]))
        made.round()
        assert made.fakes[0].orders_taken == 0
        assert made.safety.mode() is Mode.ESTOP
        made.safety.see_epoch(2)
        assert made.safety.release() == []
        made.round()
        assert made.safety.arm() == []
        made.bank.apply(np.array([1]))
        made.round()
        assert made.fakes[0].driving


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vehicles": []}, "vehicles names none"),
        ({"nodes": [{"id": "a", "x": 0, "y": 0}]}, "1 nodes, a ring needs at least 3"),
        ({"vehicles": [{"manufacturer": "a/b", "serial": "1"}]}, "manufacturer 'a/b' may hold"),
        ({"dialect": 2}, "unknown field `dialect`"),
        ({"request_after_s": 99.0}, "oldest_s = 35.0 must hold"),
    ],
)
def test_bad_settings_are_one_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_settings(settings_for("mqtt://127.0.0.1", [2]) | change)


@pytest.mark.broker
def test_an_independent_vehicle_on_a_real_broker_obeys_and_stops(tmp_path: Path) -> None:
    """The vehicle of PyPI's vda5050-sdk, over aiomqtt, with a broker process between us."""
    pytest.importorskip("vda5050", reason="needs the extra dev")
    pytest.importorskip("aiomqtt", reason="needs the extra dev")
    from vda5050.client.agv.client import VehicleClient
    from vda5050.config import VehicleConfig

    orders: list[str] = []
    actions: list[str] = []
    ready, end = threading.Event(), threading.Event()

    async def vehicle(url: str) -> None:
        config = VehicleConfig(broker_url=url, manufacturer="acme", serial_number="S0")
        client = VehicleClient(config)
        client.on_order(lambda order: orders.append(order.nodes[-1].node_id))
        client.on_instant_actions(
            lambda message: actions.extend(action.action_type for action in message.actions)
        )
        async with client:
            client.update_position(x=NODES[0].x, y=NODES[0].y, theta=0.0, map_id="M1")
            client.mark_node_traversed("z0", 0)
            await client.publish_state()
            ready.set()
            await asyncio.to_thread(end.wait)

    def until(condition: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + 15.0
        while time.monotonic() < deadline_s:
            bank.advance()
            if condition():
                return True
            time.sleep(0.01)
        return False

    with plain_broker(tmp_path) as broker:
        thread = threading.Thread(target=lambda: asyncio.run(vehicle(broker.url)))
        thread.start()
        clock = MonotonicClock()
        settings = read_settings(settings_for(broker.url, [2]))
        safety = Safety(robot_names(settings), clock)
        bank = VdaBank(
            settings, clock=clock, safety=safety, transport=MqttTransport(broker.url, clock)
        )
        try:
            assert ready.wait(15.0)
            bank.open()
            assert until(lambda: bank.why_unavailable(0) == "")
            assert until(lambda: "cancelOrder" in actions)  # open stops whatever was going on
            assert safety.arm() == []
            bank.apply(np.array([1]))
            assert until(lambda: orders == ["z1"])
            assert until(lambda: bank.vehicles[0].confirmed)
            before = len(actions)
            safety.estop()
            assert until(lambda: actions[before : before + 2] == ["startPause", "cancelOrder"])
            assert orders == ["z1"]
        finally:
            bank.close()
            end.set()
            thread.join()
