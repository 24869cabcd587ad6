# SPDX-License-Identifier: MIT
"""Topics, broker addresses, rights, the bounded queue, clocks, and the host's log."""

import time
from collections import deque
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.link.address import BrokerAddress, parse_url
from kofn.controller.link.amqtt_access import covers
from kofn.controller.link.clock import FakeClock, MonotonicClock
from kofn.controller.link.credentials import (
    Role,
    hash_password,
    rights_of,
    verify_password,
)
from kofn.controller.link.hostlog import Header, HostLog, Poses, StepTaken, read_host_log
from kofn.controller.link.inbox import Inbox
from kofn.controller.link.mosquitto_config import acl_text
from kofn.controller.link.topics import Address, Topics, check_host, check_name
from kofn.controller.link.transport import Inbound

names = st.from_regex(r"\A[A-Za-z0-9_.:-]{1,64}\Z")


@given(names, st.sampled_from(["rep", "poll", "conn"]), names)
def test_a_topic_of_the_fleet_is_taken_apart_into_what_it_was_made_of(
    fleet: str, kind: str, name: str
) -> None:
    topics = Topics(fleet)
    assert topics.parse(topics.of(kind, name)) == Address(kind, name)
    assert topics.parse(topics.step) == Address("step", "")


@pytest.mark.parametrize(
    "topic", ["", "kofn1/f", "kofn1/g/step", "kofn2/f/step", "kofn1/f/rep/a/b"]
)
def test_a_foreign_topic_is_none(topic: str) -> None:
    assert Topics("f").parse(topic) is None


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a b", "x" * 65, "é", "a\n"])
def test_a_name_that_cannot_be_a_topic_level_is_bad_input(name: str) -> None:
    with pytest.raises(InputError, match="1 to 64 characters"):
        check_name("host", name)


@pytest.mark.parametrize("name", ["controller", "operator", "observer", "localiser"])
def test_reserved_names_are_no_hosts(name: str) -> None:
    with pytest.raises(InputError, match="is reserved"):
        check_host(name)


def test_both_sides_use_at_most_eight_filters_and_no_hash_sign() -> None:
    for filters in (Topics("f").controller_filters(), Topics("f").host_filters("h")):
        assert 7 <= len(filters) <= 8
        assert not any("#" in topic for topic, _ in filters)


def test_the_rights_of_a_role_cover_the_filters_that_it_subscribes_to() -> None:
    topics = Topics("f")
    cases: list[tuple[Role, tuple[tuple[str, int], ...]]] = [
        ("controller", topics.controller_filters()),
        ("host", topics.host_filters("h1")),
    ]
    for role, filters in cases:
        reads = rights_of(role, "f", "h1").reads
        assert {topic for topic, _ in filters} == set(reads)


def test_a_default_port_and_an_ipv6_address_are_understood() -> None:
    assert parse_url("mqtt://broker").tcp == ("broker", 1883)
    assert parse_url("mqtt://[::1]:1884/").tcp == ("::1", 1884)
    assert parse_url("mqtts://broker") == BrokerAddress("broker", 8883, tls=True)
    assert parse_url("mqtts://[::1]").url == "mqtts://[::1]:8883"


levels = st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=4)


@given(levels, levels, st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4))
def test_a_filter_that_covers_another_matches_whatever_the_other_matches(
    allowed: list[str], wanted: list[str], topic: list[str]
) -> None:
    def matches(pattern: list[str]) -> bool:
        return len(pattern) == len(topic) and all(
            p in ("+", t) for p, t in zip(pattern, topic, strict=True)
        )

    if covers("/".join(allowed), "/".join(wanted)) and matches(wanted):
        assert matches(allowed)
    assert covers("/".join(allowed), "/".join(topic)) == matches(allowed)


@pytest.mark.parametrize(
    ("allowed", "wanted", "expected"),
    [
        ("r/rep/+", "r/rep/#", False),
        ("r/rep/+", "r/#", False),
        ("r/rep/h", "r/rep/+", False),
        ("r/#", "r/rep/#", True),
        ("r/#", "r", True),
        ("r/rep/+", "r/rep/+", True),
        ("r/step", "r/step/x", False),
    ],
)
def test_covering_of_wildcards(allowed: str, wanted: str, expected: bool) -> None:
    assert covers(allowed, wanted) is expected


