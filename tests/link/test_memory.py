# SPDX-License-Identifier: MIT
"""The memory bus: the part of its behaviour that real brokers do not share."""

from collections.abc import Sequence

import pytest

from kofn.controller.core.errors import RunError
from kofn.controller.link.clock import FakeClock
from kofn.controller.link.memory import Faults, MemoryBus, MemoryTransport
from kofn.controller.link.transport import Inbound, Outbound, Session


def session(name: str, *filters: str, newest_only: Sequence[str] = ()) -> Session:
    return Session(
        client_id=name,
        filters=[(pattern, 0) for pattern in filters],
        will=lambda c: Outbound(f"kofn1/f/conn/{name}", b"broken %d" % c, 1, True),
        birth=lambda c: [Outbound(f"kofn1/f/conn/{name}", b"online %d" % c, 1, True)],
        newest_only=frozenset(newest_only),
    )


def opened(bus: MemoryBus, name: str, *filters: str) -> MemoryTransport:
    transport = bus.transport()
    transport.open(session(name, *filters))
    return transport


class Echo:
    """Answers a poll `work` wake-ups after it, the last of them `delay_s` later."""

    def __init__(
        self, bus: MemoryBus, transport: MemoryTransport, work: int = 0, delay_s: float = 0.0
    ) -> None:
        self.bus, self.transport = bus, transport
        self.work, self.delay_s = work, delay_s
        self.left = 0
        self.answer_at: float | None = None
        self.seen: list[Inbound] = []

    def on_message(self, message: Inbound) -> None:
        self.seen.append(message)
        self.left = self.work
        self.answer_at = message.at_s + self.delay_s

    def on_time(self) -> float | None:
        if self.left:
            self.left -= 1
            return self.bus.clock.now()
        if self.answer_at is not None and self.answer_at <= self.bus.clock.now():
            self.transport.publish("kofn1/f/rep/h", b"reply")
            self.answer_at = None
        return self.answer_at


def test_an_actor_answers_after_its_delay_and_the_clock_moves_to_it() -> None:
    bus = MemoryBus(FakeClock(100.0))
    controller = opened(bus, "controller", "kofn1/f/rep/+")
    host = opened(bus, "h", "kofn1/f/poll/h")
    bus.attach(Echo(bus, host, work=3, delay_s=1.5), host)
    controller.publish("kofn1/f/poll/h", b"poll")
    assert controller.receive(10.0) == Inbound("kofn1/f/rep/h", b"reply", False, 101.5)
    assert controller.receive(10.0) is None
    assert bus.clock.now() == pytest.approx(111.5)


def test_a_timeout_of_zero_does_not_move_the_clock() -> None:
    bus = MemoryBus(FakeClock(5.0))
    controller = opened(bus, "controller", "kofn1/f/rep/+")
    host = opened(bus, "h", "kofn1/f/poll/h")
    bus.attach(Echo(bus, host, delay_s=1.0), host)
    controller.publish("kofn1/f/poll/h", b"poll")
    assert controller.receive(0.0) is None
    assert bus.clock.now() == 5.0


def test_messages_reach_a_busy_actor_between_its_slices() -> None:
    bus = MemoryBus(FakeClock())
    controller = opened(bus, "controller", "kofn1/f/rep/+")
    host, other = opened(bus, "h", "kofn1/f/poll/h"), opened(bus, "o", "kofn1/f/rep/h")
    echo = Echo(bus, host, work=50)
    bus.attach(echo, host)

    class Interrupter:
        def on_message(self, message: Inbound) -> None: ...

        def on_time(self) -> float | None:
            if echo.left == 20 and len(echo.seen) == 1:
                other.publish("kofn1/f/poll/h", b"second")
            return bus.clock.now() if echo.left else None

    bus.attach(Interrupter(), other)
    controller.publish("kofn1/f/poll/h", b"first")
    assert controller.receive(1.0) is not None
    assert [m.payload for m in echo.seen] == [b"first", b"second"]


def test_an_actor_that_never_rests_is_an_error_and_not_a_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kofn.controller.link.memory._RESTLESS_CALLS", 100)
    bus = MemoryBus(FakeClock())
    controller, host = opened(bus, "controller"), opened(bus, "h", "kofn1/f/poll/h")
    bus.attach(Echo(bus, host, work=10**9), host)
    controller.publish("kofn1/f/poll/h", b"poll")
    with pytest.raises(RunError, match="100 times"):
        controller.receive(1.0)


