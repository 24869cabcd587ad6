# SPDX-License-Identifier: MIT
"""`Desk`: carries out what the operator orders while a run goes on.

Looks into the order box several times a second, never more often, whatever comes in; an order is
answered when every host that it names has acknowledged, or has failed to in time.
"""

import logging
from collections.abc import Callable

from kofn.controller.core.errors import InputError
from kofn.controller.fleet_link import FleetLink
from kofn.controller.link.clock import Clock
from kofn.controller.order_box import Order, OrderAnswer, OrderBox
from kofn.controller.orders import Result

log = logging.getLogger(__name__)


class Desk:
    """Between the order box and the link.

    Parameters
    ----------
    box
        Where orders come from.
    link
        Where commands go.
    clock, every_s
        Fleet time; how often to look for orders.
    halt
        Halts the fleet and ends the run; takes the reason.
    policy
        Begins to go over to the policy in a file; raises `InputError`.
    """

    def __init__(
        self,
        box: OrderBox,
        link: FleetLink,
        clock: Clock,
        every_s: float,
        *,
        halt: Callable[[str], None],
        policy: Callable[[str], str],
    ) -> None:
        self._box, self._link, self._clock, self._every_s = box, link, clock, every_s
        self._halt, self._policy = halt, policy
        self._next_s = clock.now()
        self._open: dict[str, dict[str, str | None]] = {}  # order -> host -> complaint, None: waits
        self._order_of: dict[str, str] = {}  # id of a command -> order

    def look(self) -> None:
        """Take new orders if it is time, and answer those that have been carried out."""
        for result in self._link.take_results():
            self._note(result)
        now_s = self._clock.now()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        for order_id, order in self._box.take():
            log.warning("order=%s op=%s hosts=%s", order_id, order.op, ",".join(order.hosts))
            try:
                self._begin(order_id, order)
            except InputError as error:
                self._box.answer(order_id, OrderAnswer(ok=False, text=str(error)))

    def _begin(self, order_id: str, order: Order) -> None:
        if order.op == "halt":
            self._box.answer(order_id, OrderAnswer(ok=True, text="the fleet is being halted"))
            self._halt(order.why)
            return
        if order.op == "policy":
            self._box.answer(order_id, OrderAnswer(ok=True, text=self._policy(order.file)))
            return
        if not order.hosts:
            raise InputError(f"{order.op}: no host was named")
        ids: list[str] = []
        waiting: dict[str, str | None] = {}
        for host in dict.fromkeys(order.hosts):
            try:
                ids.append(self._link.order(host, order.op, order.why).id)
                waiting[host] = None
            except InputError as error:
                waiting[host] = str(error)
        self._open[order_id] = waiting
        self._order_of.update(dict.fromkeys(ids, order_id))
        self._close_if_done(order_id)

    def _note(self, result: Result) -> None:
        order_id = self._order_of.pop(result.cmd.id, None)
        if order_id is None:
            return
        self._open[order_id][result.host] = "" if result.ok else result.why
        self._close_if_done(order_id)

    def _close_if_done(self, order_id: str) -> None:
        told = self._open[order_id]
        if any(complaint is None for complaint in told.values()):
            return
        del self._open[order_id]
        failed = {host: why for host, why in told.items() if why}
        text = f"{len(told) - len(failed)} of {len(told)} hosts complied"
        self._box.answer(order_id, OrderAnswer(ok=not failed, text=text, hosts=failed))
