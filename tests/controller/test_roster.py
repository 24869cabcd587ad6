# SPDX-License-Identifier: MIT
"""Who is in the frame, for presence and roster messages in any order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.link.messages import Conn, RobotRange, Roster
from kofn.controller.link.policies import spaces_of
from kofn.controller.roster import Frame, RosterBook

SPACES = spaces_of(5, 5, 3)
POLICY = "ab" * 32


def conn(boot: str = "b1", connection: int = 1, state: Any = "ONLINE") -> Conn:
    return Conn(b=boot, c=connection, st=state, n=2)


def roster(*robots: str, **changes: Any) -> Roster:
    fields: dict[str, Any] = {
        "b": "b1",
        "pace": "lockstep",
        "robots": list(robots),
        "S": SPACES.S,
        "G": SPACES.G,
        "A": SPACES.A,
        "have": [POLICY],
    }
    return Roster(**(fields | changes))


def book(**hosts: Roster) -> RosterBook:
    made = RosterBook(SPACES, POLICY)
    for host, offer in hosts.items():
        made.on_conn(host, conn(offer.b))
        made.on_roster(host, offer)
    return made


def frame_of(made: RosterBook) -> Frame:
    """The frame as it is now: a type checker takes `made.frame` for the one it saw before."""
    return made.frame


def test_ids_are_sorted_and_owned() -> None:
    frame = book(z=roster("b", "d"), a=roster("c", "a")).frame
    assert frame.ids == ("a", "b", "c", "d")
    assert frame.host_of == {"a": "a", "b": "z", "c": "a", "d": "z"}


@given(st.permutations(range(6)))
def test_frame_does_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    made = RosterBook(SPACES, POLICY)
    offers = [roster(f"r{i}0", f"r{i}1") for i in range(3)]
    for item in order:
        host = f"h{item // 2}"
        if item % 2:
            made.on_conn(host, conn())
        else:
            made.on_roster(host, offers[item // 2])
    assert frame_of(made).ids == ("r00", "r01", "r10", "r11", "r20", "r21")


def test_range_stands_for_its_robots() -> None:
    offer = roster(robots=RobotRange(prefix="s-", count=3))
    assert book(h=offer).frame.ids == ("s-0", "s-1", "s-2")


def test_host_without_the_policy_waits_and_joins_when_it_holds_it() -> None:
    made = book(h=roster("a", have=["00" * 32]))
    assert frame_of(made).ids == ()
    assert "policy not held yet" in made.describe()
    made.on_roster("h", roster("a", have=["00" * 32, f"sha256:{POLICY}"]))
    assert frame_of(made).ids == ("a",)


def test_other_spaces_and_versions_are_refused_once_per_boot() -> None:
    made = RosterBook(SPACES, POLICY)
    made.on_conn("h", conn())
    other = roster("a", S=spaces_of(6, 5, 3).S)
    made.on_roster("h", other)
    (refusal,) = made.take_refusals()
    assert refusal.host == "h"
    assert refusal.why.startswith("zone space")
    made.on_roster("h", other)
    assert made.take_refusals() == []
    assert frame_of(made).ids == ()
    made.on_roster("h", roster("a", proto=[2, 3]))
    (refusal,) = made.take_refusals()
    assert refusal.why == "protocol versions [2, 3], this controller speaks [1]"
    made.on_conn("h", conn("b2"))
    made.on_roster("h", roster("a", b="b2", proto=[2, 3]))
    assert len(made.take_refusals()) == 1


def test_second_host_with_a_known_robot_is_refused_whole() -> None:
    made = book(first=roster("a", "b"))
    made.on_conn("second", conn())
    made.on_roster("second", roster("b", "c"))
    (refusal,) = made.take_refusals()
    assert refusal == ("second", "robot b already belongs to host first")
    assert frame_of(made).ids == ("a", "b")


def test_robots_of_a_host_that_left_are_free_again() -> None:
    made = book(first=roster("a", "b"), second=roster("b", "c"))
    made.on_conn("first", conn(state="OFFLINE"))
    assert frame_of(made).host_of == {"b": "second", "c": "second"}


def test_refused_host_blocks_nobody() -> None:
    made = book(odd=roster("a", G="no"), good=roster("a"))
    assert frame_of(made).host_of == {"a": "good"}


def test_row_14_a_host_whose_will_came_is_not_polled_but_an_older_will_does_not_count() -> None:
    made = book(h=roster("a"))
    made.on_conn("h", conn(connection=2))
    made.on_conn("h", conn(connection=1, state="CONNECTION_BROKEN"))
    assert frame_of(made).ids == ("a",)
    made.on_conn("h", conn(connection=1))
    made.on_conn("h", conn(connection=2, state="CONNECTION_BROKEN"))
    assert frame_of(made).ids == ()


def test_roster_of_another_boot_does_not_count() -> None:
    made = book(h=roster("a"))
    made.on_conn("h", conn("b2"))
    assert frame_of(made).ids == ()
    made.on_roster("h", roster("a", b="b2"))
    assert frame_of(made).ids == ("a",)


def test_dropped_host_returns_with_a_sign_of_life_or_a_new_connection() -> None:
    made = book(h=roster("a"))
    made.drop("h")
    assert frame_of(made).ids == ()
    made.on_conn("h", conn())  # a retained copy is no sign of life
    assert frame_of(made).ids == ()
    assert made.heard("h")
    assert not made.heard("h")
    assert frame_of(made).ids == ("a",)
    made.drop("h")
    made.on_conn("h", conn(connection=2))
    assert frame_of(made).ids == ("a",)


def test_one_realtime_host_makes_the_frame_realtime() -> None:
    made = book(sim=roster("a"), hw=roster("b", pace="realtime"))
    assert frame_of(made).pace == "realtime"
    assert frame_of(made).lockstep_hosts == {"sim"}
    made.on_conn("hw", conn(state="OFFLINE"))
    assert frame_of(made).pace == "lockstep"


def test_description_names_each_host_and_its_obstacle() -> None:
    assert RosterBook(SPACES, POLICY).describe() == "no host was heard"
    made = book(a=roster("r1", "r2"), b=roster("r3", have=[]), c=roster("r1"))
    made.on_conn("d", conn(state="OFFLINE"))
    made.on_conn("e", conn())
    assert made.describe() == (
        "a: 2 ready; b: policy not held yet; c: refused, robot r1 already belongs to host a; "
        "d: offline; e: no roster"
    )


def test_description_of_a_thousand_hosts_is_short_and_counts_by_reason() -> None:
    made = RosterBook(SPACES, POLICY)
    for i in range(1000):
        made.on_conn(f"h{i:03d}", conn(state="ONLINE" if i < 600 else "OFFLINE"))
        made.on_roster(f"h{i:03d}", roster(f"r{i}"))
    assert made.describe() == (
        "h000, h001, h002, h003, h004 and 595 more: 600 ready; "
        "h600, h601, h602, h603, h604 and 395 more: offline"
    )
    twins = RosterBook(SPACES, POLICY)
    for i in range(200):  # a hundred robots, each named by two hosts: a hundred reasons
        twins.on_conn(f"h{i:03d}", conn())
        twins.on_roster(f"h{i:03d}", roster(f"r{i % 100}"))
    assert len(twins.describe()) < 500
    assert twins.describe().endswith("95 more hosts for other reasons")
