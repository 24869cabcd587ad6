# SPDX-License-Identifier: MIT
"""What is written for a board is what its firmware accepts, and refusals agree."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from board_bench import settings_of
from robot.settings import SettingsError, check

from kofn.controller.core.errors import InputError
from kofn.hardware.board_settings import (
    BoardBroker,
    BoardSettings,
    to_der,
    token_hash,
    write_board_folder,
)

ADDRESS = BoardBroker(host="127.0.0.1")


def convert(**changes: Any) -> BoardSettings:
    fields = msgspec.to_builtins(settings_of("r0", ADDRESS)) | changes
    return msgspec.convert(fields, BoardSettings)


def test_the_firmware_accepts_what_is_written() -> None:
    fields = msgspec.json.decode(msgspec.json.encode(settings_of("r0", ADDRESS)))
    assert check(fields)["deadman_ms"] == 2000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("deadman_ms", 50), ("deadman_ms", 2500), ("link_ms", 100), ("tick_ms", 400),
        ("limits", {"v": -1}), ("limits", {"w": 99}), ("token_sha256", "0" * 63),
    ],
)  # fmt: skip
def test_both_sides_refuse_a_value_that_is_not_safe(key: str, value: object) -> None:
    with pytest.raises((InputError, msgspec.ValidationError)):
        convert(**{key: value})
    fields = msgspec.json.decode(msgspec.json.encode(settings_of("r0", ADDRESS)))
    if isinstance(value, dict):
        value = {**fields[key], **value}
    with pytest.raises(SettingsError):
        check({**fields, key: value})


def test_a_short_token_is_refused() -> None:
    with pytest.raises(InputError, match="at least 8"):
        token_hash("1234")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        write_board_folder(tmp_path, settings_of("r0", ADDRESS))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_no_certificate_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no PEM block"):
        to_der(b"hello", "ca.crt")
    text = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    with pytest.raises(InputError, match="encrypted"):
        to_der(text, "r0.key")
