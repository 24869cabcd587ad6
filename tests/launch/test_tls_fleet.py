# SPDX-License-Identifier: MIT
"""`kofn up` with a broker and certificates of `kofn ca`."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from kofn_process import Kofn, port_is_free

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.broker,
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not on PATH"),
]

HOSTS = "\n".join(
    f'[[hosts]]\nname = "{name}"\nrobots = 3\nworld = "finite"' for name in ("a", "b")
)
BROKER = '[broker]\ntls = "ca"\nsigned = true\n'


def test_a_whole_fleet_runs_with_certificates_and_signed_messages(
    kofn: Kofn, scenario: Callable[..., Path]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = str(scenario(hosts=BROKER + HOSTS))
    missing = kofn.run("up", path)
    assert missing.returncode == 2
    assert "no authority in ca; make one: kofn ca init" in missing.stderr
    kofn.json(
        *("ca", "init", "ca", "--fleet", "small", "--broker-name", "127.0.0.1"),
        *("--port", str(port), "--bind", "127.0.0.1"),
    )
    kofn.json("ca", "enroll", "a", "--count", "3")
    unlisted = kofn.run("up", path)
    assert unlisted.returncode == 2
    assert "enroll it: kofn ca enroll b --count 3 --dir ca" in unlisted.stderr
    kofn.json("ca", "enroll", "b", "--count", "3")
    result = kofn.json("up", path, "--no-video")
    assert (result["broker"], result["robots"]) == ("mosquitto", 6)
    assert result["replies_used"] == 2 * 4
    checked = kofn.json("replay", result["run_dir"], "--check")
    assert (checked["steps"], checked["wrong"]) == (4, [])
    assert port_is_free(port)
    # Messages are signed indeed: without a key nothing is started.
    keys = kofn.home / "ca" / "controller" / "message.keys"
    keys.write_text(keys.read_text().splitlines()[0] + "\n")
    keyless = kofn.run("up", path)
    assert keyless.returncode == 2
    assert "host 'b' has no message key" in keyless.stderr
