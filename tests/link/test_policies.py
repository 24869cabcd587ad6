# SPDX-License-Identifier: MIT
"""The local policy on the wire."""

import hashlib
from random import Random

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import (
    MAX_PAYLOAD_BYTES,
    LocalPolicy,
    Parts,
    decode,
    encode,
)
from kofn.controller.link.policies import (
    Assembler,
    pack_file,
    pack_policy,
    spaces_of,
    unpack_policy,
)
from kofn.hardware.local_policy import PolicyShelf


def random_policy(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(shape[2]), size=shape[:2])


@given(st.tuples(*[st.integers(1, 6)] * 3), st.integers(0, 2**32 - 1))
def test_pack_and_unpack_give_back_the_same_numbers(shape: tuple[int, int, int], seed: int) -> None:
    pi_l = random_policy(shape, seed)
    digest, payload = pack_policy(pi_l)
    assert hashlib.sha256(payload).hexdigest() == digest
    np.testing.assert_array_equal(unpack_policy(digest, payload), pi_l)


def test_one_changed_byte_is_noticed() -> None:
    digest, payload = pack_policy(random_policy((2, 3, 3), 0))
    with pytest.raises(InputError, match="does not hash to its topic"):
        unpack_policy(digest, payload[:-1] + b" ")


@given(st.binary(max_size=200))
def test_junk_under_its_own_hash_is_bad_input(junk: bytes) -> None:
    with pytest.raises(InputError):
        unpack_policy(hashlib.sha256(junk).hexdigest(), junk)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ([[[0.5, 0.6]]], "does not sum to 1"),
        ([[[1.5, -0.5]]], "no probability"),
        ([[[1.0], [0.5, 0.5]]], "different lengths"),
        ([], "has shape"),
        ([[[]]], "has shape"),
    ],
)
def test_a_table_that_is_no_policy_is_bad_input(
    table: list[list[list[float]]], sentence: str
) -> None:
    S, G, A = spaces_of(1, 1, 2)
    payload = encode(LocalPolicy(S=S, G=G, A=A, pi_l=table))
    with pytest.raises(InputError, match=sentence):
        unpack_policy(hashlib.sha256(payload).hexdigest(), payload)


def test_a_policy_for_other_spaces_than_it_says_is_bad_input() -> None:
    S, G, A = spaces_of(4, 1, 2)
    payload = encode(LocalPolicy(S=S, G=G, A=A, pi_l=[[[0.5, 0.5]]]))
    with pytest.raises(InputError, match="space hashes deny"):
        unpack_policy(hashlib.sha256(payload).hexdigest(), payload)


def test_spaces_of_different_sizes_or_kinds_have_different_hashes() -> None:
    hashes = [h for n in range(1, 30) for h in spaces_of(n, n, n)]
    assert len(set(hashes)) == len(hashes)


LARGE = random_policy((30, 40, 3), 1)  # 3600 numbers of some 20 digits


@given(st.randoms(use_true_random=False))
def test_parts_of_a_large_policy_may_come_in_any_order_and_twice(random: Random) -> None:
    file = pack_file(LARGE)
    assert len(file.messages) == 3  # two parts, and what lists them
    assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in file.messages.values())
    messages = list(file.messages.items()) * 2
    random.shuffle(messages)
    shelf = PolicyShelf(30, 40, 3)
    for digest, payload in messages:
        shelf.add(digest, payload)
    assert shelf.have == [f"sha256:{file.digest}"]
    np.testing.assert_allclose(shelf.cdf(shelf.have[0]), np.cumsum(LARGE, axis=-1), atol=1e-12)


def test_policy_that_fits_is_one_message_and_the_same_as_before() -> None:
    pi_l = random_policy((5, 5, 3), 0)
    file = pack_file(pi_l)
    assert (file.digest, list(file.messages.values())) == (
        pack_policy(pi_l)[0],
        [pack_policy(pi_l)[1]],
    )


def test_policy_above_three_megabytes_is_refused() -> None:
    with pytest.raises(InputError, match="exceeds the limit of 3000000 bytes"):
        pack_file(np.full((100, 1000, 2), 0.123456789123456789))


def test_parts_that_are_not_asked_for_are_kept_up_to_a_limit() -> None:
    assembler = Assembler(limit=1000)
    for i in range(100):
        part = b"x" * 90 + str(i).encode()
        assembler.add(hashlib.sha256(part).hexdigest(), part)
    assert sum(map(len, assembler._pieces.values())) <= 1000


def test_parts_of_another_length_than_announced_are_bad_input() -> None:
    file = pack_file(LARGE)
    head = decode(Parts, file.messages[file.digest])
    short = encode(msgspec.structs.replace(head, size=head.size - 1))
    assembler = Assembler()
    for digest, payload in file.messages.items():
        if digest != file.digest:
            assembler.add(digest, payload)
    with pytest.raises(InputError, match="bytes in its parts, not"):
        assembler.add(hashlib.sha256(short).hexdigest(), short)


def test_shelf_keeps_the_four_newest() -> None:
    shelf = PolicyShelf(2, 3, 3)
    files = [pack_file(random_policy((2, 3, 3), seed)) for seed in range(6)]
    for file in files:
        for digest, payload in file.messages.items():
            shelf.add(digest, payload)
    assert shelf.have == [f"sha256:{file.digest}" for file in files[2:]]