@given(
    st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30), st.text(max_size=30)
)
@example("a", "a\0")  # HMAC pads its key with NULs
def test_a_stored_password_is_verified_and_another_is_not(password: str, other: str) -> None:
    stored = hash_password(password)
    assert verify_password(password, stored)
    assert verify_password(other, stored) == (other == password)
    assert hash_password(password) != stored  # salted


def test_a_password_with_a_nul_is_refused() -> None:
    with pytest.raises(InputError, match="must not hold a NUL"):
        hash_password("a\0")


def test_the_acl_file_gives_each_user_its_own_topics_only() -> None:
    lines = acl_text("f", [("h1", "host"), ("o", "operator")])
    first, second = lines.split("user o\n")
    assert first.startswith("user h1\n")
    assert "topic write kofn1/f/rep/h1\n" in first
    assert second.splitlines() == [
        "topic write kofn1/f/halt",
        "topic read kofn1/f/ctl",
        "topic read kofn1/f/conn/+",
        "topic read kofn1/f/evt/+",
        "topic read kofn1/f/halt",
    ]


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(["step", "poll", "rep", None]), st.integers()), max_size=40),
)
def test_the_inbox_is_a_bounded_queue_that_keeps_the_newest(
    limit: int, events: list[tuple[str | None, int]]
) -> None:
    inbox = Inbox(limit, frozenset({"step"}))
    model: deque[tuple[str, int]] = deque()
    taken = dropped = superseded = 0
    for topic, value in events:
        if topic is None:
            got = inbox.take()
            wanted = model.popleft() if model else None
            assert (got and (got.topic, int(got.payload))) == wanted
            taken += wanted is not None
            continue
        inbox.put(Inbound(topic, b"%d" % value, False, 0.0))
        older = next((entry for entry in model if entry[0] == topic == "step"), None)
        if older is not None:
            model.remove(older)
            superseded += 1
        elif len(model) >= limit:
            model.popleft()
            dropped += 1
        model.append((topic, value))
    assert len(inbox) == len(model) <= limit
    assert (inbox.dropped, inbox.superseded) == (dropped, superseded)
    assert inbox.received == taken + dropped + superseded + len(model)


def test_take_wakes_up_when_a_message_comes() -> None:
    inbox = Inbox(4)
    message = Inbound("t", b"", False, 0.0)

    def send() -> None:
        time.sleep(0.05)
        inbox.put(message)

    sender = Thread(target=send)
    sender.start()
    start_s = time.monotonic()
    assert inbox.take(5.0) == message
    assert time.monotonic() - start_s < 2.0
    sender.join()


def test_an_inbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="queue limit 0 must be at least 1"):
        Inbox(0)


def test_a_fast_clock_shortens_waits_and_a_fake_one_never_goes_back() -> None:
    assert MonotonicClock(4.0).to_wall_s(2.0) == 0.5
    with pytest.raises(ValueError, match="above 0"):
        MonotonicClock(0.0)
    clock = FakeClock(3.0)
    clock.advance_to(5.0)
    clock.advance_to(4.0)
    assert clock.now() == 5.0


def test_a_host_log_with_a_torn_last_line_is_read_up_to_it(tmp_path: Path) -> None:
    header = Header(
        host="h",
        robots=["r0"],
        arena={"zones": 5.0},
        option_s=6.0,
        seed=1,
        backend="x",
        versions={},
    )
    step = StepTaken(ep=1, t=0, g=2, u=1, time_s=0.0, z=[3], a=[1])
    path = tmp_path / "deep" / "h.jsonl"
    with HostLog(path) as log:
        log.write(header)
        log.write(Poses(time_s=0.1, p=[(1.0, 2.0, 3.0)]))
        log.write(step)
    with path.open("ab") as file:
        file.write(b'{"row":"step","ep":1')
    assert list(read_host_log(path)) == [header, Poses(time_s=0.1, p=[(1.0, 2.0, 3.0)]), step]


def test_a_host_log_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write host log .*h\.jsonl: "):
        HostLog(tmp_path / "file" / "h.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_host_log_on_a_full_disk_is_one_sentence() -> None:
    log = HostLog(Path("/dev/full"))
    with pytest.raises(RunError, match="cannot write host log /dev/full: No space left on device"):
        log.write(StepTaken(ep=1, t=0, g=2, u=1, time_s=0.0, z=[3], a=[1]))
    with pytest.raises(RunError, match="cannot write host log /dev/full: No space left on device"):
        log.close()
    log.close()
