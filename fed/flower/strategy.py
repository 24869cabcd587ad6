# SPDX-License-Identifier: MIT
"""Client selection around any strategy of Flower.

::

    strategy = SelectedStrategy(FedAvg(), "mean-field", m=10, k=20)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=50)

Each round: who is online; the poll that the selector wants; its choice; then the inner strategy
configures the training as if the chosen nodes were all there are (`GridView`), and aggregates what
arrived. Polls and rounds end at their deadlines, whoever is silent; a round without any model by
then ends with the first. Messages and replies are sorted by client, so that sums do not depend on
the order of arrival.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from flwr.serverapp.strategy import Strategy

from kofn.controller.core.errors import InputError, RunError
from kofn.fed.flower import wire
from kofn.fed.flower.collecting import Clock, RealClock, Reply, collect
from kofn.fed.flower.grid_view import GridView, TimedGrid
from kofn.fed.flower.inner import check_inner, grows, least_evaluation_nodes, least_nodes, setting
from kofn.fed.flower.names import Names
from kofn.fed.flower.patience import WAIT_ON
from kofn.fed.flower.polling import poll
from kofn.fed.flower.round_log import RoundLog, RoundRecord
from kofn.fed.flower.timekeeping import Measured, Timekeeper, seen
from kofn.fed.flower.updates import Shapes, Told, n_bytes, outcome, shapes, sort_out, told
from kofn.fed.selectors import EPOCHS, Selection, Selector, check_sizes, make_selector
from kofn.fed.status import FIVE, Bins, Intake
from kofn.fed.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Result

_LOG = logging.getLogger(__name__)


class SelectedStrategy(Strategy):
    """`inner`, with the clients of each round chosen by `selector`.

    Parameters
    ----------
    inner : Strategy
        Any strategy of `flwr.serverapp` with fraction_train = 1.0 and minima of at most m nodes.
    selector : Selector or str
        A rule, or the name of one (`kofn.fed.selectors.SELECTORS`).
    m : int
        Clients that train in a round.
    k : int, optional
        Clients that are polled, for a rule given by its name.
    seed : int
        Of the selector's draws.
    bins : Bins
        Declared status bins; a status outside them is dropped and counted.
    poll_timeout_s, train_timeout_s : float
        How long the server waits for answers to a poll and for trained models at most, s.
    wait_for, wait_s : int, float
        `start` waits until so many clients are online, by default m, and gives up after that long.
    epochs : int
        Local epochs where neither the selector nor the client says otherwise.
    log : Path, optional
        File for one JSON line per round.
    timekeeper : Timekeeper, optional
        Simulated time; by default time is measured.
    clock : Clock, optional
        The machine's, unless a test wants another.

    Attributes
    ----------
    log : RoundLog
        Records of the rounds so far.
    intake : Intake
        Counts dropped statuses by client.
    """

    def __init__(
        self,
        inner: Strategy,
        selector: Selector | str,
        m: int,
        *,
        k: int | None = None,
        seed: int = 0,
        bins: Bins = FIVE,
        poll_timeout_s: float = 60.0,
        train_timeout_s: float = 3600.0,
        wait_for: int | None = None,
        wait_s: float = 600.0,
        epochs: int = 1,
        log: Path | None = None,
        timekeeper: Timekeeper | None = None,
        clock: Clock | None = None,
    ) -> None:
        if m < 1:
            raise InputError(f"m is {m}, but at least 1 client must train in a round")
        for what, seconds in (("poll", poll_timeout_s), ("train", train_timeout_s)):
            if not 0 < seconds < float("inf"):
                raise InputError(f"{what}_timeout_s {seconds} is not positive and finite")
        if isinstance(selector, str):
            # How many clients there will be is not known yet; k against m is.
            check_sizes(selector, n=max(m, k or 0), m=m, k=k)
            selector = make_selector(selector, k=k)
        elif k is not None:
            raise InputError("k belongs to a selector given by its name; this one has its own")
        check_inner(inner, m, selector.name)
        self.inner = inner
        self.selector = selector
        self.m = m
        self.seed = seed
        self.intake = Intake(bins)
        self.log = RoundLog(log)
        self._clock = clock or RealClock()
        self.timekeeper: Timekeeper = timekeeper or Measured(self._clock)
        self._poll_timeout_s = poll_timeout_s
        self._train_timeout_s = train_timeout_s
        self._wait_for = m if wait_for is None else wait_for
        self._wait_s = wait_s
        self._epochs = epochs
        self._names = Names(timeout_s=poll_timeout_s, clock=self._clock)
        self._registered: set[str] = set()
        self._ids: dict[str, int] = {}
        self._selection = Selection(clients=())
        self._record = RoundRecord(round=0)
        self._sent: Shapes | None = None
        self._model_bytes = 0
        self._replies: dict[str, Reply] = {}
        self._began = 0.0
        self._grace_s = 0.0

    # Flower's interface.

    def summary(self) -> None:
        """Log the settings of the inner strategy, and how clients are chosen."""
        _LOG.info("event=selection selector=%s m=%d", self.selector.name, self.m)
        self.inner.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds, as any strategy of Flower does.

        `timeout` bounds evaluations, and `train_timeout_s` both.

        Raises
        ------
        RunError
            When too few clients come online in time.
        """
        try:
            self._names.wait_for(grid, self._wait_for, timeout_s=self._wait_s)
            return super().start(
                TimedGrid(grid, self._send),
                initial_arrays,
                num_rounds,
                timeout,
                train_config,
                evaluate_config,
                evaluate_fn,
            )
        finally:
            self.selector.close()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Poll, choose, and let the inner strategy configure those chosen."""
        self._replies = {}
        self._model_bytes = n_bytes(arrays)
        self._record = record = RoundRecord(round=server_round)
        self._ids = self._names.online(grid)
        new = [name for name in self._ids if name not in self._registered]
        if new:
            self._registered.update(new)
            self.selector.register(new)
        online = self.timekeeper.online(list(self._ids))
        request = self.selector.wants(server_round, online, stream(self.seed, "w", server_round))
        statuses = poll(
            grid,
            request,
            {name: self._ids[name] for name in online},
            arrays,
            record,
            model_bytes=self._model_bytes,
            intake=self.intake,
            timekeeper=self.timekeeper,
            timeout_s=self._poll_timeout_s,
            clock=self._clock,
        )
        self.selector.observe(server_round, statuses)
        online = self.timekeeper.online(list(self._ids))
        record.online = len(online)
        selection = self.selector.select(
            server_round, online, self.m, stream(self.seed, "s", server_round)
        )
        self._check(selection, online)
        self._selection = selection
        least = least_nodes(self.inner)
        if len(selection.clients) < max(least, 1):
            record.skipped = (
                f"{len(selection.clients)} clients were chosen, "
                f"but the inner strategy needs {max(least, 1)}"
            )
            _LOG.warning("event=round_skipped round=%d reason=%r", server_round, record.skipped)
            self._selection = Selection(clients=())
            return []
        record.call, record.chosen = selection.call, sorted(selection.clients)
        self._grace_s = self.timekeeper.grace_s
        if selection.deadline_s is not None:
            record.deadline_s = self.timekeeper.deadline_s(selection.deadline_s)
        self._sent = None if grows(self.inner) else shapes(arrays)
        view = GridView(grid, [self._ids[name] for name in record.chosen])
        messages = self.inner.configure_train(server_round, arrays, config, view)
        ordered = sorted(messages, key=lambda m: self._names.name(m.metadata.dst_node_id))
        own = [self._with_settings(message) for message in ordered]
        record.bytes_model_down = sum(wire.size(message.content) for message in own)
        self._began = self._clock.monotonic()
        return own

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Tell the selector what came, and let the inner strategy aggregate it."""
        record, selection = self._record, self._selection
        try:
            if not selection.clients:
                self.selector.update(server_round, [])
                return None, None
            used = self._sift(server_round, replies)
            if not used:
                return None, None
            return self.inner.aggregate_train(server_round, used)
        except (AggregationError, InconsistentMessageReplies) as error:
            # Such as too few models for Krum: the next round may have more.
            record.skipped = f"no aggregation: {' '.join(str(error).split())}"
            _LOG.warning("event=round_skipped round=%d reason=%r", server_round, record.skipped)
            return None, None
        finally:
            record.at_s = self.timekeeper.now()
            self.log.write(record)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose among the nodes online, if they are enough."""
        ids = self._names.online(grid)
        least = least_evaluation_nodes(self.inner)
        if len(ids) < least:
            _LOG.warning(
                "event=evaluation_skipped round=%d online=%d needed=%d",
                server_round,
                len(ids),
                least,
            )
            return []
        view = GridView(grid, list(ids.values()))
        messages = self.inner.configure_evaluate(server_round, arrays, config, view)
        return sorted(messages, key=lambda m: self._names.name(m.metadata.dst_node_id))

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the evaluations that can be used."""
        named = {self._names.name(reply.metadata.src_node_id): reply for reply in replies}
        good, failed = sort_out(named, weight_key=self._weight_key, sent=None)
        for client, reason in failed.items():
            _LOG.warning(
                "event=evaluation_dropped round=%d client=%s reason=%r",
                server_round,
                client,
                reason,
            )
        return self.inner.aggregate_evaluate(server_round, list(good.values())) if good else None

    # One round.

    def _send(self, grid: Grid, messages: list[Message], timeout: float | None) -> list[Message]:
        """Send the messages of a training or an evaluation and return what came in time."""
        if messages and messages[0].metadata.message_type.split(".")[0] == "train":
            return self._collect_training(grid, messages)
        limit = min(self._train_timeout_s, float("inf") if timeout is None else timeout)
        replies = collect(grid, messages, timeout_s=limit, clock=self._clock)
        return [reply.message for reply in replies]

    def _collect_training(self, grid: Grid, messages: list[Message]) -> list[Message]:
        selection = self._selection
        limit, deadline, keep = self._train_timeout_s, None, None
        if not self.timekeeper.simulated:
            deadline, keep = self._record.deadline_s, selection.keep
            if deadline is not None:
                limit = min(limit, WAIT_ON * deadline)
        replies = collect(
            grid,
            messages,
            timeout_s=limit,
            deadline_s=deadline,
            keep=keep,
            clock=self._clock,
        )
        self._replies = {reply.message.metadata.reply_to_message_id: reply for reply in replies}
        return [reply.message for reply in replies]

    def _check(self, selection: Selection, online: list[str]) -> None:
        chosen = selection.clients
        if len(set(chosen)) < len(chosen):
            raise RunError(f"selector {self.selector.name} chose a client twice")
        absent = sorted(set(chosen) - set(online))
        if absent:
            raise RunError(f"selector {self.selector.name} chose {absent[0]}, which is not online")

    def _with_settings(self, message: Message) -> Message:
        """Return the message with the settings that the selection has for its client alone."""
        client = self._names.name(message.metadata.dst_node_id)
        settings = self._selection.per_client_config.get(client)
        key = setting(self.inner, "configrecord_key", "config")
        return wire.with_settings(message, key, settings) if settings else message

    def _sift(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Return the replies that count, in order of clients; tell the selector and the log."""
        record, selection = self._record, self._selection
        took = self._clock.monotonic() - self._began
        named: dict[str, Message] = {}
        came: dict[str, float] = {}
        for reply in replies:
            known = self._replies.get(reply.metadata.reply_to_message_id)
            node_id = reply.metadata.src_node_id if known is None else known.node_id
            name = self._names.name(node_id)
            if name in selection.clients and name not in named:
                named[name] = reply
                came[name] = took if known is None else known.seconds
        good, record.failed = sort_out(named, weight_key=self._weight_key, sent=self._sent)
        says = {name: told(reply, self._weight_key) for name, reply in good.items()}
        epochs = {name: self._epochs_of(name, says.get(name)) for name in selection.clients}
        observed = seen(
            selection.clients,
            {name: came[name] for name in good},
            took,
            down=record.bytes_model_down,
            up=sum(wire.size(reply.content) for reply in good.values()),
        )
        passed = self.timekeeper.train(
            selection,
            observed,
            epochs=epochs,
            server_round=server_round,
            model_bytes=self._model_bytes,
        )
        arrived = [name for name in passed.arrived if name in good]
        seconds = {**passed.waited, **passed.arrived}
        record.arrived = sorted(arrived)
        record.seconds = {name: round(seconds[name], 6) for name in record.chosen}
        record.train_s = passed.seconds
        record.bytes_model_down, record.bytes_model_up = passed.down, passed.up
        self.selector.update(
            server_round,
            [
                outcome(
                    name,
                    seconds[name],
                    says[name] if name in arrived else None,
                    epochs[name],
                    grace_s=self._grace_s,
                )
                for name in selection.clients
            ],
        )
        return [good[name] for name in record.arrived]

    def _epochs_of(self, client: str, says: Told | None) -> int:
        if says is not None and says.epochs is not None:
            return says.epochs
        asked = self._selection.per_client_config.get(client, {}).get(EPOCHS, self._epochs)
        return int(asked)

    @property
    def _weight_key(self) -> str:
        return setting(self.inner, "weighted_by_key", "num-examples")
