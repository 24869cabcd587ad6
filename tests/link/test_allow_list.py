# SPDX-License-Identifier: MIT
"""The allow-list: who may speak for which robots."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.allow_list import AllowList, Robots, parse_allow_list, read_allow_list
from kofn.controller.link.messages import RobotRange

TEXT = """
fleet = "plant"
[hosts.sim-0]
prefix = "sim-0.r"
count = 100
[hosts."cart:1"]
robots = ["cart.r0", "spare"]
[hosts.gate]
robots = []
"""


def test_each_robot_has_the_host_that_the_file_names() -> None:
    allowed = parse_allow_list(TEXT)
    assert allowed.fleet == "plant"
    assert allowed.owner("sim-0.r0") == allowed.owner("sim-0.r99") == "sim-0"
    assert allowed.owner("spare") == "cart:1"
    assert allowed.owner("sim-0.r100") is None
    assert allowed.owner("sim-0.r007") is None


def test_a_roster_may_select_and_never_add() -> None:
    allowed = parse_allow_list(TEXT)
    assert allowed.objection("cart:1", ["spare"]) == ""
    assert allowed.objection("cart:1", []) == ""
    assert allowed.objection("stranger", []) == "it is not on the allow-list"
    assert allowed.objection("cart:1", ["spare", "sim-0.r3"]) == (
        "robot sim-0.r3 is not its own on the allow-list"
    )
    assert allowed.objection("gate", ["a", "b", "c"]) == (
        "robot a and 2 more is not its own on the allow-list"
    )


names = st.from_regex(r"\A[A-Za-z0-9_.:-]{1,20}\Z").filter(
    lambda name: name not in {"controller", "operator", "observer", "localiser"}
)


@given(st.dictionaries(names, st.integers(1, 5), max_size=6))
def test_what_is_written_is_read_again(counts: dict[str, int]) -> None:
    hosts: dict[str, Robots] = {}
    for i, (host, count) in enumerate(counts.items()):
        by_name = tuple(f"{i}/{j}".replace("/", "-") for j in range(count))
        hosts[host] = by_name if i % 2 else RobotRange(prefix=f"r{i}.", count=count)
    allowed = AllowList.of("plant", hosts)
    assert parse_allow_list(allowed.to_toml()) == allowed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("fleet = ", "not TOML"),
        ("[hosts]", "missing required field `fleet`"),
        ('fleet = "a/b"', "fleet name 'a/b'"),
        ('fleet = "f"\nhost = 1', "unknown field `host`"),
        ('fleet = "f"\n[hosts.controller]\nrobots = ["a"]', "'controller' is reserved"),
        ('fleet = "f"\n[hosts.h]', "host 'h' needs either robots, or prefix and count"),
        ('fleet = "f"\n[hosts.h]\nprefix = "a"', "host 'h' needs either"),
        ('fleet = "f"\n[hosts.h]\nrobots = []\ncount = 1', "host 'h' needs either"),
        ('fleet = "f"\n[hosts.h]\nprefix = "a"\ncount = 0', "host 'h': Expected `int` >= 1"),
        ('fleet = "f"\n[hosts.h]\nprefix = "a b"\ncount = 1', "host 'h': Expected `str`"),
        ('fleet = "f"\n[hosts.h]\nrobots = ["a b"]', "robot name 'a b'"),
        ('fleet = "f"\n[hosts.h]\nrobots = ["a", "a"]', "robot a belongs to both h and h"),
        (
            'fleet = "f"\n[hosts.h]\nrobots = ["r1"]\n[hosts.i]\nprefix = "r"\ncount = 3',
            "robot r1 belongs to both h and i",
        ),
        (
            'fleet = "f"\n[hosts.h]\nprefix = "a"\ncount = 900000\n'
            '[hosts.i]\nprefix = "b"\ncount = 900000',
            "1800000 robots in the allow-list exceed the limit of 1000000",
        ),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_allow_list(text)
    assert sentence in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    with pytest.raises(InputError, match=r"cannot read allow-list .*hosts\.toml: No such file"):
        read_allow_list(path)
    path.write_bytes(b"fleet = '\xff'")
    with pytest.raises(InputError, match=r"^allow-list .*hosts\.toml: 'utf-8' codec"):
        read_allow_list(path)
    path.write_text(TEXT)
    assert read_allow_list(path).owner("spare") == "cart:1"