def test_messages_that_waited_before_attach_go_to_the_actor() -> None:
    bus = MemoryBus(FakeClock())
    controller = opened(bus, "controller")
    controller.publish("kofn1/f/ctl", b"ctl", retain=True)
    host = opened(bus, "h", "kofn1/f/ctl")
    controller.receive(1.0)
    assert len(host.inbox) == 1
    echo = Echo(bus, host)
    bus.attach(echo, host)
    controller.receive(1.0)
    assert [(m.payload, m.retained) for m in echo.seen] == [(b"ctl", True)]


def test_a_killed_actor_is_detached_and_gets_nothing_more() -> None:
    bus = MemoryBus(FakeClock())
    controller = opened(bus, "controller", "kofn1/f/conn/+", "kofn1/f/rep/+")
    host = opened(bus, "h", "kofn1/f/poll/h")
    echo = Echo(bus, host)
    bus.attach(echo, host)
    controller.publish("kofn1/f/poll/h", b"poll")
    bus.break_connection(host)
    got = [m.payload for m in iter(lambda: controller.receive(1.0), None)]
    assert got == [b"online 1", b"online 1", b"broken 1"]  # its own, then the host's
    assert echo.seen == []
    assert not host.publish("kofn1/f/rep/h", b"x")


def test_a_later_client_takes_the_identity_over() -> None:
    bus = MemoryBus(FakeClock())
    first = opened(bus, "h")
    second = opened(bus, "h")
    assert not first.connected
    assert second.connected


def _run_with(faults: Faults, count: int = 400) -> list[tuple[str, float]]:
    bus = MemoryBus(FakeClock(), faults)
    controller = opened(bus, "controller", "kofn1/f/rep/+", "kofn1/f/step")
    host = opened(bus, "h")
    for i in range(count):
        host.publish("kofn1/f/rep/h", b"%d" % i)
        host.publish("kofn1/f/step", b"s%d" % i)
    return [(m.payload.decode(), m.at_s) for m in iter(lambda: controller.receive(60.0), None)]


def test_faults_repeat_with_the_seed_and_concern_their_kind_only() -> None:
    def faults(seed: int) -> Faults:
        return Faults(
            seed=seed, drop={"rep": 0.25}, duplicate={"rep": 0.1}, delay_s={"rep": (0.1, 2.0)}
        )

    got = _run_with(faults(3))
    assert got == _run_with(faults(3))
    assert got != _run_with(faults(4))
    steps = [row for row in got if row[0].startswith("s")]
    assert steps == [(f"s{i}", 0.0) for i in range(400)]
    replies = [row for row in got if not row[0].startswith("s")]
    kept = {name for name, _ in replies}
    assert 0.65 < len(kept) / 400 < 0.85
    assert 0.02 < len(replies) / len(kept) - 1 < 0.2
    assert all(0.1 <= at_s <= 2.0 for _, at_s in replies)
    assert [int(name) for name, _ in replies] != sorted(int(name) for name, _ in replies)


def test_loss_of_one_kind_leaves_the_stream_of_another_as_it_was() -> None:
    def delayed(drop: dict[str, float]) -> list[tuple[str, float]]:
        rows = _run_with(Faults(seed=1, drop=drop, delay_s={"step": (0.0, 1.0)}), 50)
        return [row for row in rows if row[0].startswith("s")]

    assert delayed({"rep": 0.9}) == delayed({})


def test_after_a_restart_of_the_broker_retained_messages_are_gone_and_sessions_are_back() -> None:
    bus = MemoryBus(FakeClock())
    controller = opened(bus, "controller", "kofn1/f/conn/+", "kofn1/f/rep/+")
    host = opened(bus, "h", "kofn1/f/poll/h")
    echo = Echo(bus, host)
    bus.attach(echo, host)
    controller.publish("kofn1/f/ctl", b"ctl", retain=True)
    while controller.receive(1.0):
        pass
    bus.restart()
    late = opened(bus, "late", "kofn1/f/ctl")
    assert late.receive(1.0) is None
    got = [m.payload for m in iter(lambda: controller.receive(1.0), None)]
    assert b"online 2" in got
    assert not any(payload.startswith(b"broken") for payload in got)
    controller.publish("kofn1/f/poll/h", b"poll")
    assert [m.payload for m in iter(lambda: controller.receive(1.0), None)] == [b"reply"]


def test_faults_may_start_and_end_during_a_run() -> None:
    bus = MemoryBus(FakeClock())
    controller = opened(bus, "controller", "kofn1/f/rep/+")
    host = opened(bus, "h")
    bus.faults = Faults(drop={"rep": 1.0})
    host.publish("kofn1/f/rep/h", b"lost")
    bus.faults = None
    host.publish("kofn1/f/rep/h", b"kept")
    assert [m.payload for m in iter(lambda: controller.receive(1.0), None)] == [b"kept"]
