# SPDX-License-Identifier: MIT
"""A mosquitto without logins on a free port of this machine, that can be killed and frozen."""

import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kofn.controller.link.children import end_child, spawn_child

MOSQUITTO = shutil.which(
    "mosquitto", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin"
)


class PlainBroker:
    """A broker process; `start` after `kill` uses the same port."""

    def __init__(self, folder: Path, *, nodelay: bool = True) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
            f"set_tcp_nodelay {str(nodelay).lower()}\n"
        )
        self.process: Any = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = spawn_child([MOSQUITTO, "-c", str(self._config)], stderr=-3, stdout=-3)
        deadline_s = time.monotonic() + 15
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("mosquitto does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        end_child(self.process)


@contextmanager
def plain_broker(folder: Path, *, nodelay: bool = True) -> Iterator[PlainBroker]:
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto")
    broker = PlainBroker(folder, nodelay=nodelay)
    broker.start()
    try:
        yield broker
    finally:
        broker.end()
