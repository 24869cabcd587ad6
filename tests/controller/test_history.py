# SPDX-License-Identifier: MIT
"""The history checker passes what the controller records, and sees each rule broken."""

import re
from typing import Any

import msgspec
import pytest

from kofn.controller.history import check_history, check_run
from kofn.controller.link.messages import Halt, Poll, Reply, Step
from kofn.controller.record import Entry, read_run
from kofn.controller.results import Decision

replace = msgspec.structs.replace


@pytest.fixture
def history(make_fleet: Any) -> list[Entry]:
    """The record of a whole run of two hosts."""
    fleet = make_fleet(4, 4)
    fleet.run(steps=4, k=4)
    assert check_run(fleet.folder.path) == []
    return list(read_run(fleet.folder.path))


def index(history: list[Entry], kind: type, number: int = 0) -> int:
    return [i for i, entry in enumerate(history) if isinstance(entry.message, kind)][number]


def changed(history: list[Entry], at: int, **fields: object) -> list[Entry]:
    entry = history[at]
    new = entry._replace(message=replace(entry.message, **fields))
    return [*history[:at], new, *history[at + 1 :]]


def broken(history: list[Entry], rule: str) -> list[Entry]:
    step, poll, reply = index(history, Step, 2), index(history, Poll), index(history, Reply)
    decision = index(history, Decision, 1)
    message: Any = history[decision].message
    asked: Any = history[poll].message
    if rule == "a step comes back":
        return changed(history, step, t=0)
    if rule == "an epoch falls":
        return changed(history, step, ep=0)
    if rule == "a robot is polled twice":
        return [*history[: poll + 1], history[poll], *history[poll + 1 :]]
    if rule == "two nonces":
        return [
            *history[: poll + 1],
            history[poll]._replace(message=replace(asked, q="f" * 16, ids=["other"])),
            *history[poll + 1 :],
        ]
    if rule == "a decision comes twice":
        return [*history[: decision + 1], history[decision], *history[decision + 1 :]]
    if rule == "a robot counts without a poll":
        return changed(history, decision, asked=[*message.asked, "ghost"])
    if rule == "a counted row was never given":
        return [*history[:reply], *history[reply + 1 :]]
    if rule == "a counted row came from another host":
        return [*history[:reply], history[reply]._replace(host="thief"), *history[reply + 1 :]]
    if rule == "more than k":
        return changed(history, decision, m=(*message.m[:3], 3))
    if rule == "more fresh than counted":
        return changed(history, decision, counts=[0] * len(message.counts))
    assert rule == "a step after a halt"
    halt = Entry("halt", "", Halt(ep=1, by="operator"), 0)
    return [*history[:step], halt, *history[step:]]


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("a step comes back", "step 0 of epoch 1 came after step 1 of epoch 1"),
        ("an epoch falls", "step 2 of epoch 0 came after step 1 of epoch 1"),
        ("a robot is polled twice", "polled robot .* twice"),
        ("two nonces", "with nonces"),
        ("a decision comes twice", "step 1 of epoch 1 was decided twice"),
        ("a robot counts without a poll", "as asked that were not: .'ghost'"),
        ("a counted row was never given", "polled robots gave"),
        ("a counted row came from another host", "polled robots gave"),
        ("more than k", "from 7 entries, k is 4"),
        ("more fresh than counted", r"counts 0 answers, says 4 \+ 0"),
        ("a step after a halt", "although epochs up to 1 were halted"),
    ],
)
def test_each_broken_rule_is_one_sentence(history: list[Entry], rule: str, sentence: str) -> None:
    wrong = check_history(broken(history, rule))
    assert wrong
    assert any(re.search(sentence, line) for line in wrong), wrong


def test_a_record_may_end_anywhere(history: list[Entry]) -> None:
    for end in range(len(history)):
        assert check_history(history[:end]) == []


def test_a_halt_of_an_older_epoch_forbids_nothing(history: list[Entry]) -> None:
    halt = Entry("halt", "", Halt(ep=0, by="operator"), 0)
    assert check_history([halt, *history]) == []
