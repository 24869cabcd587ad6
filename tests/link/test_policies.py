# SPDX-License-Identifier: MIT
"""The local policy on the wire."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kofn.controller.core.errors import InputError
from kofn.controller.link.messages import LocalPolicy, encode
from kofn.controller.link.policies import pack_policy, spaces_of, unpack_policy


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
