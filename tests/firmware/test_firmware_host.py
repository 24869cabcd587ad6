# SPDX-License-Identifier: MIT
"""The board's `Host` obeys the same rules as `HostCore`: both see the same events, and agree."""

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from robot import wire
from robot.host import Host
from robot.shelf import Shelf

from kofn.controller.link.messages import Cmd, Ctl, Halt, Poll, Step, encode
from kofn.controller.link.policies import pack_policy
from kofn.hardware.driver import Reading
from kofn.hardware.host_core import HostCore, Verdict
from kofn.hardware.local_policy import PolicyShelf

ZONES = 3
# Every zone and target has its own certain action, so the streams of the draws do not matter.
ACTIONS = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
TABLE = np.eye(3)[ACTIONS]
DIGEST, PAYLOAD = pack_policy(TABLE)
POLICY = "sha256:" + DIGEST

Events = list[tuple[str, Any]]


def steps() -> st.SearchStrategy[tuple[str, Any]]:
    return st.builds(
        lambda ep, t, g, ttl, known: (
            "step",
            Step(
                ep=ep, t=t, up=1000 * t, g=g, u=0, ttl=ttl, k=1, m=(1, 0, 0, 0),
                pol=POLICY if known else "sha256:" + "0" * 64,
            ),
        ),
        st.integers(0, 2), st.integers(0, 6), st.integers(0, 3), st.sampled_from([500, 2000]),
        st.sampled_from([True, True, True, True, False]),
    )  # fmt: skip


EVENT = st.one_of(
    steps(),
    steps(),
    st.builds(
        lambda ep, t: (
            "poll",
            Poll(ep=ep, t=t, up=0, q="0123456789abcdef", w=1, ttl=500, ids=["r0", "other"]),
        ),
        st.integers(0, 2),
        st.integers(0, 6),
    ),
    st.builds(lambda ep: ("halt", Halt(ep=ep, by="operator")), st.integers(0, 2)),
    st.builds(
        lambda ep, op, number: ("cmd", Cmd(ep=ep, id=f"c{number}", op=op, ttl=1000)),
        st.integers(0, 2),
        st.sampled_from(["HOLD", "RESUME", "LEAVE", "REFUSED"]),
        st.integers(0, 3),
    ),
    st.builds(
        lambda ep, c, state: (
            "ctl",
            Ctl(ep=ep, b="c", c=c, st=state, pace="realtime", period=1000, hold=0, beat=500),
        ),
        st.integers(0, 2),
        st.integers(1, 2),
        st.sampled_from(["ONLINE", "ONLINE", "OFFLINE", "CONNECTION_BROKEN"]),
    ),
    # Eighths of a second are exact in our floats too, so nothing hangs on their rounding.
    st.builds(lambda eighths: ("wait", 125 * eighths), st.integers(0, 12)),
    st.builds(lambda zone: ("zone", zone), st.integers(-1, ZONES - 1)),
)


class Ours:
    """`HostCore`, driven as the agent drives it."""

    def __init__(self) -> None:
        shelf = PolicyShelf(ZONES, ZONES, 3)
        shelf.add(DIGEST, PAYLOAD)
        self.core = HostCore(
            host="h", boot="b", robots=["r0"], shelf=shelf, n_targets=ZONES, pace="realtime",
            hold_s=9.0, seed=0, needs_controller=True,
        )  # fmt: skip

    def see(self, kind: str, message: Any, zone: int, now: int) -> Any:
        core, at = self.core, now / 1000
        if kind == "step":
            verdict, code, _ = core.judge(message, at, at)
            if verdict is not Verdict.TAKE:
                return verdict.value, code
            reading = Reading(np.array([zone]), np.array([zone >= 0]), at)
            replies = core.see(message, reading, received_s=at, now_s=at)
            return "take", int(core.act().actions[0]), rows_of(replies)
        if kind == "poll":
            return rows_of(core.answer(message, received_s=at, now_s=at))
        if kind == "halt":
            return core.see_halt(message)
        if kind == "cmd":
            ok, _, stops = core.see_command(message)
            return ok, stops
        if kind == "ctl":
            return core.see_ctl(message)
        why, replies = core.expire(at)
        return why, rows_of(replies)


