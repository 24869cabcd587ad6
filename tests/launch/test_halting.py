# SPDX-License-Identifier: MIT
"""A halt from outside names the epoch in force, also on a broker that has just forgotten it."""

import msgspec

from kofn.controller.link.messages import Conn, Ctl, Event, Halt, Message, decode, encode
from kofn.controller.link.topics import Topics
from kofn.controller.link.transport import Inbound
from kofn.launch.halting import ANSWER_S, REPEAT_S, UNKNOWN_S, Halting

TOPICS = Topics("f")


class Talk:
    """A halting and its time; messages that come, halts that go out."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.halting = Halting(TOPICS, "test", self.now_s)
        self.out: list[int] = []

    def hear(self, kind: str, message: Message, name: str = "") -> None:
        topic = TOPICS.of(kind, name) if name else f"{TOPICS.root}{kind}"
        self.halting.take(Inbound(topic, encode(message), retained=False, at_s=0.0), self.now_s)

    def controller(self, epoch: int) -> None:
        ctl = Ctl(ep=epoch, b="b", c=1, st="ONLINE", pace="realtime", period=1000, hold=3000)
        self.hear("ctl", ctl)

    def online(self, host: str) -> None:
        self.hear("conn", Conn(b="b", c=1, st="ONLINE", n=1), host)

    def answer(self, host: str, epoch: int) -> None:
        text = f"halt of epoch {epoch} by operator"
        self.hear("evt", Event(b="b", code="halted", n=1, text=text), host)

    def wait(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        while self.now_s < end_s and not self.halting.over(self.now_s):
            halt = self.halting.due(self.now_s)
            if halt is not None:
                assert (halt.topic, halt.qos, halt.retain) == (TOPICS.halt, 1, True)
                self.out.append(decode(Halt, halt.payload).ep)
            self.now_s += 0.05

    def over(self) -> bool:
        return self.halting.over(self.now_s)


def test_it_ends_when_all_that_are_online_have_answered() -> None:
    talk = Talk()
    talk.controller(7)
    talk.online("a")
    talk.online("b")
    talk.wait(0.6)
    assert set(talk.out) == {7}
    talk.answer("a", 7)
    assert not talk.over()
    talk.answer("b", 7)
    assert talk.over()
    assert (talk.halting.answered, talk.halting.silent) == ({"a", "b"}, set())


def test_answers_to_a_halt_below_the_epoch_in_force_do_not_end_it() -> None:
    """A broker that was started anew: hosts are back before the controller is."""
    talk = Talk()
    talk.online("a")
    talk.wait(0.6)
    assert set(talk.out) == {0}
    talk.answer("a", 0)
    talk.wait(2.0)
    assert not talk.over()
    talk.controller(3)
    talk.wait(0.1)
    assert talk.out[-1] == 3  # at once
    assert talk.halting.silent == {"a"}
    talk.answer("a", 0)  # of before, late
    assert not talk.over()
    talk.answer("a", 3)
    assert talk.over()
    assert talk.halting.epoch == 3


def test_a_host_that_obeys_a_higher_epoch_says_so_where_no_controller_is() -> None:
    talk = Talk()
    talk.online("a")
    talk.wait(0.6)
    text = "epoch 5 is in force, the halt is of epoch 0"
    talk.hear("evt", Event(b="b", code="halt_low", n=1, text=text), "a")
    talk.wait(0.1)
    assert talk.out[-1] == 5
    talk.answer("a", 5)
    assert talk.over()
    assert talk.halting.sure


def test_without_anybody_it_is_above_every_halt_and_not_sure() -> None:
    talk = Talk()
    talk.hear("halt", Halt(ep=4, by="controller", why=""))
    talk.wait(UNKNOWN_S + 1)
    assert talk.over()
    assert set(talk.out) == {5}
    assert len(talk.out) >= UNKNOWN_S / REPEAT_S - 2
    assert not talk.halting.sure


def test_silence_is_waited_for_and_named() -> None:
    talk = Talk()
    talk.controller(2)
    talk.online("a")
    talk.wait(ANSWER_S - 0.1)
    assert not talk.over()
    talk.wait(1.0)
    assert talk.over()
    assert talk.halting.silent == {"a"}


def test_nonsense_changes_nothing() -> None:
    talk = Talk()
    for payload in (b"{", b"", b"[]", msgspec.json.encode({"v": 1})):
        for topic in (TOPICS.ctl, TOPICS.halt, TOPICS.of("conn", "a"), TOPICS.of("evt", "a"), "x"):
            talk.halting.take(Inbound(topic, payload, retained=True, at_s=0.0), talk.now_s)
    lie = Event(b="b", code="halt_low", n=1, text="epoch 99999999999999999999 is in force")
    talk.hear("evt", lie, "a")
    talk.wait(0.6)
    assert set(talk.out) == {0}
