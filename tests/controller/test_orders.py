# SPDX-License-Identifier: MIT
"""Orders of the operator, the commands that carry them, and halts."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import msgspec
import pytest

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.epoch import write_atomically
from kofn.controller.link.memory import Faults
from kofn.controller.link.messages import Ack, Cmd, Event, Halt, encode
from kofn.controller.link.transport import Inbound
from kofn.controller.order_box import Order, OrderAnswer, OrderBox, send_order
from kofn.controller.orders import Orders
from kofn.controller.record import read_run
from kofn.controller.results import Decision


def give(fleet: Any, name: str, **order: Any) -> None:
    path = fleet.folder.path / "orders" / f"{name}.json"
    write_atomically(path, msgspec.json.encode(Order(**order)))


def answer(fleet: Any, name: str) -> OrderAnswer:
    payload = (fleet.folder.path / "orders" / f"{name}.answer.json").read_bytes()
    return msgspec.json.decode(payload, type=OrderAnswer)


def recorded(fleet: Any, kind: type) -> list[Any]:
    entries = read_run(fleet.folder.path)
    return [entry.message for entry in entries if isinstance(entry.message, kind)]


def at(steps: dict[int, Callable[[], None]]) -> Callable[[Decision], None]:
    """Return what calls each action right after the decision of its step."""

    def act(decision: Decision) -> None:
        if decision.t in steps:
            steps[decision.t]()

    return act


def slow() -> Faults:
    """Each step takes a while, so that orders are looked for in between."""
    return Faults(delay_s={"done": (0.5, 0.5)})


def test_held_host_is_out_of_the_frame_until_it_resumes(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())
    script = at(
        {
            2: lambda: give(fleet, "a", op="hold", hosts=["h1"], why="battery"),
            6: lambda: give(fleet, "b", op="resume", hosts=["h1"]),
        }
    )
    _, decisions = fleet.run(steps=12, progress=script)
    frames = [decision.frame for decision in decisions]
    assert [frame for frame, _ in groupby(frames)] == [7, 4, 7]
    assert frames[3:7] == [4] * 4
    assert answer(fleet, "a") == OrderAnswer(ok=True, text="1 of 1 hosts complied")
    assert answer(fleet, "b").ok
    assert [cmd.op for cmd in recorded(fleet, Cmd)] == ["HOLD", "RESUME"]
    assert all(decision.missing == 0 for decision in decisions)


def test_run_waits_while_the_whole_fleet_is_held(make_fleet: Any) -> None:
    fleet = make_fleet(4, faults=slow())
    freed: list[float] = []

    def should_stop() -> bool:
        if fleet.clock.now() > 100.0 and not freed:
            freed.append(fleet.clock.now())
            give(fleet, "b", op="resume", hosts=["h0"])
        return False

    script = at({2: lambda: give(fleet, "a", op="hold", hosts=["h0"])})
    summary, _ = fleet.run(steps=6, progress=script, should_stop=should_stop, wait_s=5.0)
    assert summary.completed
    assert freed


def test_lost_command_is_sent_again_and_obeyed_once(make_fleet: Any) -> None:
    faults = Faults(drop={"ack": 1.0}, delay_s={"done": (0.5, 0.5)})
    fleet = make_fleet(4, 3, faults=faults)
    script = at(
        {
            1: lambda: give(fleet, "a", op="hold", hosts=["h1"]),
            6: lambda: setattr(fleet.bus, "faults", slow()),
        }
    )
    fleet.run(steps=14, progress=script)
    assert answer(fleet, "a").ok
    counters = fleet.agents["h1"].counters
    assert counters["cmd_hold"] == 1
    assert counters["cmd_repeated"] >= 2


def test_host_that_does_not_answer_is_named(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=Faults(drop={"cmd": 1.0}, delay_s={"done": (0.5, 0.5)}))
    script = at({1: lambda: give(fleet, "a", op="hold", hosts=["h1"])})
    _, decisions = fleet.run(steps=30, progress=script)
    told = answer(fleet, "a")
    assert not told.ok
    assert told.hosts == {"h1": "no acknowledgement within 10 s"}
    assert decisions[-1].frame == 4  # out of the frame all the same


def test_unknown_host_is_refused_with_the_known_ones(make_fleet: Any) -> None:
    fleet = make_fleet(4, faults=slow())
    script = at({1: lambda: give(fleet, "a", op="hold", hosts=["h7"])})
    fleet.run(steps=6, progress=script)
    assert "h7 has not been heard of; known are h0" in answer(fleet, "a").hosts["h7"]


def test_rubbish_in_the_order_folder_is_answered_and_stops_nothing(make_fleet: Any) -> None:
    fleet = make_fleet(4, faults=slow())

    def throw() -> None:
        (fleet.folder.path / "orders" / "x.json").write_bytes(b"[" * 5000)
        (fleet.folder.path / "orders" / "y.json").write_bytes(b'{"op": "dance"}')

    assert fleet.run(steps=6, progress=at({1: throw}))[0].completed
    assert not answer(fleet, "x").ok
    assert "dance" in answer(fleet, "y").text


def test_host_that_leaves_says_goodbye_and_is_back_when_started_again(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())

    def restart() -> None:
        fleet.add("h1", 3, boot="again")

    def gone() -> None:
        assert b'"OFFLINE"' in fleet.bus._retained["kofn1/test/conn/h1"]
        assert fleet.banks["h1"]._left == 0
        restart()

    script = at({1: lambda: give(fleet, "a", op="leave", hosts=["h1"]), 5: gone})
    _, decisions = fleet.run(steps=10, progress=script)
    assert answer(fleet, "a").ok
    assert [decision.frame for decision in decisions] == [7] * 2 + [4] * 4 + [7] * 4


def test_agent_ends_its_work_when_it_is_told_to_leave(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    order = Cmd(ep=1, id="c", op="LEAVE", ttl=10_000)
    message = Inbound("kofn1/test/cmd/h0", encode(order), retained=False, at_s=0.0)
    fleet.agents["h0"].on_message(message)
    fleet.agents["h0"].run(lambda: False)  # returns at once


def test_command_that_was_read_too_late_is_refused(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    core = fleet.agents["h0"]._core
    ok, why, stops = core.see_command(Cmd(ep=1, id="c", op="HOLD", ttl=1000), age_s=1.5)
    assert (ok, stops) == (False, False)
    assert "1.5 s" in why


def test_held_host_is_held_again_when_it_starts_anew(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())

    def restart_anew() -> None:
        fleet.kill("h1")
        fleet.add("h1", 3, boot="anew")

    script = at({1: lambda: give(fleet, "a", op="hold", hosts=["h1"]), 4: restart_anew})
    _, decisions = fleet.run(steps=10, progress=script)
    assert [decision.frame for decision in decisions] == [7] * 2 + [4] * 8
    assert fleet.agents["h1"].counters["cmd_hold"] == 1


def test_refused_host_takes_part_once_the_reason_is_gone(make_fleet: Any) -> None:
    fleet = make_fleet(3, faults=slow())
    fleet.add("twin", 3, robots=("x-1", "h0-1", "x-2"))
    fleet.add("h2", 3)
    script = at({3: lambda: fleet.kill("h0")})
    _, decisions = fleet.run(steps=10, robots=6, progress=script)
    assert [cmd.op for cmd in recorded(fleet, Cmd)] == ["REFUSED", "RESUME"]
    assert decisions[-1].frame == 6  # twin and h2
    assert decisions[-1].missing == decisions[-1].unavailable == 0


def test_refused_host_cannot_be_told_to_resume(make_fleet: Any) -> None:
    fleet = make_fleet(3, faults=slow())
    fleet.add("twin", 3, robots=("x-1", "h0-1", "x-2"))
    script = at({1: lambda: give(fleet, "a", op="resume", hosts=["twin"])})
    fleet.run(steps=6, robots=3, progress=script)
    assert "already belongs to host h0" in answer(fleet, "a").hosts["twin"]


def test_ordered_halt_ends_the_run_when_every_host_has_answered(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3, faults=slow())
    script = at({2: lambda: give(fleet, "a", op="halt", why="smoke")})
    with pytest.raises(RunError, match=r"operator halted the fleet up to epoch 1: smoke$"):
        fleet.run(steps=12, progress=script)
    assert answer(fleet, "a").ok
    halted = [event for event in recorded(fleet, Event) if event.code == "halted"]
    assert len(halted) >= 2
    assert b"smoke" in fleet.bus._retained["kofn1/test/halt"]
    assert all(agent.holding for agent in fleet.agents.values())


def test_halt_is_repeated_for_a_host_that_does_not_hear_it_and_names_it(make_fleet: Any) -> None:
    fleet = make_fleet(4, 3)

    def halt() -> None:
        order = Halt(ep=1, by="operator", why="test")
        fleet.transports["h0"].publish("kofn1/test/halt", encode(order), retain=True)
        agent = fleet.bus._actors[fleet.transports["h1"]]
        agent.on_message = lambda message: heard.append(message.topic)

    heard: list[str] = []
    with pytest.raises(RunError, match=r"halted the fleet up to epoch 1: test; no answer from h1$"):
        fleet.run(steps=12, progress=at({2: halt}))
    assert heard.count("kofn1/test/halt") >= 5


def test_robot_that_is_unavailable_is_asked_again_after_ten_steps(make_fleet: Any) -> None:
    fleet = make_fleet(6)
    fleet.banks["h0"].up[0] = False
    _, decisions = fleet.run(steps=24, k=6)
    asked = [decision.t for decision in decisions if "h0-0" in decision.asked]
    assert asked == [0, 10, 20]
    assert [decision.frame for decision in decisions[:3]] == [6, 5, 5]


def test_fleet_that_is_unavailable_as_a_whole_is_asked_all_the_same(make_fleet: Any) -> None:
    fleet = make_fleet(3)
    fleet.banks["h0"].up[:] = False
    script = at({4: lambda: fleet.banks["h0"].up.fill(True)})
    _, decisions = fleet.run(steps=8, progress=script)
    assert [decision.fallback for decision in decisions] == [True] * 5 + [False] * 3


def test_newer_command_to_a_host_replaces_the_older() -> None:
    orders = Orders()
    first, second = (Cmd(ep=1, id=i, op="HOLD", ttl=10_000) for i in ("a", "b"))
    orders.give("h0", first, 0.0)
    orders.give("h0", second, 0.5)
    assert orders.due(1.0) == [("h0", second)]
    orders.acknowledge("h1", Ack(b="x", id="b", ok=True))  # not its host
    orders.acknowledge("h0", Ack(b="x", id="a", ok=True))  # too late
    assert [(result.cmd.id, result.ok) for result in orders.take_results()] == [("a", False)]
    orders.acknowledge("h0", Ack(b="x", id="b", ok=True))
    assert [(result.cmd.id, result.ok) for result in orders.take_results()] == [("b", True)]


def test_operator_is_told_when_nobody_is_there_to_take_orders(tmp_path: Any) -> None:
    order = Order(op="hold", hosts=["h0"])
    with pytest.raises(InputError, match="is not a run folder"):
        send_order(tmp_path, order, timeout_s=1.0)
    (tmp_path / "run.mcap").touch()
    ticks = iter(range(100))
    with pytest.raises(RunError, match="gave no answer within 3 s: does it run"):
        send_order(
            tmp_path, order, timeout_s=3.0, clock_s=lambda: next(ticks), pause=lambda _: None
        )
    assert OrderBox(tmp_path).take() == []  # an order that was given up is gone
    (tmp_path / "summary.json").touch()
    with pytest.raises(InputError, match="is over"):
        send_order(tmp_path, order, timeout_s=1.0)
