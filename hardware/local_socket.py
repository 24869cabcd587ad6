# SPDX-License-Identifier: MIT
"""What an operator on the robot's own machine may ask of it, over a Unix socket (mode 0600).

One JSON line asks, one answers. `estop`, `disarm` and `status` need no token; `arm`, `clear`,
`release` and `home` do. No message of a broker reaches this socket.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from kofn.controller.core.errors import InputError, RunError

_log = logging.getLogger(__name__)

FILE = "agent.sock"
MAX_PATH_BYTES = 100
"""The operating system allows a little more; a longer path is refused with a sentence."""
MAX_LINE = 4096
TALK_TIMEOUT_S = 10.0
WRONG_TOKEN_S = 1.0
"""Pause after a wrong token: guessing takes for ever."""

Op = Literal["status", "arm", "disarm", "clear", "release", "estop", "home"]
NEEDS_TOKEN: frozenset[Op] = frozenset({"arm", "clear", "release", "home"})


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: `robot` None means every robot of the host, for stopping only."""

    op: Op
    robot: str | None = None
    token: str = ""
    for_s: float | None = None
    force: bool = False
    why: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """`why` holds one sentence for each thing that speaks against it."""

    ok: bool
    why: list[str] = msgspec.field(default_factory=list)
    robots: list[dict[str, Any]] = msgspec.field(default_factory=list)


class LocalSocket:
    """Serves one agent's socket in a thread of its own.

    Parameters
    ----------
    path
        Of the socket.
    handle
        Answers a request; called in the socket's thread.
    """

    def __init__(self, path: Path, handle: Callable[[Ask], Answer]) -> None:
        self._path, self._handle = _checked(path), handle
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: socket.socket | None = None

    def open(self) -> None:
        """Listen.

        Raises
        ------
        RunError
            Another agent listens there, or the socket cannot be made.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._path.exists():
                if _answers(self._path):
                    raise RunError(f"another agent of this host is running: it owns {self._path}")
                self._path.unlink()
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.bind(str(self._path))
            self._path.chmod(0o600)
            server.listen(4)
            server.settimeout(0.2)
        except OSError as error:
            raise RunError(f"cannot listen on {self._path}: {error.strerror}") from error
        self._server = server
        self._thread = threading.Thread(target=self._serve, name="local-socket")
        self._thread.start()

    def close(self) -> None:
        """Stop listening, remove the socket; idempotent."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        server = self._server
        assert server is not None  # noqa: S101
        while not self._end.is_set():
            try:
                peer, _ = server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with peer:
                try:
                    self._talk(peer)
                except Exception as error:  # noqa: BLE001  a peer must not end the service
                    _log.warning("local socket error=%s", error)

    def _talk(self, peer: socket.socket) -> None:
        peer.settimeout(1.0)
        try:
            ask = msgspec.json.decode(_read_line(peer), type=Ask)
        except (OSError, msgspec.MsgspecError) as error:
            answer = Answer(ok=False, why=[f"not a request: {error}"])
        else:
            answer = self._handle(ask)
            if any("token is wrong" in why for why in answer.why):
                time.sleep(WRONG_TOKEN_S)
        peer.sendall(msgspec.json.encode(answer) + b"\n")


def ask_agent(path: Path, ask: Ask) -> Answer:
    """Ask the agent whose socket is at `path`.

    Raises
    ------
    RunError
        No agent is running there, or it does not answer.
    """
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as peer:
            peer.settimeout(TALK_TIMEOUT_S)
            peer.connect(str(_checked(path)))
            peer.sendall(msgspec.json.encode(ask) + b"\n")
            return msgspec.json.decode(_read_line(peer), type=Answer)
    except (FileNotFoundError, ConnectionRefusedError):
        raise RunError(f"no agent is running here: nothing listens on {path}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise RunError(f"the agent at {path} does not answer: {error}") from error


def _read_line(peer: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_LINE * 16:
        part = peer.recv(MAX_LINE)
        if not part:
            break
        data += part
    return data


def _answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as peer:
        peer.settimeout(1.0)
        try:
            peer.connect(str(path))
        except OSError:
            return False
        return True


def _checked(path: Path) -> Path:
    size = len(os.fsencode(path))
    if size > MAX_PATH_BYTES:
        raise InputError(
            f"socket path {path} has {size} bytes, at most {MAX_PATH_BYTES} are possible: "
            "choose a shorter --state folder"
        )
    return path
