# SPDX-License-Identifier: MIT
"""Orders of the operator to a running controller, as files in its run folder.

    <run>/orders/<id>.json          written by the operator: an `Order`
    <run>/orders/<id>.answer.json   written by the controller: an `OrderAnswer`

The commands of the wire may be sent by the controller only; whoever may write into the run folder
may ask it to. Files need no port and no password of their own: their rights are the folder's.
Every file appears whole (written aside, then renamed).
"""

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from kofn.controller.core.errors import InputError, RunError
from kofn.controller.epoch import write_atomically
from kofn.controller.link.messages import Name, Text

log = logging.getLogger(__name__)

FOLDER = "orders"
_ANSWER = ".answer.json"
_MAX_BYTES = 64_000
_POLL_S = 0.05

Op = Literal["hold", "resume", "leave", "halt", "policy"]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator wants.

    Attributes
    ----------
    op
        "hold", "resume" or "leave" for `hosts`; "halt" for the whole fleet; "policy" to go over to
        the policy in `file` at a step boundary.
    why
        Kept in the record, shown to hosts.
    """

    op: Op
    hosts: list[Name] = []
    why: Text = ""
    file: str = ""


class OrderAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order; `hosts` names who did not comply, and why."""

    ok: bool
    text: str = ""
    hosts: dict[str, str] = {}


class OrderBox:
    """The controller's side.

    Parameters
    ----------
    folder
        The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._seen: set[str] = set()
        try:
            self._folder.mkdir(exist_ok=True)
            # Orders to an earlier controller in this folder are not ours to carry out.
            self._seen.update(path.name for path in self._folder.iterdir())
        except OSError as error:
            log.warning("orders=off reason=%s", error.strerror)

    def take(self) -> list[tuple[str, Order]]:
        """Return (id, order) that have come since the last call; refuse what is no order."""
        try:
            names = sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return []
        orders = []
        for name in names:
            if name in self._seen or name.startswith(".") or name.endswith(_ANSWER):
                continue
            self._seen.add(name)
            order_id, _, ending = name.partition(".")
            if ending != "json":
                continue
            try:
                payload = (self._folder / name).read_bytes()[:_MAX_BYTES]
                orders.append((order_id, msgspec.json.decode(payload, type=Order)))
            except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self.answer(order_id, OrderAnswer(ok=False, text=f"no order: {error}"))
        return orders

    def answer(self, order_id: str, answer: OrderAnswer) -> None:
        """Tell the operator what became of an order; a full disk does not stop the run."""
        try:
            path = self._folder / f"{order_id}{_ANSWER}"
            write_atomically(path, msgspec.json.encode(answer))
        except OSError as error:
            log.warning("order=%s answer=lost reason=%s", order_id, error.strerror)


def send_order(
    run: Path,
    order: Order,
    *,
    timeout_s: float,
    clock_s: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> OrderAnswer:
    """Give an order to the controller of run folder `run` and wait for its answer.

    Raises
    ------
    InputError
        No run folder, or one whose run is over.
    RunError
        No answer within `timeout_s` wall seconds.
    """
    if not (run / "run.mcap").is_file():
        raise InputError(f"{run} is not a run folder: it has no run.mcap")
    if (run / "summary.json").exists():
        raise InputError(f"the run in {run} is over: nobody is there to take orders")
    order_id = secrets.token_hex(8)
    answer_path = run / FOLDER / f"{order_id}{_ANSWER}"
    order_path = run / FOLDER / f"{order_id}.json"
    write_atomically(order_path, msgspec.json.encode(order))
    deadline_s = clock_s() + timeout_s
    while not answer_path.exists():
        if clock_s() >= deadline_s:
            order_path.unlink(missing_ok=True)
            raise RunError(
                f"the controller of {run} gave no answer within {timeout_s:g} s: does it run?"
            )
        pause(_POLL_S)
    return msgspec.json.decode(answer_path.read_bytes(), type=OrderAnswer)