class Board:
    """The firmware's `Host`, fed with the bytes that would come over the air."""

    def __init__(self) -> None:
        shelf = Shelf(ZONES, ZONES, 3)
        shelf.add(DIGEST, PAYLOAD)
        self.core = Host("h", "b", "r0", shelf, ZONES, 9000, 0)

    def see(self, kind: str, message: Any, zone: int, now: int) -> Any:
        core = self.core
        if kind == "wait":
            why, replies = core.expire(now)
            return why, [reply["r"] for reply in replies]
        decoded = getattr(wire, kind)(encode(message))
        if kind == "step":
            verdict, code, _ = core.judge(decoded, now, now)
            if verdict != "take":
                return verdict, code
            action, replies = core.take(decoded, zone, now, now)
            return "take", action, [reply["r"] for reply in replies]
        if kind == "poll":
            return [reply["r"] for reply in core.answer(decoded, now)]
        if kind == "halt":
            return core.see_halt(decoded)
        if kind == "cmd":
            ok, _, stops = core.see_command(decoded)
            return ok, stops
        return core.see_ctl(decoded)


def rows_of(replies: Any) -> list[Any]:
    """Rows of replies as they lie on the wire, defaults left out as the board leaves them out."""
    plain = [msgspec.json.decode(encode(reply))["r"] for reply in replies]
    return [[row[:4] if row[4:] == [None, None] else row for row in rows] for rows in plain]


@given(st.lists(EVENT, max_size=40))
@settings(max_examples=300, deadline=None)
def test_the_board_judges_latches_and_answers_as_the_host_agent_does(events: Events) -> None:
    ours, board, zone, now = Ours(), Board(), 0, 0
    for kind, what in events:
        if kind == "zone":
            zone = what
            continue
        if kind == "wait":
            now += what
        seen = board.see(kind, what, zone, now)
        expected = ours.see(kind, what, zone, now)
        assert seen == expected, (kind, what)
        assert (board.core.refusal is None) == (ours.core.refusal is None)


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_from_the_air_raise_anything_but_bad(payload: bytes) -> None:
    for name in ("ctl", "step", "poll", "cmd", "halt"):
        try:
            getattr(wire, name)(payload)
        except wire.Bad:
            continue


@given(
    st.sampled_from(["ep", "t", "up", "g", "ttl", "pol", "v"]),
    st.one_of(
        st.booleans(), st.none(), st.floats(allow_nan=False), st.integers(max_value=-1),
        st.integers(min_value=2**53), st.lists(st.integers(), max_size=2), st.just({"a": []}),
    ),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_step_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    step = Step(ep=1, t=1, up=0, g=1, u=0, ttl=500, pol=POLICY, k=1, m=(1, 0, 0, 0))
    fields = msgspec.json.decode(encode(step))
    fields[field] = value
    usable_list = field == "g" and isinstance(value, list) and value and 0 <= value[0] < 2**31
    try:
        wire.step(msgspec.json.encode(fields))
    except wire.Bad:
        return
    assert usable_list


def test_space_hashes_are_those_of_the_controller() -> None:
    from kofn.controller.link.policies import spaces_of

    assert wire.spaces(5, 4, 3) == tuple(spaces_of(5, 4, 3))


def test_draws_follow_the_policy() -> None:
    shelf = Shelf(1, 1, 3)
    table = np.array([[[0.2, 0.5, 0.3]]])
    digest, payload = pack_policy(table)
    assert shelf.add(digest, payload)
    from robot.shelf import uniform

    drawn = [shelf.draw("sha256:" + digest, 0, 0, uniform(1, "h", t)) for t in range(20_000)]
    share = np.bincount(drawn, minlength=3) / len(drawn)
    # Three standard deviations of a share of 20 000 draws are at most 0.011.
    assert np.abs(share - table[0, 0]).max() < 0.011


def test_a_policy_that_does_not_hash_to_its_topic_is_refused() -> None:
    shelf = Shelf(ZONES, ZONES, 3)
    for digest, payload in ((DIGEST, PAYLOAD + b" "), ("0" * 64, PAYLOAD)):
        try:
            shelf.add(digest, payload)
        except wire.Bad:
            continue
        raise AssertionError
    assert shelf.have() == []
