# SPDX-License-Identifier: MIT
"""Codec: nothing but valid messages comes out, and nothing but InputError is raised."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link import messages as m
from kofn.controller.link.specification import ENTRIES, markdown

KINDS: list[type[m.Message]] = [
    m.Ctl, m.Step, m.Poll, m.Reply, m.Done, m.Conn, m.Roster, m.Cmd, m.Ack, m.Event, m.Halt,
    m.LocalPolicy,
]  # fmt: skip

names = st.from_regex(r"\A[A-Za-z0-9_.:-]{1,64}\Z")
nonces = st.from_regex(r"\A[0-9a-f]{16}\Z")
counts = st.integers(0, 2**53 - 1)
indices = st.integers(0, 2**31 - 1)
hashes = st.text(max_size=96)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
versions = st.lists(st.integers(1, 999), max_size=3)
presences = st.sampled_from(["ONLINE", "OFFLINE", "CONNECTION_BROKEN"])
paces = st.sampled_from(["lockstep", "realtime"])
rows = st.builds(
    m.Row, names, st.none() | indices, st.sampled_from(m.Flag), counts,
    st.none() | indices, st.none() | indices,
)  # fmt: skip
ranges = st.builds(
    m.RobotRange, prefix=st.from_regex(r"\A[A-Za-z0-9_.:-]{1,48}\Z"), count=st.integers(1, 10**6)
)
tables = st.lists(
    st.lists(st.lists(st.floats(0, 1, allow_nan=False), max_size=3), max_size=3), max_size=3
)
any_message = st.one_of(
    st.builds(
        m.Ctl, ep=counts, b=names, c=counts, st=presences, pace=paces, period=counts,
        hold=counts, proto=versions,
    ),
    st.builds(
        m.Step, ep=counts, t=counts, up=counts, g=indices | st.lists(indices, max_size=4),
        u=indices, ttl=counts, pol=hashes, k=indices, m=st.tuples(*[indices] * 4),
    ),
    st.builds(
        m.Poll, ep=counts, t=counts, up=counts, q=nonces, w=st.sampled_from([1, 2]), ttl=counts,
        ids=st.lists(names, max_size=5),
    ),
    st.builds(
        m.Reply, ep=counts, t=counts, q=nonces, b=names, n=counts, r=st.lists(rows, max_size=4)
    ),
    st.builds(m.Done, ep=counts, t=counts, b=names, n=counts, sim=counts),
    st.builds(m.Conn, b=names, c=counts, st=presences, n=counts),
    st.builds(
        m.Roster, b=names, pace=paces, robots=st.lists(names, max_size=5) | ranges, S=hashes,
        G=hashes, A=hashes, have=st.lists(hashes, max_size=4), proto=versions, sw=texts,
    ),
    st.builds(
        m.Cmd, ep=counts, id=names, op=st.sampled_from(["HOLD", "RESUME", "LEAVE", "REFUSED"]),
        ttl=counts, why=texts,
    ),
    st.builds(m.Ack, b=names, id=names, ok=st.booleans(), why=texts),
    st.builds(m.Event, b=names, code=names, n=counts, text=texts),
    st.builds(m.Halt, ep=counts, by=names, why=texts),
    st.builds(m.LocalPolicy, S=hashes, G=hashes, A=hashes, pi_l=tables),
)  # fmt: skip


@given(any_message)
def test_every_message_survives_the_round_trip(message: m.Message) -> None:
    assert m.decode(type(message), m.encode(message)) == message


@given(any_message, st.dictionaries(st.from_regex(r"\Ax_[a-z]{1,8}\Z"), st.integers() | st.text()))
def test_unknown_fields_are_ignored(message: m.Message, extra: dict[str, Any]) -> None:
    payload = json.dumps(json.loads(m.encode(message)) | extra).encode()
    assert m.decode(type(message), payload) == message


@given(any_message, st.integers(2, 999))
def test_another_major_version_is_refused(message: m.Message, version: int) -> None:
    payload = json.dumps(json.loads(m.encode(message)) | {"v": version}).encode()
    with pytest.raises(InputError, match=f"protocol version {version}, this side speaks 1"):
        m.decode(type(message), payload)


@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_input_errors(kind: type[m.Message], junk: bytes) -> None:
    with pytest.raises(InputError):
        m.decode(kind, junk)


@given(any_message, st.data())
def test_damaged_messages_raise_nothing_but_input_errors(
    message: m.Message, data: st.DataObject
) -> None:
    payload = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = m.decode(type(message), bytes(payload))
    except InputError:
        return
    assert isinstance(got, type(message))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"null",
        b"[" * 50_000,
        b'{"v":1,' + b'"x":[' * 9_000 + b"]" * 9_000 + b"}",
        b"\xff\xfe",
        b'{"ep":1e400,"by":"x"}',
        b'{"ep":NaN,"by":"x"}',
        b'{"ep":"\xed\xa0\x80","by":"x"}',
    ],
)
def test_hostile_payloads_are_bad_input(junk: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(InputError):
            m.decode(kind, junk)


def _event_of(size: int) -> bytes:
    head = b'{"v":1,"b":"x","code":"x","n":0,"text":"","pad":"'
    return head + b"a" * (size - len(head) - 2) + b'"}'


def test_the_size_limit_holds_to_the_byte_when_decoding() -> None:
    assert m.decode(m.Event, _event_of(m.MAX_PAYLOAD_BYTES))
    with pytest.raises(InputError, match="payload of 64001 bytes exceeds 64000 bytes"):
        m.decode(m.Event, _event_of(m.MAX_PAYLOAD_BYTES + 1))


def test_the_size_limit_holds_to_the_byte_when_encoding() -> None:
    def policy(spare: int) -> m.LocalPolicy:
        return m.LocalPolicy(S="a" * spare, G="", A="", pi_l=[[[0.5]] * 8_000])

    # "0.5" in brackets and a comma is 6 bytes; what is missing to the limit goes into S.
    missing = m.MAX_PAYLOAD_BYTES - len(m.encode(policy(0)))
    assert len(m.encode(policy(missing))) == m.MAX_PAYLOAD_BYTES
    with pytest.raises(InputError, match="LocalPolicy of 64001 bytes exceeds the limit of 64000"):
        m.encode(policy(missing + 1))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (m.Reply, {"ep": -1}),
        (m.Reply, {"t": 2**53}),
        (m.Reply, {"q": "ABCDEF0123456789"}),
        (m.Reply, {"q": "0" * 16 + "\n"}),
        (m.Reply, {"b": "a/b"}),
        (m.Reply, {"r": [["x", -1, 0, 0]]}),
        (m.Reply, {"r": [["x", 1, 4, 0]]}),
        (m.Reply, {"r": [["x", 1, 0]]}),
        (m.Reply, {"r": [["x" * 65, 1, 0, 0]]}),
        (m.Poll, {"w": 3}),
        (m.Poll, {"ids": ["a", "b\n"]}),
        (m.Conn, {"st": "online"}),
        (m.Step, {"m": [1, 2, 3]}),
        (m.Step, {"g": True}),
        (m.Roster, {"robots": {"prefix": "r", "count": 0}}),
        (m.Roster, {"robots": {"prefix": "r" * 49, "count": 1}}),
        (m.Event, {"text": "x" * 201}),
    ],
)
def test_a_value_out_of_range_is_bad_input(kind: type[m.Message], change: dict[str, Any]) -> None:
    good: dict[type[m.Message], m.Message] = {
        m.Reply: m.Reply(ep=1, t=1, q="0" * 16, b="b", n=1, r=[m.Row("x", 1, m.Flag.OK, 0)]),
        m.Poll: m.Poll(ep=1, t=1, up=0, q="0" * 16, w=1, ttl=1, ids=["x"]),
        m.Conn: m.Conn(b="b", c=1, st="ONLINE", n=1),
        m.Step: m.Step(ep=1, t=1, up=0, g=0, u=0, ttl=1, pol="", k=1, m=(1, 0, 0, 0)),
        m.Roster: m.Roster(b="b", pace="lockstep", robots=["x"], S="", G="", A="", have=[]),
        m.Event: m.Event(b="b", code="c", n=1),
    }
    payload = m.encode(good[kind])
    assert m.decode(kind, payload) == good[kind]
    with pytest.raises(InputError, match=f"not a {kind.__name__}"):
        m.decode(kind, json.dumps(json.loads(payload) | change).encode())


def test_a_row_of_four_entries_is_accepted() -> None:
    payload = b'{"v":1,"ep":1,"t":2,"q":"0123456789abcdef","b":"x","n":3,"r":[["r0",4,0,12]]}'
    assert m.decode(m.Reply, payload).r == [m.Row("r0", 4, m.Flag.OK, 12)]


def test_messages_on_the_wire_are_what_the_protocol_says() -> None:
    step = m.Step(ep=3, t=7, up=4200, g=2, u=1, ttl=2000, pol="sha256:ab", k=5, m=(5, 0, 0, 0))
    assert m.encode(step) == (
        b'{"v":1,"ep":3,"t":7,"up":4200,"g":2,"u":1,"ttl":2000,"pol":"sha256:ab","k":5,"m":[5,0,0,0]}'
    )
    reply = m.Reply(
        ep=3, t=7, q="0123456789abcdef", b="b1", n=10, r=[m.Row("r0", 4, m.Flag.STALE, 12, 3, 1)]
    )
    assert m.encode(reply) == (
        b'{"v":1,"ep":3,"t":7,"q":"0123456789abcdef","b":"b1","n":10,"r":[["r0",4,1,12,3,1]]}'
    )


@given(ranges.filter(lambda r: r.count < 1000))
def test_a_robot_range_names_its_robots(robots: m.RobotRange) -> None:
    got = m.robot_ids(robots)
    assert len(set(got)) == len(got) == robots.count
    assert got[0] == robots.prefix + "0"
    for name in (got[0], got[-1]):
        assert msgspec.convert(name, m.Name) == name


def test_the_specification_page_is_what_the_types_say() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
    assert page.read_text(encoding="utf-8") == markdown(), (
        "run: python -m kofn.controller.link.specification > docs/protocol.md"
    )


def test_every_message_has_an_example_that_decodes_to_itself() -> None:
    shown = {type(entry.example): entry.example for entry in ENTRIES}
    assert set(shown) == set(m.Message.__subclasses__())
    for kind, example in shown.items():
        assert m.decode(kind, m.encode(example)) == example


def test_examples_of_the_page_are_the_payloads_of_the_wire() -> None:
    blocks = re.findall(r"On `kofn1/yard/([^`]+)`:\n\n```json\n(.*?)\n```", markdown(), re.DOTALL)
    kinds = {entry.level: type(entry.example) for entry in ENTRIES}
    assert len(blocks) == len(ENTRIES)
    for level, payload in blocks:
        m.decode(kinds[level], payload.encode())
        if re.fullmatch(r"pol/[0-9a-f]{64}", level):
            assert hashlib.sha256(payload.encode()).hexdigest() == level.removeprefix("pol/")
