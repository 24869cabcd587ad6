# SPDX-License-Identifier: MIT
"""The decoder against whatever can be on the wire: a message, or `InputError`, and nothing else."""

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_messages import KINDS, any_message

from kofn.controller.core.errors import InputError
from kofn.controller.link import messages as m

TOKENS = [
    *(b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"-1", b"0.5", b"1e999", b"NaN"),
    *(b"9" * 400, b"-" + b"9" * 400, b"9007199254740993", b"\\ud800", b"\\u0000", b"\xff", b"\x00"),
    *(b'{"v":1}', b'"v":2', b"[[[[[[", b'"id"', b"1.0", b"[" * 3000, b'{"a":' * 3000),
]
EXAMPLES = [
    m.Ctl(ep=1, b="b", c=1, st="ONLINE", pace="lockstep", period=6000, hold=18000),
    m.Step(ep=1, t=2, up=3, g=[1, 2], u=1, ttl=100, pol="sha256:00", k=5, m=(4, 1, 0, 0)),
    m.Poll(ep=1, t=2, up=3, q="0123456789abcdef", w=1, ttl=100, ids=["h.r0", "h.r1"]),
    m.Reply(
        ep=1,
        t=2,
        q="0123456789abcdef",
        b="b",
        n=2,
        r=[m.Row("h.r0", 3, m.Flag.OK, 0, 2, 1), m.Row("h.r1", None, m.Flag.UNAVAILABLE, 9)],
    ),
    m.Done(ep=1, t=2, b="b", n=2, sim=12000),
    m.Conn(b="b", c=1, st="OFFLINE", n=2),
    m.Roster(
        b="b",
        pace="realtime",
        robots=m.RobotRange(prefix="h.r", count=9),
        S="s",
        G="g",
        A="a",
        have=["00"],
    ),
    m.Cmd(ep=1, id="c", op="HOLD", ttl=100, why="because"),
    m.Ack(b="b", id="c", ok=True),
    m.Event(b="b", code="drop", n=3, text="text"),
    m.Halt(ep=1, by="operator", why="fire"),
    m.LocalPolicy(S="s", G="g", A="a", pi_l=[[[0.5, 0.5]]]),
]


def survives(kind: type[m.Message], payload: bytes) -> bool:
    """Decode; anything but a message or `InputError` fails the test. Whether it was a message."""
    try:
        message = m.decode(kind, payload)
    except InputError:
        return False
    assert isinstance(message, kind)
    assert message.v == 1
    assert m.decode(kind, m.encode(message)) == message
    return True


def mutate(payload: bytes, chance: random.Random) -> bytes:
    """Damage a payload in one to four places."""
    data = bytearray(payload)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[at : at + chance.randint(1, 9)] = b""
            case 1:
                data[at:at] = chance.choice(TOKENS)
            case 2:
                data[at : at + chance.randint(1, 9)] = chance.choice(TOKENS)
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case 4:
                data[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(data)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(any_message, st.data())
def test_a_message_with_any_value_in_any_field_is_taken_or_refused(
    message: m.Message, data: st.DataObject
) -> None:
    table = json.loads(m.encode(message))
    field = data.draw(st.sampled_from(sorted(table)))
    table[field] = data.draw(json_values)
    for kind in (type(message), data.draw(st.sampled_from(KINDS))):
        survives(kind, json.dumps(table).encode())


@given(st.sampled_from(EXAMPLES), st.integers(0, 2**32))
def test_a_damaged_message_is_taken_or_refused(message: m.Message, seed: int) -> None:
    survives(type(message), mutate(m.encode(message), random.Random(seed)))


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_no_depth_size_or_number_gets_through_or_breaks_anything(message: m.Message) -> None:
    kind = type(message)
    assert survives(kind, m.encode(message))
    table = json.loads(m.encode(message))
    for field in table:
        rest = json.dumps({key: value for key, value in table.items() if key != field})[1:]
        for value in ("[" * 30_000 + "]" * 30_000, '{"a":' * 8_000 + "1" + "}" * 8_000, "9" * 9000):
            assert not survives(kind, f'{{"{field}":{value},{rest}'.encode())
            # In a field that this version does not know only the depth can be refused.
            survives(kind, f'{{"unknown":{value},{json.dumps(table)[1:]}'.encode())
    for major in (0, 2, 999, 1000, 2**64):
        assert not survives(kind, json.dumps({**table, "v": major}).encode())
    assert not survives(kind, b" " * 64_001)
    assert not survives(kind, m.encode(message) + b" " * 64_000)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_minute_of_damaged_messages_breaks_nothing() -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    payloads = [(type(message), m.encode(message)) for message in EXAMPLES]
    tried = taken = 0
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s:
        for kind, payload in payloads:
            damaged = mutate(payload, chance)
            try:
                taken += survives(kind, damaged)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {kind.__name__} {damaged!r}") from error
            tried += 1
    assert tried > 10_000
    assert 0 < taken < tried
